//! Codes of two bits of which a byte has those of four rows, a quarter of the matrix apart (BitNet): of `n` rows, row
//! `r + k n / 4` is in bits 2 k of the bytes of stored row `r`.

use std::ops::Range;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::Result;

/// Reads rows, a code a byte.
///
/// # Errors
/// If they cannot be read.
pub fn load(checkpoint: &Checkpoint, tensor: &Tensor, rows: Range<u64>, raw: &mut [u8]) -> Result<()> {
    let (quarter, columns) = (tensor.rows() / 4, tensor.columns());
    let (mut rest, mut start) = (raw, rows.start);
    while start < rows.end {
        let number = start / quarter;
        let end = rows.end.min((number + 1) * quarter);
        let (out, more) = rest.split_at_mut(((end - start) * columns) as usize);
        checkpoint.read_at(tensor, (start - number * quarter) * columns, out)?;
        out.iter_mut().for_each(|byte| *byte = *byte >> (2 * number) & 3);
        (rest, start) = (more, end);
    }
    Ok(())
}
