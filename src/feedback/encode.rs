//! One matrix to blocks, with feedback from block to block.

use dense_kernels::{Accum, Dense, Panels, one_thread, with_panels};
use quant_kernels::{Feed, Format, LARGEST};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::covariance::{Metric, Step};

/// Rows that a thread takes at a time. A row's blocks do not depend on the others.
const BAND: usize = 128;

/// The blocks of a matrix whose inputs have these metrics, segment after segment.
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
    let known = metrics.iter().flat_map(|metric| &metric.steps).map(|step| step.columns.len());
    assert_eq!(known.sum::<usize>(), columns, "the columns of all segments");
    weights
        .values()
        .par_chunks(BAND * columns)
        .zip(blocks.par_chunks_mut(BAND * row_bytes))
        .for_each(|(weights, blocks)| band(format, weights, columns, metrics, blocks));
    blocks
}

/// Some rows.
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
    /// The errors as far as they are known, then, in as many rows, the weights: what is to their left goes into both
    /// e R and x R.
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
        let Step { columns, above, corner, importance } = step;
        let (height, width) = (sums.len(), columns.len());
        // e V and x V of the columns to the left.
        let mut left = Dense::zeros(2 * height, width);
        let before = self.both.view().some_columns(0..columns.start);
        with_panels(left.view_mut(), Accum::Replace, before, above);

        let mut blocks = Vec::with_capacity(height);
        let mut moved = Dense::zeros(height, width);
        for (row, (original, out)) in rows.enumerate() {
            self.both.row_mut(height + row)[columns.clone()].copy_from_slice(original);
            let left = left.row(row);
            for ((moved, x), left) in moved.row_mut(row).iter_mut().zip(original).zip(left) {
                // The kernels know no larger weights.
                *moved = (x + left).clamp(-LARGEST, LARGEST);
            }
            blocks.push(out);
        }
        let n = format.block_len();
        let mut now = vec![0.0; height * n];
        let mut encoded = vec![0; height * format.block_bytes()];
        for (place, start) in (0..width).step_by(n).enumerate() {
            let block = start..start + n;
            for (now, row) in now.chunks_exact_mut(n).zip(moved.values().chunks_exact(width)) {
                now.copy_from_slice(&row[block.clone()]);
            }
            let importance = &importance[block.clone()];
            quant_kernels::quantize(format, &now, n, Some(importance), &mut encoded);
            let v: Vec<f32> = block.clone().flat_map(|i| corner.row(i)[block.clone()].to_vec()).collect();
            let of_row = columns.start + start..columns.start + start + n;
            for (row, encoded) in encoded.chunks_exact_mut(format.block_bytes()).enumerate() {
                let all = self.both.columns();
                let (errors, weights) = self.both.values_mut().split_at_mut(height * all);
                let own = row * all + of_row.start..row * all + of_row.end;
                let weights = Feed {
                    original: &weights[own.clone()],
                    moved: &mut now[row * n..(row + 1) * n],
                    v: &v,
                    importance,
                    errors: &mut errors[own],
                };
                quant_kernels::feed(format, encoded, weights);
                blocks[row][place * format.block_bytes()..][..format.block_bytes()].copy_from_slice(encoded);
            }
            if block.end < width {
                let errors = self.both.view().part(0..height, of_row);
                let rest = corner.view().part(block.clone(), block.end..width);
                one_thread(moved.part_mut(0..height, block.end..width), Accum::Add, errors, rest);
            }
        }

        // With their own columns these are e V and x V, and times the diagonal of R, e R and x R.
        let own = self.both.view().some_columns(columns.clone());
        with_panels(left.view_mut(), Accum::Add, own, &Panels::new(corner.view()));
        for (row, sums) in sums.iter_mut().enumerate() {
            for ((e, x), importance) in left.row(row).iter().zip(left.row(height + row)).zip(importance) {
                let [x, e, importance] = [x, e, importance].map(|&value| f64::from(value));
                sums[0] += importance * x * x;
                sums[1] += importance * x * e;
            }
        }
    }
}
