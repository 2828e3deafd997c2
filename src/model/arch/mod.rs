//! The model families: each is one file, and a line here.

mod builder;
mod deepseek2;
mod fields;
mod rope;
mod sampling;

use super::{Model, Options};
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// A GGUF architecture and the checkpoints that become it.
pub struct Family {
    /// Names in config.json's `architectures`.
    pub architectures: &'static [&'static str],
    /// Makes the plan; see [`Model::plan`] for its errors.
    pub plan: fn(&Checkpoint, &Options) -> Result<Model>,
}

/// All that is known.
pub const FAMILIES: &[Family] = &[deepseek2::FAMILY];
