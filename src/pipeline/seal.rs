//! The end of a run: every file is read back from the disk for its digests, its structure and its scales checked, and
//! given its final name.

use quant_kernels::first_not_finite;
use sha2::{Digest, Sha256};

use super::Job;
use super::journal::Entry;
use super::session::Session;
use crate::disk;
use crate::error::{Error, Result};
use crate::gguf::{File, Output};

/// Bytes read at a time, about.
const CHUNK: u64 = 4 << 20;

/// SHA-256 of a file and of its tensors' data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Of the whole file.
    pub file: [u8; 32],
    /// Of each tensor's data, without padding, in the file's order.
    pub tensors: Vec<[u8; 32]>,
}

/// Reads back, checks and renames. The digests are in the journal before the first name changes, so that a run killed
/// here can be finished too.
///
/// # Errors
/// If a file cannot be read, is not what an earlier run made, does not pass the check, or cannot be renamed.
pub fn seal(job: &Job, session: &mut Session) -> Result<Vec<Digests>> {
    let Session { outputs, journal, sealed, .. } = session;
    let mut all = Vec::with_capacity(outputs.len());
    let mut entries = Vec::with_capacity(outputs.len());
    for (output, number) in outputs.iter_mut().zip(job.files()) {
        if !output.is_renamed() {
            output.sync()?;
        }
        let digests = digests(job, output, &job.plan.files[number])?;
        if sealed.iter().any(|(file, sha256)| usize::from(*file) == number && *sha256 != digests.file) {
            let problem = format!("{} is not as it was left", output.current().display());
            return Err(Error::Resume { journal: journal.path().to_owned(), problem });
        }
        (job.check)(output.current())?;
        entries.push(Entry::File(number as u16, digests.file));
        all.push(digests);
    }
    journal.append(&entries)?;
    outputs.iter_mut().try_for_each(Output::finish)?;
    Ok(all)
}

fn digests(job: &Job, output: &Output, file: &File) -> Result<Digests> {
    let layout = &file.layout;
    let mut whole = Sha256::new();
    let mut tensors = Vec::with_capacity(file.tensors.len());
    let mut chunk = Vec::new();
    // The header, then each tensor and the padding behind it.
    let ends = layout.offsets.iter().copied().chain([layout.file_size]).skip(1);
    let sections = file.tensors.clone().zip(layout.offsets.iter().copied().zip(ends));
    let first = layout.offsets.first().copied().unwrap_or(layout.file_size);
    let header = (None, (0, first));
    for (tensor, (start, end)) in
        [header].into_iter().chain(sections.map(|(tensor, range)| (Some(tensor), range)))
    {
        let data = tensor.map_or(start, |tensor| start + job.plan.bytes(tensor));
        let block = tensor.map_or(1, |tensor| job.plan.format(tensor).block_bytes() as u64);
        let mut digest = Sha256::new();
        let mut at = start;
        while at < end {
            if job.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            chunk.resize((CHUNK / block * block).min(end - at) as usize, 0);
            output.read_at(at, &mut chunk)?;
            let of_tensor = &chunk[..data.saturating_sub(at).min(chunk.len() as u64) as usize];
            let (_, finite) = rayon::join(
                || whole.update(&chunk),
                || {
                    digest.update(of_tensor);
                    tensor.is_none_or(|tensor| first_not_finite(job.plan.format(tensor), of_tensor).is_none())
                },
            );
            if let Some(tensor) = tensor.filter(|_| !finite) {
                let name = &job.plan.model.tensors[tensor].name;
                let problem = format!("tensor \"{name}\" has a scale that is no finite number");
                return Err(Error::Gguf { file: output.current().display().to_string(), problem });
            }
            disk::forget(output.file(), at..at + chunk.len() as u64);
            at += chunk.len() as u64;
        }
        if tensor.is_some() {
            tensors.push(digest.finalize().into());
        }
    }
    Ok(Digests { file: whole.finalize().into(), tensors })
}
