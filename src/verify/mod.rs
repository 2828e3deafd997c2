//! Stage 5, verify: a finished file against its format, its manifest and its source. Streams; memory is a few buffers
//! a thread.

mod against;
mod bounds;
mod deviation;
mod manifest;
mod scan;
mod window;

use std::fmt;
use std::path::Path;

use rayon::ThreadPoolBuilder;
use serde::Serialize;

pub use against::{Compare, Compared, Row, Slice, against};
pub use bounds::Bounds;
pub use manifest::Manifest;

use crate::error::{Error, Result};
use crate::gguf::Parts;

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

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tensor {
            Some(tensor) => write!(f, "tensor \"{tensor}\": {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

/// What needs no source: structure, every split file, no scale that is NaN or infinite, and the hashes of a manifest.
///
/// The answer is the same for any number of threads; at most one problem is told of a tensor.
///
/// # Errors
/// If the structure is damaged ([`Parts::read`]), or the system cannot read.
pub fn check(path: &Path, threads: usize) -> Result<(Parts, Vec<Problem>)> {
    let parts = Parts::read(path)?;
    let manifest = Manifest::beside(&parts)?;
    let problems = on(threads, || scan::scan(&parts, manifest.as_ref()))??;
    Ok((parts, problems))
}

/// Runs `work` in a pool of `threads` threads.
fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::Argument(format!("cannot start {threads} threads: {e}")))?;
    Ok(pool.install(work))
}
