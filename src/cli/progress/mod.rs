//! Progress of long work, in one way for all commands: a bar on a terminal, lines elsewhere, JSON events for programs,
//! or nothing.
//!
//! ```text
//! quantize              pipeline::Event         ─> Making  ─┐
//! calibrate, evaluate   weights that are read   ─> Reading ─┼─> Display
//! verify, plan --size   progress::More          ────────────┘
//! ```

mod display;
mod making;
mod reading;

use std::io::{self, IsTerminal};

pub use display::Display;
pub use making::Making;
pub use reading::Reading;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar on stderr.
    Bar,
    /// Lines on stderr, the further apart the longer it takes.
    Lines,
    /// A JSON object a line on stdout.
    Json,
    /// Nothing.
    Quiet,
}

impl Style {
    /// On stderr, in the way that suits what is there, or not at all.
    pub fn talking(quiet: bool) -> Self {
        match quiet {
            true => Self::Quiet,
            false if io::stderr().is_terminal() => Self::Bar,
            false => Self::Lines,
        }
    }
}
