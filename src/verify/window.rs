//! The source of one slice of an output tensor, piece by piece, in the output's order.

use std::ops::Range;

use crate::checkpoint::{Checkpoint, Matrix, Values};
use crate::error::Result;
use crate::model::{Slice, TensorPlan};

/// Weights in a piece, unless a single row (or a transposed slice, which needs all of its window) has more.
const WEIGHTS: u64 = 1 << 20;

/// Calls `each` with the rows of a slice and their weights, from the first row to the last.
pub fn read(
    checkpoint: &Checkpoint,
    tensor: &TensorPlan,
    slice: &Slice,
    mut each: impl FnMut(Range<u64>, &[f32]) -> Result<()>,
) -> Result<()> {
    let matrix = Matrix::open(checkpoint, &slice.tensor)?;
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let (mut raw, mut weights) = (Vec::new(), Vec::new());
    if slice.transposed {
        weights.resize((rows * columns) as usize, 0.0);
        matrix.read(slice.rows.clone(), &mut raw, &mut weights, Values::Any)?;
        let stored_columns = weights.len() / columns as usize;
        let at = |row: usize, column: usize| weights[column * stored_columns + row];
        let turned: Vec<f32> = (0..rows as usize)
            .flat_map(|row| (0..columns as usize).map(move |column| at(row, column)))
            .collect();
        return each(0..rows, &turned);
    }
    let step = (WEIGHTS / columns).clamp(1, rows);
    let mut start = 0;
    while start < rows {
        let piece = start..rows.min(start + step);
        weights.resize(((piece.end - start) * columns) as usize, 0.0);
        matrix.read(
            slice.rows.start + start..slice.rows.start + piece.end,
            &mut raw,
            &mut weights,
            Values::Any,
        )?;
        start = piece.end;
        each(piece, &weights)?;
    }
    Ok(())
}
