//! Which rows of a tensor are measured: some of every slice, spread over it, always the same. Pure.

use std::ops::Range;

use crate::chance::after;
use crate::model::TensorPlan;

/// Weights of a tensor that are measured, unless it has fewer, or its many slices need more.
const WEIGHTS: u64 = 1 << 18;

/// Rows of a slice, at least.
const ROWS: u64 = 2;

/// Slices that are measured of a tensor whose slices cost much to look at: transposed ones are read whole, and the
/// covariance of an expert's inputs takes long to factor.
const FEW: u64 = 16;

/// Weights that are measured of those.
const WEIGHTS_OF_FEW: u64 = 1 << 20;

/// Rows of some slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Expert or head.
    pub slice: usize,
    /// Rows of the output's slice, ascending.
    pub rows: Vec<u64>,
}

/// The rows of a tensor to be measured.
pub fn sample(tensor: &TensorPlan) -> Vec<Sample> {
    let transposed = tensor.slices.iter().any(|slice| slice.transposed);
    rows_of(tensor, if transposed { FEW } else { u64::MAX }, WEIGHTS)
}

/// Rows of a few slices, and more of each.
pub fn sample_of_few(tensor: &TensorPlan) -> Vec<Sample> {
    rows_of(tensor, FEW, WEIGHTS_OF_FEW)
}

/// So many weights at least, of as many slices at most.
fn rows_of(tensor: &TensorPlan, most: u64, weights: u64) -> Vec<Sample> {
    let slices = tensor.slices.len() as u64;
    let taken = slices.min(most);
    let rows = weights.div_ceil(tensor.columns() * taken).max(ROWS).min(tensor.rows());
    let seed = tensor.name.bytes().fold(0, |seed, byte| after(seed ^ u64::from(byte)));
    let slice = |index: u64| {
        let slice = place(index, taken, slices, seed);
        let seed = after(seed ^ (slice + 1));
        Sample {
            slice: slice as usize,
            rows: (0..rows).map(|n| place(n, rows, tensor.rows(), seed)).collect(),
        }
    };
    (0..taken).map(slice).collect()
}

/// Somewhere in the index-th of `parts` equal parts of `total`.
fn place(index: u64, parts: u64, total: u64, seed: u64) -> u64 {
    let Range { start, end } = index * total / parts..(index + 1) * total / parts;
    start + after(seed.wrapping_add(index)) % (end - start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Part, Role};

    fn tensor(shape: [u64; 3], transposed: bool) -> TensorPlan {
        let name = "blk.3.ffn_down_exps.weight".to_owned();
        let mut tensor = TensorPlan::of_file(name, Some(3), Role::Experts, Part::default(), shape.to_vec());
        tensor.slices.iter_mut().for_each(|slice| slice.transposed = transposed);
        tensor
    }

    #[test]
    fn every_expert_has_rows_and_they_spread() {
        for shape in [[2048, 7168, 256], [256, 256, 16], [256, 40, 1], [512, 1, 3]] {
            let found = sample(&tensor(shape, false));
            assert_eq!(found.len() as u64, shape[2]);
            for (index, sample) in found.iter().enumerate() {
                assert_eq!(sample.slice, index);
                assert!(sample.rows.is_sorted_by(|a, b| a < b) && sample.rows.iter().all(|&r| r < shape[1]));
                assert!(sample.rows.len() as u64 >= ROWS.min(shape[1]));
            }
            let weights = found.iter().map(|sample| sample.rows.len() as u64).sum::<u64>() * shape[0];
            assert!(weights >= WEIGHTS.min(shape.iter().product()), "{shape:?}");
            assert_eq!(sample(&tensor(shape, false)), found);
        }
        assert_eq!(sample(&tensor([128, 512, 128], true)).len(), 16);
        let few = sample_of_few(&tensor([2048, 7168, 256], false));
        assert_eq!((few.len(), few[3].rows.len()), (16, 32));
        assert_eq!(sample_of_few(&tensor([256, 40, 3], false)).len(), 3);
    }
}
