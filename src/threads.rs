//! Threads for work that is shared out to the current pool, which most functions of this crate do.

use std::thread::available_parallelism;

use rayon::ThreadPoolBuilder;

use crate::error::{Error, Result};

/// What the machine has; 1 where it does not tell.
pub fn available() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Does the work in a pool of `threads` threads. Results never depend on their number, in the whole crate.
///
/// # Errors
/// If the system does not start so many.
pub fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::Argument(format!("cannot start {threads} threads: {e}")))?;
    Ok(pool.install(work))
}
