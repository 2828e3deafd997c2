//! One matrix to blocks, with feedback from block to block.

use std::ops::Range;

use faer::Accum;
use quant_kernels::Format;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::covariance::upper_factor;
use crate::error::Result;
use crate::forward::{Dense, one_thread};

/// Rows that a thread takes at a time. A row's blocks do not depend on the others.
const BAND: usize = 64;

/// What encoding needs to know of a segment of the columns.
pub struct Metric {
    /// The covariance of the inputs.
    pub covariance: Dense,
    /// The upper factor of its inverse.
    pub upper: Dense,
}

impl Metric {
    /// Of a covariance.
    ///
    /// # Errors
    /// If it has no factor, for inputs that are not finite.
    pub fn new(covariance: Dense) -> Result<Self> {
        let upper = upper_factor(&covariance)?;
        Ok(Self { covariance, upper })
    }
}

/// The blocks of a matrix whose inputs have these covariances, segment after segment.
///
/// The error is least when rows come out a little smaller than they were, which costs a model more than the error: each
/// row is brought back to the gain 1, x H y = x H x.
///
/// # Panics
/// If segments are no whole blocks, or do not add up to the rows.
pub fn encode(format: Format, weights: &Dense, metrics: &[Metric]) -> Vec<u8> {
    let (rows, columns) = (weights.rows(), weights.columns());
    let row_bytes = format.row_bytes(columns as u64) as usize;
    let mut blocks = vec![0; rows * row_bytes];
    let segments = segments(format, metrics);
    assert_eq!(segments.iter().map(|s| s.columns.len()).sum::<usize>(), columns, "the segments of a row");
    weights
        .values()
        .par_chunks(BAND * columns)
        .zip(blocks.par_chunks_mut(BAND * row_bytes))
        .for_each(|(weights, blocks)| band(format, weights, columns, &segments, blocks));
    blocks
}

/// A segment's part of a row, and what all bands need of its factor.
struct Segment<'a> {
    metric: &'a Metric,
    columns: Range<usize>,
    /// Where its blocks are in those of a row.
    bytes: Range<usize>,
    /// What weights are worth: what the ones to their right cannot make good.
    importance: Vec<f32>,
    /// The factor's own squares on the diagonal, one for each block.
    corners: Vec<Vec<f32>>,
}

fn segments(format: Format, metrics: &[Metric]) -> Vec<Segment<'_>> {
    let n = format.block_len();
    let (mut column, mut byte) = (0, 0);
    let mut segments = Vec::with_capacity(metrics.len());
    for metric in metrics {
        let upper = &metric.upper;
        let width = upper.columns();
        let columns = column..column + width;
        let bytes = byte..byte + format.row_bytes(width as u64) as usize;
        (column, byte) = (columns.end, bytes.end);
        let importance = (0..width).map(|i| 1.0 / (upper.row(i)[i] * upper.row(i)[i])).collect();
        let row = |b: usize, i: usize| &upper.row(b * n + i)[b * n..(b + 1) * n];
        let corner = |b: usize| (0..n).flat_map(|i| row(b, i).iter().copied()).collect();
        let corners = (0..width / n).map(corner).collect();
        segments.push(Segment { metric, columns, bytes, importance, corners });
    }
    segments
}

/// Some rows.
fn band(format: Format, weights: &[f32], columns: usize, segments: &[Segment], blocks: &mut [u8]) {
    let rows = weights.len() / columns;
    let row_bytes = blocks.len() / rows;
    // For each row x H x and x H y.
    let mut sums = vec![[0.0; 2]; rows];
    for segment in segments {
        let mut original = Dense::zeros(rows, segment.columns.len());
        for (to, from) in
            original.values_mut().chunks_exact_mut(segment.columns.len()).zip(weights.chunks_exact(columns))
        {
            to.copy_from_slice(&from[segment.columns.clone()]);
        }
        let mut encoded = vec![0; rows * segment.bytes.len()];
        feed(format, original.clone().values_mut(), &mut encoded, segment);
        add_gains(format, &original, &segment.metric.covariance, &encoded, &mut sums);
        for (to, from) in blocks.chunks_exact_mut(row_bytes).zip(encoded.chunks_exact(segment.bytes.len())) {
            to[segment.bytes.clone()].copy_from_slice(from);
        }
    }
    for (blocks, [xx, xy]) in blocks.chunks_exact_mut(row_bytes).zip(sums) {
        // Far from 1 only for rows of nothing.
        if xx < 2.0 * xy && xy < 2.0 * xx {
            quant_kernels::rescale(format, blocks, (xx / xy) as f32);
        }
    }
}

/// Encodes the rows of a segment block by block, each block's errors being taken up by the weights to its right.
fn feed(format: Format, weights: &mut [f32], blocks: &mut [u8], segment: &Segment) {
    let Segment { metric: Metric { upper, .. }, importance, corners, .. } = segment;
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

/// Adds what the rows of a segment give to x H x and x H y.
fn add_gains(format: Format, weights: &Dense, covariance: &Dense, blocks: &[u8], sums: &mut [[f64; 2]]) {
    let (rows, columns) = (weights.rows(), weights.columns());
    let mut carried = Dense::zeros(rows, columns);
    one_thread(carried.view_mut(), Accum::Replace, weights.view(), covariance.view());
    let mut decoded = vec![0.0; columns];
    for (row, (blocks, sums)) in blocks.chunks_exact(blocks.len() / rows).zip(sums).enumerate() {
        quant_kernels::dequantize(format, blocks, &mut decoded);
        let dot = |y: &[f32]| -> f64 {
            carried.row(row).iter().zip(y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        sums[0] += dot(weights.row(row));
        sums[1] += dot(&decoded);
    }
}
