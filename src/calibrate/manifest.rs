//! `IMATRIX.json`, the manifest of an importance matrix: what work it is of, and what it holds. By it a job that is tried
//! again knows that there is nothing to do.

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Found;
use crate::disk;
use crate::error::{Error, Result};
use crate::gguf::beside;
use crate::whole;

/// A larger manifest is none.
const MAX_FILE: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Manifest {
    tool: String,
    /// Stands for everything that the importances depend on.
    work: String,
    /// Of the importance matrix.
    sha256: String,
    found: Found,
}

/// What was found by the work that made the file at `path`; None if it is not there, or is other work's or changed.
///
/// # Errors
/// If the system cannot read what is there.
pub fn made(path: &Path, work: &str) -> Result<Option<Found>> {
    let told = beside(path, ".json");
    if !path.is_file() || !told.is_file() {
        return Ok(None);
    }
    let fault = |problem: String| Error::io("read", &told, std::io::Error::other(problem));
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&whole::read(&told, MAX_FILE, fault)?) else {
        return Ok(None);
    };
    let sha256 =
        || File::open(path).and_then(|file| disk::sha256(&file)).map_err(|e| Error::io("read", path, e));
    Ok((manifest.work == work && manifest.sha256 == sha256()?).then_some(manifest.found))
}

/// Writes the manifest of the file that will be at `path`.
///
/// # Errors
/// If the system cannot.
pub fn write(path: &Path, work: &str, sha256: &str, found: &Found) -> Result<()> {
    let manifest = Manifest {
        tool: concat!("quantpress ", env!("CARGO_PKG_VERSION")).to_owned(),
        work: work.to_owned(),
        sha256: sha256.to_owned(),
        found: found.clone(),
    };
    let mut text = serde_json::to_vec_pretty(&manifest).expect("plain data is JSON");
    text.push(b'\n');
    let path = beside(path, ".json");
    disk::write_whole(&path, &text).map_err(|e| Error::io("write", &path, e))
}
