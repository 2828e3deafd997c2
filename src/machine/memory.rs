//! A machine by its memory, for messages.

use std::fmt;

use super::Machine;
use crate::size::Size;

/// What memory a machine has, in words.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a>(&'a Machine);

impl Machine {
    /// What memory it has, in words: `20.00 GB (18.63 GiB) of memory`.
    pub fn memory(&self) -> Memory<'_> {
        Memory(self)
    }
}

impl fmt::Display for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of memory", Size(self.0.ram))?;
        match self.0.vram {
            0 => Ok(()),
            vram => write!(f, " and {} on the graphics card", Size(vram)),
        }
    }
}
