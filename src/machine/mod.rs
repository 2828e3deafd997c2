//! What llama.cpp needs of a machine to run a file, and the largest file that runs well there. Pure; the model of
//! memory is stated in docs/machines.md.

mod command;
mod fit;
mod memory;
mod needs;

pub use fit::{Budget, Fit, Placement, RESERVE};
pub use memory::Memory;
pub use needs::{LayerBytes, Needs};

use serde::{Deserialize, Serialize};

/// Where a file is to run.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Machine {
    /// Bytes of memory that the operating system and llama.cpp may use.
    pub ram: u64,
    /// Bytes of memory of the graphics card, or of all together; 0 without one.
    pub vram: u64,
    /// Tokens that the KV cache holds.
    pub context: u64,
    /// Bytes a second that the disk reads, in pieces of an expert's rows.
    pub disk: u64,
    /// Tokens a second below which a file does not run well.
    pub slowest: f64,
}

impl Machine {
    /// Assumed of disks: an NVMe drive reads 3 GB/s and more.
    pub const DISK: u64 = 3_000_000_000;

    /// Assumed of users: two seconds for a token are still a conversation.
    pub const SLOWEST: f64 = 0.5;
}
