//! Encodes a matrix with error feedback from block to block, from left to right.

use dense_kernels::{Accum, Dense, one_thread, with_panels};
use quant_kernels::{Feed, Format, LARGEST};
use rayon::iter::IndexedParallelIterator;
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::metric::{Metric, Step};
use crate::threads;

/// Rows that a thread encodes at a time, so that panels are loaded into its caches once for all of them. A row's
/// blocks do not depend on the other rows.
const BAND: usize = 128;

/// Encodes `weights`, whose inputs have these metrics, one for each segment of the columns. Returns the blocks, row
/// after row.
///
/// Minimising the error shrinks each row slightly, and the shrinkage hurts the model more than the error does; so
/// each row is rescaled to unit gain, x H y = x H x.
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

/// Encodes some rows.
fn band(format: Format, weights: &[f32], columns: usize, metrics: &[Metric], blocks: &mut [u8]) {
    let rows = weights.len() / columns;
    let row_bytes = blocks.len() / rows;
    // For each row x H x and x H e.
    let mut sums = vec![[0.0; 2]; rows];
    let mut first = 0;
    for metric in metrics {
        let mut segment = Segment::new(rows, metric);
        for step in &metric.steps {
            let columns_of_row = first + step.columns.start..first + step.columns.end;
            let from = format.row_bytes(columns_of_row.start as u64) as usize;
            let bytes = from..from + format.row_bytes(step.columns.len() as u64) as usize;
            let original = weights.chunks_exact(columns).map(|row| &row[columns_of_row.clone()]);
            let blocks = blocks.chunks_exact_mut(row_bytes).map(|row| &mut row[bytes.clone()]);
            segment.step(format, step, original.zip(blocks), &mut sums);
        }
        first += segment.both.columns();
    }
    for (blocks, [xx, xe]) in blocks.chunks_exact_mut(row_bytes).zip(sums) {
        let xy = xx - xe;
        // Far from 1 only for rows of nothing.
        if xx < 2.0 * xy && xy < 2.0 * xx {
            quant_kernels::rescale(format, blocks, (xx / xy) as f32);
        }
    }
}

/// Rows of a segment on their way from left to right.
struct Segment {
    /// Two matrices of equal size, one above the other: the errors of the columns encoded so far, then the weights.
    /// Both are multiplied by the same part of R, for e R and x R.
    both: Dense,
}

impl Segment {
    fn new(rows: usize, metric: &Metric) -> Self {
        let columns = metric.steps.last().map_or(0, |step| step.columns.end);
        Self { both: Dense::zeros(2 * rows, columns) }
    }

    /// Encodes the next columns: of each row what it was and where its blocks go.
    fn step<'a>(
        &mut self,
        format: Format,
        step: &Step,
        rows: impl Iterator<Item = (&'a [f32], &'a mut [u8])>,
        sums: &mut [[f64; 2]],
    ) {
        let Step { columns, above, corner, inverse, importance } = step;
        let (height, width, all) = (sums.len(), columns.len(), self.both.columns());
        // e V and x V of the columns to the left.
        let mut left = Dense::zeros(2 * height, width);
        let before = self.both.view().some_columns(0..columns.start);
        with_panels(left.view_mut(), Accum::Replace, before, above);

        let mut blocks = Vec::with_capacity(height);
        let mut moved = Dense::zeros(height, width);
        let errors = left.view().some_rows(0..height);
        one_thread(moved.view_mut(), Accum::Replace, errors, inverse.view());
        for (row, (original, out)) in rows.enumerate() {
            self.both.row_mut(height + row)[columns.clone()].copy_from_slice(original);
            moved.row_mut(row).iter_mut().zip(original).for_each(|(moved, x)| *moved += x);
            blocks.push(out);
        }
        let (n, bytes) = (format.block_len(), format.block_bytes());
        let mut now = vec![0.0; height * n];
        let mut encoded = vec![0; height * bytes];
        let mut own = Dense::zeros(height, width);
        for (place, start) in (0..width).step_by(n).enumerate() {
            let block = start..start + n;
            for (now, row) in now.chunks_exact_mut(n).zip(moved.values().chunks_exact(width)) {
                // The kernels know no larger weights.
                let row = row[block.clone()].iter().map(|x| x.clamp(-LARGEST, LARGEST));
                now.iter_mut().zip(row).for_each(|(now, x)| *now = x);
            }
            let importance = &importance[block.clone()];
            quant_kernels::quantize(format, &now, n, Some(importance), &mut encoded);
            let t: Vec<f32> = block.clone().flat_map(|i| &inverse.row(i)[block.clone()]).copied().collect();
            for (row, encoded) in encoded.chunks_exact_mut(bytes).enumerate() {
                let weights = Feed {
                    moved: &mut now[row * n..(row + 1) * n],
                    t: &t,
                    importance,
                    errors: &mut own.row_mut(row)[block.clone()],
                };
                quant_kernels::feed(format, encoded, weights);
                blocks[row][place * bytes..][..bytes].copy_from_slice(encoded);
                let (errors, originals) = self.both.values_mut().split_at_mut(height * all);
                let first = row * all + columns.start + start;
                let errors = &mut errors[first..first + n];
                quant_kernels::dequantize(format, encoded, errors);
                errors.iter_mut().zip(&originals[first..]).for_each(|(error, x)| *error = x - *error);
            }
            if block.end < width {
                let mut rest = Dense::zeros(height, width - block.end);
                let errors = own.view().some_columns(block.clone());
                let right = inverse.view().part(block.clone(), block.end..width);
                one_thread(rest.view_mut(), Accum::Replace, errors, right);
                for row in 0..height {
                    let moved = &mut moved.row_mut(row)[block.end..];
                    moved.iter_mut().zip(rest.row(row)).for_each(|(weight, rest)| *weight -= rest);
                }
            }
        }

        // With the weights of its own columns the lower half is x V; the errors that are the weights' own are e V.
        let weights = self.both.view().part(height..2 * height, columns.clone());
        with_panels(left.part_mut(height..2 * height, 0..width), Accum::Add, weights, corner);
        for (row, sums) in sums.iter_mut().enumerate() {
            for ((e, x), importance) in own.row(row).iter().zip(left.row(height + row)).zip(importance) {
                let [x, e, importance] = [x, e, importance].map(|&value| f64::from(value));
                sums[0] += importance * x * x;
                sums[1] += importance * x * e;
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
        let metrics = [Metric::new(h.clone()).expect("positive")];
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
