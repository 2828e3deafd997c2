//! Weights that are no longer read once the user wants to stop, and an observer that then ends the pass.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::forward::{Input, Observer, Weights};

/// The flag that becomes true when the user wants to stop.
#[derive(Clone, Copy, Debug)]
pub struct Stop<'a>(pub &'a AtomicBool);

impl Stop<'_> {
    /// Asked at every piece of work.
    ///
    /// # Errors
    /// If the user wants to stop.
    pub fn check(self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Looks at nothing but the flag.
impl Observer for Stop<'_> {
    fn see(&mut self, _input: Input<'_>) -> Result<()> {
        self.check()
    }

    fn wants_mixed(&self) -> bool {
        false
    }
}

/// Weights with a flag beside them.
pub struct Until<'a> {
    /// Where the weights come from.
    pub weights: &'a dyn Weights,
    /// The flag.
    pub stop: Stop<'a>,
}

impl Weights for Until<'_> {
    fn extent(&self, tensor: &str) -> Option<[usize; 3]> {
        self.weights.extent(tensor)
    }

    fn read(&self, tensor: &str, slice: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.stop.check()?;
        self.weights.read(tensor, slice, rows, out)
    }

    fn fault(&self, tensor: &str, problem: String) -> Error {
        self.weights.fault(tensor, problem)
    }
}
