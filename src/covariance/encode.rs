//! Encodes a matrix with error feedback from block to block, from left to right.

use dense_kernels::{Accum, Dense, Strips, View, one_thread, with_panels};
use quant_kernels::{Feed, Format, LARGEST};
use rayon::iter::IndexedParallelIterator;
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::metric::{Metric, Step};
use super::outputs::Coupling;
use crate::threads;

/// Rows that a thread encodes at a time, so that panels are loaded into its caches once for all of them: whole strips of the
/// products' kernels, and whole vectors of those that feed errors back. A row's blocks do not depend on the other rows.
const BAND: usize = 240;

/// Encodes `weights`, whose inputs have these metrics, one for each segment of the columns. Returns the blocks, row
/// after row.
///
/// Minimising the error shrinks each row slightly, and the shrinkage hurts the model more than the error does; so
/// each row is rescaled to unit gain, x H y = x H x, as far as the metric's sketch tells.
///
/// # Panics
/// If segments are no whole blocks, or do not add up to the rows.
pub fn encode(format: Format, weights: &Dense, metrics: &[Metric]) -> Vec<u8> {
    let (rows, columns) = (weights.rows(), weights.columns());
    let row_bytes = format.row_bytes(columns as u64) as usize;
    let mut blocks = vec![0; rows * row_bytes];
    let known = metrics.iter().flat_map(|metric| &metric.steps).map(|step| step.columns.len());
    assert_eq!(known.sum::<usize>(), columns, "the columns of all segments");
    let bands = weights.values().par_chunks(BAND * columns).zip(blocks.par_chunks_mut(BAND * row_bytes));
    threads::each("encode", bands.with_max_len(1), |(weights, blocks)| {
        band(format, weights, columns, metrics, blocks);
    });
    blocks
}

/// The same, each row taking up besides what errors of the rows before it leave for it.
///
/// # Panics
/// As [`encode`], and if there are not as many rows as the coupling has.
pub fn encode_coupled(format: Format, weights: &Dense, metrics: &[Metric], coupling: &Coupling) -> Vec<u8> {
    let columns = weights.columns();
    let row_bytes = format.row_bytes(columns as u64) as usize;
    let mut blocks = vec![0; weights.rows() * row_bytes];
    let mut rest = &mut blocks[..];
    let mut segments = Vec::new();
    for (number, rows) in coupling.segments().enumerate() {
        let (own, later) = rest.split_at_mut(rows.len() * row_bytes);
        segments.push((number, rows, own));
        rest = later;
    }
    assert!(rest.is_empty(), "the rows of all segments");
    threads::each("encode coupled rows", segments, |(number, rows, blocks)| {
        coupling.each_group(number, weights.view().some_rows(rows), |first, targets| {
            let blocks = &mut blocks[first * row_bytes..][..targets.rows() * row_bytes];
            band(format, targets.values(), columns, metrics, blocks);
            let mut decoded = Dense::zeros(targets.rows(), columns);
            quant_kernels::dequantize(format, blocks, decoded.values_mut());
            decoded
        });
    });
    blocks
}

/// Encodes some rows.
fn band(format: Format, weights: &[f32], columns: usize, metrics: &[Metric], blocks: &mut [u8]) {
    let rows = weights.len() / columns;
    let row_bytes = blocks.len() / rows;
    let weights = View::new(columns, weights);
    // For each row x H x and x H e.
    let mut sums = vec![[0.0; 2]; rows];
    let mut first = 0;
    for metric in metrics {
        let of_segment = first..first + metric.variances.len();
        let bytes = |columns: usize| format.row_bytes(columns as u64) as usize;
        let of_blocks = bytes(of_segment.start)..bytes(of_segment.end);
        let mut blocks: Vec<&mut [u8]> =
            blocks.chunks_exact_mut(row_bytes).map(|row| &mut row[of_blocks.clone()]).collect();
        segment(format, weights.some_columns(of_segment.clone()), metric, &mut blocks, &mut sums);
        first = of_segment.end;
    }
    for (blocks, [xx, xe]) in blocks.chunks_exact_mut(row_bytes).zip(sums) {
        let xy = xx - xe;
        // Far from 1 only for rows of nothing.
        if xx < 2.0 * xy && xy < 2.0 * xx {
            quant_kernels::rescale(format, blocks, (xx / xy) as f32);
        }
    }
}

/// Encodes a segment of some rows, step after step, and adds up for each row what it was and what is wrong with it.
fn segment(
    format: Format,
    weights: View<'_>,
    metric: &Metric,
    blocks: &mut [&mut [u8]],
    sums: &mut [[f64; 2]],
) {
    let rows = weights.rows();
    let mut errors = Strips::new(rows, weights.columns());
    let [mut x, mut e] = [(); 2].map(|()| Dense::zeros(rows, metric.sketch.columns()));
    let mut now = Now::new(format, rows, metric.sketch.columns());
    for step in &metric.steps {
        let original = weights.some_columns(step.columns.clone());
        if now.moved.columns() != step.columns.len() {
            now = Now::new(format, rows, step.columns.len());
        }
        let from = format.row_bytes(step.columns.start as u64) as usize;
        let bytes = from..from + format.row_bytes(step.columns.len() as u64) as usize;
        let mut blocks = blocks.iter_mut().map(|row| &mut row[bytes.clone()]).collect::<Vec<_>>();
        now.moved_by(&errors, step, original);
        now.encode(format, step, original, &mut blocks);
        errors.put(step.columns.start, now.errors.view());
        // The errors that are the weights' own are e R over R's diagonal.
        for (row, own) in now.own.values().chunks_exact(step.columns.len()).enumerate() {
            let of_column = step.signs.iter().zip(&step.diagonal).zip(own);
            e.row_mut(row).iter_mut().zip(of_column).for_each(|(e, ((sign, d), own))| *e += sign * d * own);
        }
    }
    with_panels(x.view_mut(), Accum::Replace, weights, &metric.sketch);
    for (row, [xx, xe]) in sums.iter_mut().enumerate() {
        for (x, e) in x.row(row).iter().zip(e.row(row)) {
            *xx += f64::from(*x) * f64::from(*x);
            *xe += f64::from(*x) * f64::from(*e);
        }
    }
}

/// The columns of a step, rows after rows, on their way; memory that serves one step after the other.
struct Now {
    /// What the errors of all columns to the left have left there.
    left: Dense,
    /// The weights, moved by the errors so far.
    moved: Dense,
    /// What is wrong with the decoded weights.
    errors: Dense,
    /// What each weight had become, moved by all errors before, less the decoded one.
    own: Dense,
    /// Of one block a row: the weights before, decoded ones after, and the own errors.
    block: [Dense; 2],
    /// The same blocks encoded.
    encoded: Vec<u8>,
}

impl Now {
    fn new(format: Format, rows: usize, width: usize) -> Self {
        let [left, moved, errors, own] = [(); 4].map(|()| Dense::zeros(rows, width));
        let block = [(); 2].map(|()| Dense::zeros(rows, format.block_len()));
        Self { left, moved, errors, own, block, encoded: vec![0; rows * format.block_bytes()] }
    }

    /// Takes the weights of a step, moved by the errors of all columns left of it.
    fn moved_by(&mut self, errors: &Strips, step: &Step, original: View<'_>) {
        let Self { left, moved, .. } = self;
        errors.times(left.view_mut(), Accum::Replace, &step.above);
        for row in left.values_mut().chunks_exact_mut(step.diagonal.len()) {
            row.iter_mut().zip(&step.diagonal).for_each(|(left, diagonal)| *left /= diagonal);
        }
        with_panels(moved.view_mut(), Accum::Replace, left.view(), &step.moving);
        for row in 0..original.rows() {
            let moved = moved.row_mut(row).iter_mut();
            moved.zip(original.row(row)).for_each(|(moved, x)| *moved += x);
        }
    }

    /// Encodes the step block after block, each moved by the errors of those before.
    fn encode(&mut self, format: Format, step: &Step, original: View<'_>, blocks: &mut [&mut [u8]]) {
        let Self { moved, errors, own, block: [values, of_block], encoded, .. } = self;
        let (rows, width) = (moved.rows(), moved.columns());
        let (n, bytes) = (format.block_len(), format.block_bytes());
        for (place, start) in (0..width).step_by(n).enumerate() {
            let block = start..start + n;
            for (row, values) in values.values_mut().chunks_exact_mut(n).enumerate() {
                // The kernels know no larger weights.
                let moved = moved.row(row)[block.clone()].iter().map(|x| x.clamp(-LARGEST, LARGEST));
                values.iter_mut().zip(moved).for_each(|(value, x)| *value = x);
            }
            let importance = &step.importance[block.clone()];
            let t: Vec<f32> =
                block.clone().flat_map(|i| &step.inverse.row(i)[block.clone()]).copied().collect();
            quant_kernels::quantize(format, values.values(), n, Some(importance), encoded);
            let feed = Feed { moved: values.values(), t: &t, importance, errors: of_block.values_mut() };
            quant_kernels::feed(format, encoded, feed);
            quant_kernels::dequantize(format, encoded, values.values_mut());
            for (row, encoded) in encoded.chunks_exact(bytes).enumerate() {
                blocks[row][place * bytes..][..bytes].copy_from_slice(encoded);
                own.row_mut(row)[block.clone()].copy_from_slice(of_block.row(row));
                let errors = &mut errors.row_mut(row)[block.clone()];
                let both = original.row(row)[block.clone()].iter().zip(values.row(row));
                errors.iter_mut().zip(both).for_each(|(error, (x, y))| *error = x - y);
            }
            if block.end < width {
                let mut rest = Dense::zeros(rows, width - block.end);
                let right = step.inverse.view().part(block.clone(), block.end..width);
                one_thread(rest.view_mut(), Accum::Replace, of_block.view(), right);
                for row in 0..rows {
                    let moved = &mut moved.row_mut(row)[block.end..];
                    moved.iter_mut().zip(rest.row(row)).for_each(|(weight, rest)| *weight -= rest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_several_steps_the_error_is_much_less_and_the_gain_is_one() {
        // Three steps, the last one shorter, of inputs that resemble their neighbours.
        let (rows, columns) = (5, 640);
        let mut h = Dense::zeros(columns, columns);
        for i in 0..columns {
            for j in 0..columns {
                h.row_mut(i)[j] = 0.95f32.powi(i.abs_diff(j) as i32);
            }
        }
        let metrics = [Metric::new(h.clone(), super::super::DAMPING).expect("positive")];
        let number = |i: usize| ((i * 7919) % 1013 + (i * 104_729) % 997) as f32 / 1005.0 - 1.0;
        let weights = Dense::new(columns, (0..rows * columns).map(number).collect());
        let form = |a: &[f32], b: &[f32]| -> f64 {
            let row = |i: usize| -> f64 {
                h.row(i).iter().zip(b).map(|(h, b)| f64::from(*h) * f64::from(*b)).sum::<f64>()
                    * f64::from(a[i])
            };
            (0..columns).map(row).sum()
        };
        for (format, bound) in [(Format::Q4_0, 0.4), (Format::Q8_0, 0.4)] {
            let diagonal = vec![1.0; columns];
            let mut plain = vec![0; rows * format.row_bytes(columns as u64) as usize];
            quant_kernels::quantize(format, weights.values(), columns, Some(&diagonal), &mut plain);
            let fed = encode(format, &weights, &metrics);
            let mut costs = [0.0; 2];
            for (blocks, cost) in [plain, fed].iter().zip(&mut costs) {
                let mut decoded = Dense::zeros(rows, columns);
                quant_kernels::dequantize(format, blocks, decoded.values_mut());
                for row in 0..rows {
                    let (x, y) = (weights.row(row), decoded.row(row));
                    let e: Vec<f32> = x.iter().zip(y).map(|(x, y)| x - y).collect();
                    *cost += form(&e, &e);
                    let gain = form(x, y) / form(x, x);
                    assert!((gain - 1.0).abs() < 0.02, "{format}: gain {gain}");
                }
            }
            assert!(costs[1] < bound * costs[0], "{format}: {costs:?}");
        }
    }
}
