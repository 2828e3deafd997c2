//! The record of a unit that is in the file: errors, rows of zeros, checksum.

use twox_hash::XxHash3_64;

use super::Deviation;
use crate::zeros::Zeros;

/// What the journal keeps of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    /// How far its blocks are from the source.
    pub deviation: Deviation,
    /// Rows of the source that are zeros.
    pub zeros: Zeros,
    /// [`checksum`] of its blocks: what the file must still have when it is sealed, or when other work reads it.
    pub blocks: u64,
}

impl Done {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 56;

    /// Deviation, zeros, checksum, little-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let Zeros { rows, leading, trailing, longest } = self.zeros;
        let mut bytes = [0; Self::BYTES];
        bytes[..32].copy_from_slice(&self.deviation.to_bytes());
        for (bytes, rows) in bytes[32..48].chunks_exact_mut(4).zip([rows, leading, trailing, longest]) {
            bytes.copy_from_slice(&rows.to_le_bytes());
        }
        bytes[48..].copy_from_slice(&self.blocks.to_le_bytes());
        bytes
    }

    /// Back from [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let rows = |index: usize| u32::from_le_bytes(bytes[32..48].as_chunks().0[index]);
        Self {
            deviation: Deviation::from_bytes(bytes.first_chunk().expect("32 of 56 bytes")),
            zeros: Zeros { rows: rows(0), leading: rows(1), trailing: rows(2), longest: rows(3) },
            blocks: u64::from_le_bytes(*bytes.last_chunk().expect("8 of 56 bytes")),
        }
    }
}

/// XXH3 of blocks: it detects damage, at the speed of memory.
pub fn checksum(blocks: &[u8]) -> u64 {
    XxHash3_64::oneshot(blocks)
}
