//! Words of 32 bits whose codes belong to the rows of the stored matrix's other axis (GPTQ and AWQ): a row of weights is
//! a column there. Reading collects whole bands of rows, since a column by itself would be one small read for each word.

use std::ops::Range;

use super::codes::Packing;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::Result;

/// Bytes of a band in memory, unless a few rows have more.
const BAND: u64 = 8 << 20;

/// The place in a word of the column with this remainder by eight (AWQ).
const NIBBLES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The two ways in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// A column of words is a row of codes of so many bits, one after another (GPTQ).
    Words(u32),
    /// A word has a code of four bits for each of eight rows (AWQ).
    Nibbles,
}

impl Across {
    /// How the codes of a row lie once it is read.
    pub fn packing(self) -> Packing {
        match self {
            Self::Words(bits) => Packing::Dense(bits),
            Self::Nibbles => Packing::Dense(4),
        }
    }

    /// Bytes of a row once it is read.
    pub fn row_bytes(self, columns: u64) -> u64 {
        match self {
            Self::Words(bits) => (columns * u64::from(bits)).div_ceil(32) * 4,
            Self::Nibbles => columns.div_ceil(2),
        }
    }

    /// Rows in a band.
    pub fn band(self, tensor: &Tensor) -> u64 {
        (BAND / self.row_bytes(tensor.columns()).max(1)).max(32)
    }

    /// Reads rows and puts their codes one after another.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn load(
        self,
        checkpoint: &Checkpoint,
        tensor: &Tensor,
        rows: Range<u64>,
        raw: &mut [u8],
    ) -> Result<()> {
        let row_bytes = self.row_bytes(tensor.columns()) as usize;
        match self {
            Self::Words(_) => {
                let mut words = vec![0; (rows.end - rows.start) as usize * 4];
                for line in 0..row_bytes / 4 {
                    let first = line as u64 * tensor.rows() + rows.start;
                    checkpoint.read_at(tensor, first * 4, &mut words)?;
                    for (row, word) in raw.chunks_exact_mut(row_bytes).zip(words.as_chunks::<4>().0) {
                        row[line * 4..line * 4 + 4].copy_from_slice(word);
                    }
                }
            }
            Self::Nibbles => {
                let eights = rows.start / 8..rows.end.div_ceil(8);
                let mut words = vec![0; (eights.end - eights.start) as usize * 4];
                raw.fill(0);
                for column in 0..tensor.columns() {
                    let first = column * (tensor.rows() / 8) + eights.start;
                    checkpoint.read_at(tensor, first * 4, &mut words)?;
                    let (byte, high) = (column as usize / 2, column as u32 % 2 * 4);
                    let words = words.as_chunks::<4>().0;
                    for (row, out) in rows.clone().zip(raw.chunks_exact_mut(row_bytes)) {
                        let word = u32::from_le_bytes(words[(row / 8 - eights.start) as usize]);
                        out[byte] |= ((word >> (4 * NIBBLES[row as usize % 8]) & 15) << high) as u8;
                    }
                }
            }
        }
        Ok(())
    }

    /// The zero points of a group, one for each row.
    pub fn zeros(self, raw: &[u8], zeros: &mut [u8]) {
        match self {
            Self::Words(_) => self.packing().unpack(raw, zeros),
            Self::Nibbles => {
                for (zeros, word) in zeros.chunks_mut(8).zip(raw.as_chunks::<4>().0) {
                    let word = u32::from_le_bytes(*word);
                    for (zero, place) in zeros.iter_mut().zip(NIBBLES) {
                        *zero = (word >> (4 * place) & 15) as u8;
                    }
                }
            }
        }
    }
}
