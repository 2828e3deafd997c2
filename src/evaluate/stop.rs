//! An observer that ends the pass once the user wants to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::forward::{Inputs, Observer};

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
    fn see(&self, _input: Inputs<'_>) -> Result<()> {
        self.check()
    }

    fn wants_mixed(&self) -> bool {
        false
    }
}
