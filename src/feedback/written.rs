//! The units that are in the file and their checksums, recorded in the journal or about to be.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::{Keeper, Work};

/// A checksum for each unit, 0 for none; one that happens to be 0 counts as 1.
#[derive(Debug)]
pub struct Written(Vec<AtomicU64>);

impl Written {
    /// What an earlier run has recorded.
    pub fn new(work: &Work, keeper: &Keeper) -> Self {
        let recorded = |unit| keeper.recorded(unit).map_or(0, |done| done.blocks.max(1));
        Self((0..work.units).map(|unit| AtomicU64::new(recorded(unit))).collect())
    }

    /// Whether the unit is in the file.
    pub fn has(&self, unit: u32) -> bool {
        self.0[unit as usize].load(Ordering::Relaxed) != 0
    }

    /// Whether these are the blocks of the unit.
    pub fn is(&self, unit: u32, checksum: u64) -> bool {
        self.0[unit as usize].load(Ordering::Relaxed) == checksum.max(1)
    }

    /// The unit is in the file now.
    pub fn put(&self, unit: u32, checksum: u64) {
        self.0[unit as usize].store(checksum.max(1), Ordering::Relaxed);
    }
}
