//! `IMATRIX.json`, the manifest of an importance matrix: what work it is of, and what it holds. By it a repeated job
//! recognises that there is nothing to do.

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Found;
use crate::checkpoint::Seen;
use crate::disk;
use crate::error::{Error, Result, Warning};
use crate::identity::TOOL;
use crate::whole;

/// A larger manifest is none.
const MAX_FILE: u64 = 1 << 20;

/// The manifest of an importance matrix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    tool: String,
    /// Stands for everything that the importances depend on.
    work: String,
    /// Sizes and times of the checkpoint's shards when the work began.
    #[serde(default)]
    seen: Seen,
    /// SHA-256 of the importance matrix.
    sha256: String,
    found: Found,
}

/// What an earlier run has left under the file's name.
#[derive(Debug)]
pub enum Made {
    /// The file of this work.
    Whole(Manifest),
    /// A file of this work that was changed.
    Changed,
    /// Another one, or none.
    Other,
}

impl Manifest {
    /// The manifest of a file that is about to get its name.
    pub fn new(work: &str, seen: Seen, sha256: String, found: Found) -> Self {
        let tool = TOOL.to_owned();
        Self { tool, work: work.to_owned(), seen, sha256, found }
    }

    /// The result of the work that made it.
    pub fn found(&self) -> Found {
        self.found.clone()
    }

    /// The JSON that is written.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("plain data is JSON");
        text.push(b'\n');
        text
    }

    /// A warning, if shards have changed since then.
    pub fn changed(&self, path: &Path, now: &Seen) -> Option<Warning> {
        self.seen.changed(now, &format!("{} was made", path.display()), "if so, --force makes it anew")
    }

    /// Keeps it in a folder until its file has its name.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn promise(&self, path: &Path) -> Result<()> {
        disk::write_whole(path, &self.bytes()).map_err(|e| Error::io("write", path, e))
    }
}

/// Whether the file at `path` is made by the work, as the manifest at `told` says.
///
/// # Errors
/// If the system cannot read what is there.
pub fn made(path: &Path, told: &Path, work: &str) -> Result<Made> {
    if !path.is_file() || !told.is_file() {
        return Ok(Made::Other);
    }
    let fault = |problem: String| Error::io("read", told, std::io::Error::other(problem));
    let manifest = serde_json::from_slice::<Manifest>(&whole::read(told, MAX_FILE, fault)?);
    let Some(manifest) = manifest.ok().filter(|manifest| manifest.work == work) else {
        return Ok(Made::Other);
    };
    let sha256 =
        File::open(path).and_then(|file| disk::sha256(&file)).map_err(|e| Error::io("read", path, e))?;
    Ok(if manifest.sha256 == sha256 { Made::Whole(manifest) } else { Made::Changed })
}
