//! Stage 5, verify: checks a finished file against its format, its manifest and its source. Memory is a few buffers
//! for each thread.

mod against;
mod bounds;
mod deviation;
mod manifest;
mod origin;
mod rows;
mod scan;
mod slice;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

pub use against::{Compare, Compared, Row, Slice, against};
pub use bounds::Bounds;
pub use manifest::{Manifest, Manifests};

use crate::error::{Result, Warning};
use crate::gguf::Parts;
use crate::plain::plain;
use crate::progress::Told;
use crate::threads;

/// Something that is wrong with a file whose header is sound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Tensor in question, if it is about one.
    pub tensor: Option<String>,
    /// What was expected and what was found.
    pub problem: String,
}

impl Problem {
    fn of(tensor: &str, problem: impl Into<String>) -> Self {
        Self { tensor: Some(tensor.to_owned()), problem: problem.into() }
    }
}

/// On one line, whatever the file calls its tensors.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = plain(&self.problem);
        match &self.tensor {
            Some(tensor) => write!(f, "tensor \"{}\": {problem}", plain(tensor)),
            None => f.write_str(&problem),
        }
    }
}

/// How much was compared with the hashes of manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hashes {
    /// Every file.
    Checked,
    /// Some of the files; others have no manifest or are not here.
    Partly,
    /// Nothing: no file has a manifest.
    Absent,
}

/// A file, or the files of a split that are here, and what they showed without their source.
#[derive(Debug)]
pub struct Checked {
    /// Their headers.
    pub parts: Parts,
    /// Their manifests.
    pub manifests: Manifests,
    /// At most one of a tensor.
    pub problems: Vec<Problem>,
    /// Warnings: matrices of zeros, which may be as they were made.
    pub warnings: Vec<Warning>,
}

impl Checked {
    /// How much was compared with hashes.
    pub fn hashes(&self) -> Hashes {
        match (self.manifests.first(), self.unlisted().len() + self.parts.absent.len()) {
            (None, _) => Hashes::Absent,
            (Some(_), 0) => Hashes::Checked,
            (Some(_), _) => Hashes::Partly,
        }
    }

    /// The files here without a manifest, whose contents could not be compared.
    pub fn unlisted(&self) -> Vec<PathBuf> {
        self.manifests.missing(&self.parts)
    }
}

/// Checks that need no source: structure, every split file that is here, no scale that is NaN or infinite, no matrix
/// of zeros, and the hashes of the manifests.
///
/// The answer is the same for any number of threads.
///
/// # Errors
/// If the structure is damaged ([`Parts::read_here`]), the system cannot read, or `stop` became true.
pub fn check(path: &Path, threads: usize, stop: &AtomicBool, told: Told<'_>) -> Result<Checked> {
    let parts = Parts::read_here(path)?;
    let manifests = Manifests::beside(&parts)?;
    let (problems, warnings) = threads::on(threads, || scan::scan(&parts, &manifests, stop, told))??;
    Ok(Checked { parts, manifests, problems, warnings })
}
