//! How many pieces and threads a limit of memory allows. Pure.

use super::units::Needs;
use crate::error::{Error, Result};

/// What buffers may take unless the user says otherwise: this much,
const BASE: u64 = 32_000_000;

/// and this much for each thread.
const PER_THREAD: u64 = 16_000_000;

/// The buffers of a run, all of them made at its beginning and used again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Threads that quantize, each with room for a piece's weights as f32.
    pub threads: usize,
    /// Pieces between reader and writer, with room for their stored bytes and their blocks.
    pub pieces: usize,
}

/// The limit for this number of threads if none is given.
pub fn default_memory(threads: usize) -> u64 {
    BASE + PER_THREAD * threads as u64
}

impl Budget {
    /// The same of what `memory` leaves beside the buffers of a source that reads ahead.
    ///
    /// # Errors
    /// As [`Budget::new`].
    pub fn beside(buffers: u64, memory: u64, threads: usize, needs: Needs) -> Result<Self> {
        Self::new(memory.saturating_sub(buffers), threads, needs).map_err(|error| match error {
            Error::Memory { needed, .. } => Error::Memory { given: memory, needed: needed + buffers },
            error => error,
        })
    }

    /// Divides `memory` bytes: first the threads with three pieces for each, being read, quantized and written; what
    /// is left is for reading ahead. Fewer threads where it is not enough.
    ///
    /// # Errors
    /// If it is not enough for one thread.
    pub fn new(memory: u64, threads: usize, needs: Needs) -> Result<Self> {
        let each = needs.scratch + 3 * needs.piece;
        let threads = threads.min((memory / each.max(1)) as usize);
        if threads == 0 {
            return Err(Error::Memory { given: memory, needed: each });
        }
        let pieces = (memory - threads as u64 * needs.scratch) / needs.piece.max(1);
        // More than this only delays the end of an interrupted run.
        let pieces = pieces.min(threads as u64 * 64 + 64) as usize;
        Ok(Self { threads, pieces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs { piece: 3, scratch: 4 };

    #[test]
    fn the_buffers_stay_below_the_limit() {
        for memory in 13..400 {
            for threads in 1..20 {
                let Budget { threads, pieces } = Budget::new(memory, threads, NEEDS).expect("enough for one");
                assert!(threads as u64 * 4 + pieces as u64 * 3 <= memory);
                assert!(pieces >= 3 * threads);
            }
        }
        assert_eq!(Budget::new(26, 7, NEEDS).expect("enough"), Budget { threads: 2, pieces: 6 });
    }

    #[test]
    fn too_little_for_one_thread_is_an_error() {
        let error = Budget::new(12, 2, NEEDS).expect_err("too little").to_string();
        assert!(error.contains("12 bytes") && error.contains("need 13"), "{error}");
        let error = Budget::beside(100, 112, 2, NEEDS).expect_err("too little").to_string();
        assert!(error.contains("112 bytes") && error.contains("need 113"), "{error}");
        assert_eq!(Budget::beside(100, 126, 7, NEEDS).expect("enough"), Budget { threads: 2, pieces: 6 });
    }
}
