//! The model families: each is one file, and a line here. A family turns config.json into a [`Description`], and says
//! which metadata keys of its architecture spell that. Tensors, forward pass and all the rest follow from the
//! description.

mod builder;
mod deepseek2;
mod fields;
mod qwen3moe;
mod rope;
mod sampling;

use super::keys::{Reader, Writer};
use super::{Description, Options};
use crate::checkpoint::Checkpoint;
use crate::error::{Result, Warning};

pub use builder::Builder;
pub use sampling::describe as describe_sampling;

/// A GGUF architecture and the checkpoints that become it.
pub struct Family {
    /// GGUF's name of the architecture.
    pub arch: &'static str,
    /// Names in config.json's `architectures`.
    pub architectures: &'static [&'static str],
    /// Describes a checkpoint; see [`Model::plan`](super::Model::plan) for its errors.
    pub describe: fn(&Checkpoint, &Options) -> Result<Described>,
    /// Writes the architecture's keys.
    pub write: fn(&Description, &mut Writer),
    /// Reads them back.
    pub read: fn(&Reader) -> Result<Description>,
}

/// A checkpoint, described.
pub struct Described {
    /// The description.
    pub model: Description,
    /// Layers for multi-token prediction that the checkpoint may have and that are left out.
    pub left_out: std::ops::Range<u32>,
    /// Warnings about config.json.
    pub warnings: Vec<Warning>,
}

/// All families.
pub const FAMILIES: &[Family] = &[deepseek2::FAMILY, qwen3moe::FAMILY];
