//! Whether the work was done before: then there is nothing to do, and a job that is tried again costs nothing.

use std::fs;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Job;
use super::journal::Journal;
use super::seal::names;
use super::session::{identity, journal_name};
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
    tensors: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    offset: u64,
    bytes: u64,
    sha256: String,
}

/// Whether every file of the job is there, made by the same work: its manifest says so, and size, header and the smallest
/// tensors are as they should be. What that work may have left of its journal is removed.
///
/// # Errors
/// If the system cannot read what is there.
pub fn made(job: &Job) -> Result<bool> {
    if job.force || job.restart {
        return Ok(false);
    }
    let identity = identity(job);
    let work: String = identity.work().iter().map(|byte| format!("{byte:02x}")).collect();
    for (name, file) in names(job).zip(job.files()) {
        if !is_made(job, &name, file, &work)? {
            return Ok(false);
        }
    }
    let journal = journal_name(job);
    if journal.exists() {
        let mut journal = Journal::open(&journal)?;
        if journal.resume(&identity).is_ok() {
            journal.remove()?;
        }
    }
    Ok(true)
}

fn is_made(job: &Job, name: &std::path::Path, file: usize, work: &str) -> Result<bool> {
    let layout = &job.plan.files[file].layout;
    if !name.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == layout.file_size) {
        return Ok(false);
    }
    let path = beside(name, ".json");
    if !path.is_file() {
        return Ok(false);
    }
    let fault = |problem| Error::Gguf { file: path.display().to_string(), problem };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&whole::read(&path, MAX_MANIFEST, fault)?) else {
        return Ok(false);
    };
    if manifest.work != work {
        return Ok(false);
    }
    let io = |e| Error::io("read", name, e);
    let file = fs::File::open(name).map_err(io)?;
    let mut found = vec![0; layout.header.len()];
    disk::read_exact_at(&file, 0, &mut found).map_err(io)?;
    if found != layout.header {
        return Ok(false);
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
            return Ok(false);
        }
        found.resize(bytes as usize, 0);
        disk::read_exact_at(&file, offset, &mut found).map_err(io)?;
        if Sha256::digest(&found).iter().map(|byte| format!("{byte:02x}")).collect::<String>() != sha256 {
            return Ok(false);
        }
    }
    Ok(true)
}
