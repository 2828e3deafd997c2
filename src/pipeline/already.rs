//! Recognises work that an earlier run has finished, so that a repeated job ends at once.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Job;
use super::journal::Journal;
use super::seal::names;
use super::session::{self, journal_name};
use crate::checkpoint::{Seen, hex};
use crate::disk;
use crate::error::{Error, Result, Warning};
use crate::gguf::beside;
use crate::identity;
use crate::whole;

/// A larger manifest is none; R1's has a megabyte.
const MAX_MANIFEST: u64 = 64 << 20;

/// Bytes of tensors that are held against their digests: a look, and no proof, which `verify` gives.
const LOOK: u64 = 64 << 20;

/// What an earlier run has left of a job's files.
#[derive(Debug)]
pub enum Found {
    /// All of them are whole: their SHA-256, and a warning about them if there is one.
    Made(Vec<String>, Option<Warning>),
    /// One of this very work that is not as it should be, and why.
    Damaged(PathBuf, String),
    /// Something else, or nothing.
    Other,
}

/// A file that may be of this work.
enum File {
    Whole(Manifest),
    Damaged(String),
    Other,
}

/// The fields of a manifest that say which work a file is of.
#[derive(Deserialize)]
struct Manifest {
    work: String,
    #[serde(default)]
    seen: Seen,
    sha256: String,
    /// Matrices of the checkpoint that looked damaged. They may have been mended since, outside of the fingerprint's
    /// sample.
    #[serde(default)]
    warnings: Vec<String>,
    tensors: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    offset: u64,
    bytes: u64,
    sha256: String,
}

/// Whether all files of the job are there, made by the same work: their manifests say so, and size, header and the
/// smallest tensors are as they should be. What that work may have left of its journal is removed.
///
/// # Errors
/// If the system cannot read what is there.
pub fn made(job: &Job) -> Result<Found> {
    if job.force || job.restart {
        return Ok(Found::Other);
    }
    let identity = session::identity(job);
    let work = identity::hex(&identity.work());
    let (mut digests, mut warning) = (Vec::new(), None);
    let now = Seen::of(job.checkpoint)?;
    for (name, number) in names(job).zip(job.files()) {
        match look(job, &name, number, &work)? {
            File::Whole(manifest) => {
                let (since, advice) = advice(&name);
                warning = warning.or_else(|| manifest.seen.changed(&now, &since, &advice));
                digests.push(manifest.sha256);
            }
            File::Damaged(problem) => return Ok(Found::Damaged(name, problem)),
            File::Other => return Ok(Found::Other),
        }
    }
    let journal = journal_name(job);
    if journal.exists() {
        let mut journal = Journal::open(&journal)?;
        if journal.resume(&identity).is_ok() {
            journal.remove()?;
        }
    }
    Ok(Found::Made(digests, warning))
}

/// SHA-256 of the file that a manifest tells of, if it is of this very work.
pub fn made_of(job: &Job, manifest: &[u8]) -> Option<String> {
    let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
    let is_of_this = manifest.work == identity::hex(&session::identity(job).work());
    (is_of_this && manifest.warnings.is_empty()).then_some(manifest.sha256)
}

fn advice(name: &Path) -> (String, String) {
    let name = name.display();
    let advice = format!("quantpress verify {name} --against CHECKPOINT tells, and --force makes it anew");
    (format!("{name} was made"), advice)
}

/// Holds a file of the plan against its manifest.
fn look(job: &Job, name: &Path, number: usize, work: &str) -> Result<File> {
    let layout = &job.plan.files[number].layout;
    let Ok(there) = name.symlink_metadata() else { return Ok(File::Other) };
    let path = beside(name, ".json");
    if !there.is_file() || !path.is_file() {
        return Ok(File::Other);
    }
    let fault = |problem| Error::Gguf { file: path.display().to_string(), problem };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&whole::read(&path, MAX_MANIFEST, fault)?) else {
        return Ok(File::Other);
    };
    if manifest.work != work {
        return Ok(File::Other);
    }
    if let Some(first) = manifest.warnings.first() {
        return Ok(File::Damaged(format!(
            "of weights that looked damaged and may have been mended since ({first})"
        )));
    }
    if there.len() != layout.file_size {
        return Ok(File::Damaged(format!("has {} bytes and not {}", there.len(), layout.file_size)));
    }
    let io = |e| Error::io("read", name, e);
    let file = fs::File::open(name).map_err(io)?;
    let mut found = vec![0; layout.header.len()];
    disk::read_exact_at(&file, 0, &mut found).map_err(io)?;
    if found != layout.header {
        return Ok(File::Damaged("its header was changed".to_owned()));
    }
    let mut tensors: Vec<&Tensor> = manifest.tensors.iter().collect();
    tensors.sort_by_key(|tensor| tensor.bytes);
    let mut looked = 0;
    for Tensor { name: tensor, offset, bytes, sha256 } in tensors {
        looked += bytes;
        if looked > LOOK {
            break;
        }
        if offset.checked_add(*bytes).is_none_or(|end| end > layout.file_size) {
            return Ok(File::Other);
        }
        found.resize(*bytes as usize, 0);
        disk::read_exact_at(&file, *offset, &mut found).map_err(io)?;
        if hex(&found) != *sha256 {
            return Ok(File::Damaged(format!(
                "tensor \"{tensor}\" was changed: it does not have the manifest's SHA-256"
            )));
        }
    }
    Ok(File::Whole(manifest))
}
