//! One matrix to blocks, with feedback from block to block.

use faer::Accum;
use quant_kernels::Format;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::forward::{Dense, one_thread};

/// Rows that a thread takes at a time. A row's blocks do not depend on the others.
const BAND: usize = 64;

/// The blocks of a matrix whose inputs have this covariance, and their inverse covariance the upper factor `upper`.
///
/// The error is least when rows come out a little smaller than they were, which costs a model more than the error: each
/// row is brought back to the gain 1, x H y = x H x.
///
/// # Panics
/// If rows are no whole blocks, or the factor is of another size.
pub fn encode(format: Format, weights: &mut Dense, covariance: &Dense, upper: &Dense) -> Vec<u8> {
    let (rows, columns) = (weights.rows(), weights.columns());
    assert_eq!((upper.rows(), upper.columns()), (columns, columns), "the factor for rows of {columns}");
    let n = format.block_len();
    // The weights of a block are worth what the ones to their right cannot make good.
    let importance: Vec<f32> = (0..columns)
        .map(|i| {
            let u = upper.row(i)[i];
            1.0 / (u * u)
        })
        .collect();
    let corners: Vec<Vec<f32>> = (0..columns / n)
        .map(|b| (0..n).flat_map(|i| upper.row(b * n + i)[b * n..(b + 1) * n].iter().copied()).collect())
        .collect();
    let row_bytes = format.row_bytes(columns as u64) as usize;
    let mut blocks = vec![0; rows * row_bytes];
    weights
        .values_mut()
        .par_chunks_mut(BAND * columns)
        .zip(blocks.par_chunks_mut(BAND * row_bytes))
        .for_each(|(weights, blocks)| {
            let original = Dense::new(columns, weights.to_vec());
            band(format, weights, blocks, upper, &importance, &corners);
            restore_gain(format, &original, covariance, blocks);
        });
    blocks
}

fn band(
    format: Format,
    weights: &mut [f32],
    blocks: &mut [u8],
    upper: &Dense,
    importance: &[f32],
    corners: &[Vec<f32>],
) {
    let columns = upper.columns();
    let rows = weights.len() / columns;
    let (n, bytes) = (format.block_len(), format.block_bytes());
    let row_bytes = blocks.len() / rows;
    let mut now = vec![0.0; rows * n];
    let mut encoded = vec![0; rows * bytes];
    let mut errors = Dense::zeros(rows, n);
    for (b, corner) in corners.iter().enumerate() {
        let (start, end) = (b * n, (b + 1) * n);
        for (now, row) in now.chunks_exact_mut(n).zip(weights.chunks_exact(columns)) {
            now.copy_from_slice(&row[start..end]);
        }
        quant_kernels::quantize(format, &now, n, Some(&importance[start..end]), &mut encoded);
        for (row, errors) in errors.values_mut().chunks_exact_mut(n).enumerate() {
            let block = &mut encoded[row * bytes..(row + 1) * bytes];
            quant_kernels::feed(format, block, &mut now[row * n..(row + 1) * n], corner, errors);
            blocks[row * row_bytes + b * bytes..][..bytes].copy_from_slice(block);
        }
        if end < columns {
            let mut rest = Dense::zeros(rows, columns - end);
            let below = upper.view().submatrix(start, end, n, columns - end);
            one_thread(rest.view_mut(), Accum::Replace, errors.view(), below);
            for (weights, rest) in
                weights.chunks_exact_mut(columns).zip(rest.values().chunks_exact(columns - end))
            {
                weights[end..].iter_mut().zip(rest).for_each(|(weight, rest)| *weight -= rest);
            }
        }
    }
}

/// Multiplies each row's scales by x H x / x H y.
fn restore_gain(format: Format, weights: &Dense, covariance: &Dense, blocks: &mut [u8]) {
    let (rows, columns) = (weights.rows(), weights.columns());
    let row_bytes = blocks.len() / rows;
    let mut carried = Dense::zeros(rows, columns);
    one_thread(carried.view_mut(), Accum::Replace, weights.view(), covariance.view());
    let mut decoded = vec![0.0; columns];
    for (row, blocks) in blocks.chunks_exact_mut(row_bytes).enumerate() {
        quant_kernels::dequantize(format, blocks, &mut decoded);
        let dot = |y: &[f32]| -> f64 {
            carried.row(row).iter().zip(y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let (xx, xy) = (dot(weights.row(row)), dot(&decoded));
        // Far from 1 only for rows of nothing.
        if xx < 2.0 * xy && xy < 2.0 * xx {
            quant_kernels::rescale(format, blocks, (xx / xy) as f32);
        }
    }
}
