//! All data of a file, once: no scale that is no number, and the hashes that the manifest has.

use std::path::Path;

use quant_kernels::first_not_finite;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use sha2::{Digest, Sha256};

use super::{Manifest, Problem};
use crate::checkpoint::{Folder, Source};
use crate::error::{Error, Result};
use crate::gguf::{Entry, Part, Parts};

/// Bytes read at a time, about.
const CHUNK: usize = 1 << 20;

/// The problems of all tensors in file order, then those of whole files. Runs in the current pool of threads.
pub fn scan(parts: &Parts, manifest: Option<&Manifest>) -> Result<Vec<Problem>> {
    let (tensors, files) = rayon::join(
        || {
            let entries: Vec<_> = parts.tensors().collect();
            let scan = |&(file, entry): &(usize, &Entry)| tensor(&parts.files[file], entry, manifest);
            entries.par_iter().map(scan).collect::<Result<Vec<_>>>()
        },
        || whole_files(parts, manifest),
    );
    let mut problems: Vec<Problem> = tensors?.into_iter().flatten().collect();
    if let Some(manifest) = manifest {
        problems.extend(manifest.absent(parts));
    }
    problems.extend(files?);
    Ok(problems)
}

fn tensor(part: &Part, entry: &Entry, manifest: Option<&Manifest>) -> Result<Option<Problem>> {
    let format = entry.format;
    let chunk = CHUNK / format.block_bytes() * format.block_bytes();
    let listed = manifest.and_then(|manifest| manifest.tensor(&entry.name));
    let mut hash = listed.map(|_| Sha256::new());
    let mut infinite = None;
    stream(&part.path, entry.offset, entry.bytes, chunk, |at, bytes| {
        if let Some(hash) = &mut hash {
            hash.update(bytes);
        }
        if infinite.is_none() {
            let before = at / format.block_bytes() as u64 * format.block_len() as u64;
            infinite = first_not_finite(format, bytes).map(|index| before + index as u64);
        }
    })?;
    if let Some(index) = infinite {
        let what = if format.is_float() { "the weight" } else { "the scale of the block" };
        let (row, column) = (index / entry.columns(), index % entry.columns());
        return Ok(Some(Problem::of(
            &entry.name,
            format!("{what} at row {row}, column {column} is no finite number"),
        )));
    }
    let (Some(listed), Some(hash)) = (listed, hash) else { return Ok(None) };
    Ok(listed.problem(entry, &hex(&hash.finalize())).map(|problem| Problem::of(&entry.name, problem)))
}

fn whole_files(parts: &Parts, manifest: Option<&Manifest>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for part in &parts.files {
        let Some(expected) = manifest.and_then(|manifest| manifest.file(&part.path)) else { continue };
        let mut hash = Sha256::new();
        stream(&part.path, 0, part.contents.file_size, CHUNK, |_, bytes| hash.update(bytes))?;
        let found = hex(&hash.finalize());
        if found != expected {
            let problem = format!("{}: SHA-256 is {found}; the manifest has {expected}", part.path.display());
            problems.push(Problem { tensor: None, problem });
        }
    }
    Ok(problems)
}

/// Reads a range of a file in pieces of `chunk` bytes; `each` gets their place in the range.
pub fn stream(
    path: &Path,
    offset: u64,
    bytes: u64,
    chunk: usize,
    mut each: impl FnMut(u64, &[u8]),
) -> Result<()> {
    let file = Folder::of_file(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut buffer = vec![0; chunk.min(bytes as usize)];
    let mut at = 0;
    while at < bytes {
        let buffer = &mut buffer[..(bytes - at).min(chunk as u64) as usize];
        file.read_at(&name, offset + at, buffer).map_err(|e| Error::io("read", path, e))?;
        each(at, buffer);
        at += buffer.len() as u64;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
