//! The checkpoint argument's options, for those that are not on this machine.

use std::path::{Path, PathBuf};

use clap::Args;

use super::progress::Style;
use super::{interrupt, size};
use crate::checkpoint::{Address, Checkpoint, Reach, Room};
use crate::error::Result;
use crate::log;

#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// A folder for what is read of a remote checkpoint, which later commands then find there; --gradients reads it twice
    /// itself. Without it nothing is kept
    #[arg(long, value_name = "DIR", env = "QUANTPRESS_CACHE", hide_env_values = true)]
    cache: Option<PathBuf>,

    /// The most that --cache takes on the disk. When it is full, what was not read for longest makes room, but nothing
    /// that this command has read
    #[arg(long, value_name = "SIZE", default_value = "100GB", value_parser = size::bytes, env = "QUANTPRESS_CACHE_SIZE", hide_env_values = true)]
    cache_size: u64,
}

impl RemoteArgs {
    /// Opens a checkpoint, wherever it is; of one that is far away it is said that this may take a while.
    ///
    /// # Errors
    /// As [`Checkpoint::open_with`].
    pub fn open(&self, checkpoint: &Path, style: Style) -> Result<Checkpoint> {
        if Address::of(checkpoint)?.is_some() && matches!(style, Style::Bar | Style::Lines) {
            log::say(format_args!("{}: index, headers and tokenizer are read", checkpoint.display()));
        }
        let cache = self.cache.clone().map(|folder| Room { folder, bytes: self.cache_size });
        Checkpoint::open_with(checkpoint, Reach { stop: interrupt::flag(), cache })
    }
}
