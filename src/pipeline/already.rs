//! Whether the work was done before: then there is nothing to do, and a job that is tried again costs nothing.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::journal::Journal;
use super::seal::names;
use super::session::{identity, journal_name};
use super::{Job, manifest};
use crate::checkpoint::hex;
use crate::disk;
use crate::error::{Error, Result};
use crate::gguf::beside;
use crate::whole;

/// A larger manifest is none; R1's has a megabyte.
const MAX_MANIFEST: u64 = 64 << 20;

/// Bytes of tensors that are held against their digests: a look, and no proof, which `verify` gives.
const LOOK: u64 = 64 << 20;

/// A manifest, as far as it tells whose work a file is.
#[derive(Deserialize)]
struct Manifest {
    work: String,
    sha256: String,
    /// What looked damaged in the checkpoint: it may have been mended since, where no sample of it looks.
    #[serde(default)]
    warnings: Vec<String>,
    tensors: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    offset: u64,
    bytes: u64,
    sha256: String,
}

/// The SHA-256 of every file of the job, if all are there, made by the same work: their manifests say so, and size, header
/// and the smallest tensors are as they should be. What that work may have left of its journal is removed.
///
/// # Errors
/// If the system cannot read what is there.
pub fn made(job: &Job) -> Result<Option<Vec<String>>> {
    if job.force || job.restart {
        return Ok(None);
    }
    let identity = identity(job);
    let work = manifest::text(&identity.work());
    let mut digests = Vec::new();
    for (name, file) in names(job).zip(job.files()) {
        match digest(job, &name, file, &work)? {
            Some(sha256) => digests.push(sha256),
            None => return Ok(None),
        }
    }
    let journal = journal_name(job);
    if journal.exists() {
        let mut journal = Journal::open(&journal)?;
        if journal.resume(&identity).is_ok() {
            journal.remove()?;
        }
    }
    Ok(Some(digests))
}

/// The SHA-256 of a file of the plan, if it is made.
fn digest(job: &Job, name: &Path, file: usize, work: &str) -> Result<Option<String>> {
    let layout = &job.plan.files[file].layout;
    if !name.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == layout.file_size) {
        return Ok(None);
    }
    let path = beside(name, ".json");
    if !path.is_file() {
        return Ok(None);
    }
    let fault = |problem| Error::Gguf { file: path.display().to_string(), problem };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&whole::read(&path, MAX_MANIFEST, fault)?) else {
        return Ok(None);
    };
    if manifest.work != work || !manifest.warnings.is_empty() {
        return Ok(None);
    }
    let io = |e| Error::io("read", name, e);
    let file = fs::File::open(name).map_err(io)?;
    let mut found = vec![0; layout.header.len()];
    disk::read_exact_at(&file, 0, &mut found).map_err(io)?;
    if found != layout.header {
        return Ok(None);
    }
    let mut tensors = manifest.tensors;
    tensors.sort_by_key(|tensor| tensor.bytes);
    let mut looked = 0;
    for Tensor { offset, bytes, sha256 } in tensors {
        looked += bytes;
        if looked > LOOK {
            break;
        }
        if offset.checked_add(bytes).is_none_or(|end| end > layout.file_size) {
            return Ok(None);
        }
        found.resize(bytes as usize, 0);
        disk::read_exact_at(&file, offset, &mut found).map_err(io)?;
        if hex(&found) != sha256 {
            return Ok(None);
        }
    }
    Ok(Some(manifest.sha256))
}
