//! The pieces of work: some rows of one slice of an output tensor, small enough that memory does not grow with the
//! model.

use std::ops::Range;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::{Model, Slice};

/// Weights in a piece, unless a single row (or a transposed slice, which needs all of its window) has more.
const WEIGHTS: u64 = 1 << 20;

/// Rows of one slice of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Place of the tensor in the model.
    pub tensor: usize,
    /// Expert or head.
    pub slice: usize,
    /// Rows of the output's slice.
    pub rows: Range<u64>,
}

/// All pieces of the model, in the order in which the shards hold what they need.
///
/// # Errors
/// If a tensor of the model is not in the checkpoint.
pub fn units(checkpoint: &Checkpoint, model: &Model) -> Result<Vec<Unit>> {
    let mut placed = Vec::new();
    for (tensor, plan) in model.tensors.iter().enumerate() {
        for (slice, Slice { tensor: source, rows: window, transposed }) in plan.slices.iter().enumerate() {
            let source = checkpoint.tensor(source)?;
            let rows = plan.rows();
            let step = if *transposed { rows } else { (WEIGHTS / plan.columns()).clamp(1, rows) };
            let row_bytes = source.bytes / source.rows();
            let mut start = 0;
            while start < rows {
                let end = rows.min(start + step);
                let first = window.start + if *transposed { 0 } else { start };
                let place = (&*source.shard, source.offset + first * row_bytes);
                placed.push((place, Unit { tensor, slice, rows: start..end }));
                start = end;
            }
        }
    }
    placed.sort_by_key(|(place, unit)| (*place, unit.tensor, unit.slice));
    Ok(placed.into_iter().map(|(_, unit)| unit).collect())
}
