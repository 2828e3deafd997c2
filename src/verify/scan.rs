//! Reads all data of the files that are here once: finds scales that are NaN or infinite and matrices of zeros, and
//! compares the hashes of the manifests.

use std::sync::atomic::AtomicBool;

use quant_kernels::first_not_finite;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use sha2::{Digest, Sha256};

use super::rows::ZeroRows;
use super::{Manifests, Problem};
use crate::error::{Result, Warning};
use crate::gguf::{Entry, Parts};
use crate::plain;
use crate::progress::{More, Told};

/// Bytes read at a time, about.
const CHUNK: usize = 1 << 20;

/// The findings about one tensor.
#[derive(Default)]
struct Seen {
    problem: Option<Problem>,
    warning: Option<Warning>,
}

/// The problems of all tensors in file order, then those of whole files; and what is suspicious. Runs in the current
/// pool of threads.
pub fn scan(
    parts: &Parts,
    manifests: &Manifests,
    stop: &AtomicBool,
    told: Told<'_>,
) -> Result<(Vec<Problem>, Vec<Warning>)> {
    let of_tensors: u64 = parts.tensors().map(|(_, entry)| entry.bytes).sum();
    let listed = parts.files.iter().enumerate().filter(|(number, _)| manifests.of_file(*number).is_some());
    let all = of_tensors + listed.map(|(_, part)| part.contents.file_size).sum::<u64>();
    let told = |of: &str, bytes| told(More { of, done: bytes, all, bytes });
    let (tensors, files) = rayon::join(
        || {
            let entries: Vec<_> = parts.tensors().collect();
            let scan = |&(file, entry): &(usize, &Entry)| tensor(parts, file, entry, manifests, stop, &told);
            entries.par_iter().map(scan).collect::<Result<Vec<_>>>()
        },
        || whole_files(parts, manifests, stop, &told),
    );
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    for Seen { problem, warning } in tensors? {
        problems.extend(problem);
        warnings.extend(warning);
    }
    problems.extend(manifests.problems(parts));
    problems.extend(files?);
    Ok((problems, warnings))
}

fn tensor(
    parts: &Parts,
    file: usize,
    entry: &Entry,
    manifests: &Manifests,
    stop: &AtomicBool,
    told: &(dyn Fn(&str, u64) + Sync),
) -> Result<Seen> {
    let (part, format) = (&parts.files[file], entry.format);
    let chunk = CHUNK / format.block_bytes() * format.block_bytes();
    let listed = manifests.of_file(file).and_then(|manifest| manifest.tensor(&entry.name));
    let mut hash = listed.map(|_| Sha256::new());
    let mut infinite = None;
    let mut zeros = ZeroRows::new(entry);
    part.stream(entry.offset, entry.bytes, chunk, stop, |at, bytes| {
        if let Some(hash) = &mut hash {
            hash.update(bytes);
        }
        if infinite.is_none() {
            let before = at / format.block_bytes() as u64 * format.block_len() as u64;
            infinite = first_not_finite(format, bytes).map(|index| before + index as u64);
        }
        zeros.add(bytes);
        told(&entry.name, bytes.len() as u64);
    })?;
    let warning = zeros
        .problem()
        .map(|problem| Warning::new(part.fault(Problem::of(&entry.name, problem).to_string())));
    let problem = match (infinite, listed, hash) {
        (Some(index), ..) => {
            let what = if format.is_float() { "the weight" } else { "the scale of the block" };
            let (row, column) = (index / entry.columns(), index % entry.columns());
            Some(format!("{what} at row {row}, column {column} is no finite number"))
        }
        (None, Some(listed), Some(hash)) => listed.problem(entry, &hex(&hash.finalize())),
        _ => None,
    };
    Ok(Seen { problem: problem.map(|problem| Problem::of(&entry.name, problem)), warning })
}

fn whole_files(
    parts: &Parts,
    manifests: &Manifests,
    stop: &AtomicBool,
    told: &(dyn Fn(&str, u64) + Sync),
) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (number, part) in parts.files.iter().enumerate() {
        let Some(manifest) = manifests.of_file(number) else { continue };
        let name = plain::path(&part.path);
        let found = part.sha256(stop, &|bytes| told(&name, bytes))?;
        if found != manifest.sha256 {
            let path = part.path.display();
            let problem = format!("{path}: SHA-256 is {found}; the manifest has {}", manifest.sha256);
            problems.push(Problem { tensor: None, problem });
        }
    }
    Ok(problems)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
