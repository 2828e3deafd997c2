//! `--trace`, of the commands that compute for long.

use std::path::{Path, PathBuf};

use clap::Args;

#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Write what each thread did when, as a Chrome trace (opens in ui.perfetto.dev); tests/replay.py computes from it how
    /// long the work takes on other numbers of cores
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    trace: Option<PathBuf>,
}

impl TraceArgs {
    /// The file, if one is asked for.
    pub fn file(&self) -> Option<&Path> {
        self.trace.as_deref()
    }
}
