//! Encodes a matrix with error feedback from block to block, from left to right.

use std::ops::Range;

use dense_kernels::{Accum, Dense, Strips, View, one_thread, with_panels};
use quant_kernels::{Feed, Format, LARGEST};
use rayon::iter::IndexedParallelIterator;
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::metric::Metric;
use super::outputs::Coupling;
use crate::threads;

/// Rows that a thread encodes at a time, so that panels are loaded into its caches once for all of them: whole strips of the
/// products' kernels, and whole vectors of those that feed errors back. A row's blocks do not depend on the other rows.
const BAND: usize = 240;

/// How often, after all codes were chosen from left to right, each is chosen again with all others as they are. The first time
/// brings most. Each costs as many multiply-adds a weight as there are columns, twice what it costs to move the errors to the right,
/// and the choice of the codes; where rows are short it is the latter alone that counts. And each follows the covariance more
/// closely, its chance too: with five tokens a column it brings nothing, with twelve 5 % of the divergence
/// (docs/records/2026-11-tokens.md). Of n tokens a direction's variance is off by a share that goes with columns / n; what was
/// added to the diagonal, which is the more the fewer bits the type has, hides that as long as it is no less than a quarter of it
/// (docs/records/2026-11-descent.md).
fn sweeps(metric: &Metric) -> usize {
    const WORTH: f32 = 8.0;
    const SHORT: usize = 2048;
    const HIDDEN: f32 = 4.0;
    let columns = metric.variances.len();
    let Some(tokens) = metric.tokens else { return 1 };
    let of_column = tokens / columns as f32;
    match of_column >= WORTH {
        true if columns <= SHORT && HIDDEN * metric.damping * of_column >= 1.0 => 3,
        true => 1,
        false => 0,
    }
}

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
        band(format, View::new(columns, weights), metrics, blocks, Codes::Open);
    });
    blocks
}

/// The same, each row taking up besides what errors of the other rows leave for it.
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
        let decoded = |blocks: &[u8]| {
            let mut decoded = Dense::zeros(blocks.len() / row_bytes, columns);
            quant_kernels::dequantize(format, blocks, decoded.values_mut());
            decoded
        };
        let rows = weights.view().some_rows(rows);
        coupling.each_group(
            number,
            rows,
            metrics.iter().map(sweeps).max().unwrap_or(1),
            |first, targets, corner| {
                let blocks = &mut blocks[first * row_bytes..][..targets.rows() * row_bytes];
                let Some(corner) = corner else {
                    band(format, targets.view(), metrics, blocks, Codes::Open);
                    return decoded(blocks);
                };
                let (old, before) = (blocks.to_vec(), decoded(blocks));
                band(format, targets.view(), metrics, blocks, Codes::Chosen);
                let after = decoded(blocks);
                // The rows of a group were encoded as if they were independent.
                if cost(targets, &after, corner, metrics) < cost(targets, &before, corner, metrics) {
                    return after;
                }
                blocks.copy_from_slice(&old);
                before
            },
        );
    });
    blocks
}

/// tr(G E H E^T) of what is wrong with decoded rows, nearly: by the metrics' sketches.
fn cost(targets: &Dense, decoded: &Dense, g: &Dense, metrics: &[Metric]) -> f64 {
    let mut errors = Dense::zeros(targets.rows(), targets.columns());
    difference(errors.values_mut(), targets.values(), decoded.values());
    let mut first = 0;
    let mut cost = 0.0;
    for Metric { sketch, variances, .. } in metrics {
        let columns = first..first + variances.len();
        first = columns.end;
        let mut along = Dense::zeros(errors.rows(), sketch.columns());
        with_panels(along.view_mut(), Accum::Replace, errors.view().some_columns(columns), sketch);
        for i in 0..errors.rows() {
            for j in 0..errors.rows() {
                let both = along.row(i).iter().zip(along.row(j));
                let product: f64 = both.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                cost += f64::from(g.row(i)[j]) * product;
            }
        }
    }
    cost
}

/// `out` = x - y.
pub fn difference(out: &mut [f32], x: &[f32], y: &[f32]) {
    out.iter_mut().zip(x.iter().zip(y)).for_each(|(out, (x, y))| *out = x - y);
}

/// What is in the blocks before they are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codes {
    /// Nothing yet.
    Open,
    /// Codes of targets that were a little different.
    Chosen,
}

/// Encodes some rows.
fn band(format: Format, weights: View<'_>, metrics: &[Metric], blocks: &mut [u8], codes: Codes) {
    let rows = weights.rows();
    let row_bytes = blocks.len() / rows;
    let bytes = |columns: usize| format.row_bytes(columns as u64) as usize;
    // For each row x H x and x H e.
    let mut sums = vec![[0.0; 2]; rows];
    let mut first = 0;
    for metric in metrics {
        let columns = first..first + metric.variances.len();
        first = columns.end;
        let of_blocks = bytes(columns.start)..bytes(columns.end);
        let blocks = blocks.chunks_exact_mut(row_bytes).map(|row| &mut row[of_blocks.clone()]).collect();
        let weights = weights.some_columns(columns.clone());
        let errors = Strips::new(rows, columns.len());
        let mut segment = Segment { format, weights, metric, blocks, errors, along: None };
        match codes {
            Codes::Open => segment.feed(),
            Codes::Chosen => segment.take(),
        }
        if quant_kernels::feeds(format) {
            (0..sweeps(metric)).for_each(|_| segment.sweep());
        }
        segment.add_to(&mut sums);
    }
    for (blocks, [xx, xe]) in blocks.chunks_exact_mut(row_bytes).zip(sums) {
        let xy = xx - xe;
        // Far from 1 only for rows of nothing.
        if xx < 2.0 * xy && xy < 2.0 * xx {
            quant_kernels::rescale(format, blocks, (xx / xy) as f32);
        }
    }
}

/// A segment of the columns of some rows, on its way.
struct Segment<'a> {
    format: Format,
    weights: View<'a>,
    metric: &'a Metric,
    /// Of each row those of the segment.
    blocks: Vec<&'a mut [u8]>,
    /// What is wrong with the decoded weights, as far as they are encoded.
    errors: Strips,
    /// The same times the metric's sketch, if it is known.
    along: Option<Dense>,
}

/// How codes of a step are chosen.
struct Choice<'a> {
    /// What moves the weights to the right of a settled one.
    t: &'a Dense,
    /// What an error of each weight costs.
    importance: &'a [f32],
    codes: Codes,
}

impl Segment<'_> {
    /// Chooses all codes from left to right, each for weights that the errors of those before have moved.
    fn feed(&mut self) {
        let mut now = Now::new(self.format, self.weights.rows());
        // Of e R each column is the own error there times the diagonal: what others left was taken up.
        let mut along = Dense::zeros(self.weights.rows(), self.metric.sketch.columns());
        for step in &self.metric.steps {
            now.widen(step.columns.len());
            let Now { left, moved, .. } = &mut now;
            // What the errors of all columns to the left have left there.
            self.errors.times(left.view_mut(), Accum::Replace, &step.above);
            for row in left.values_mut().chunks_exact_mut(step.diagonal.len()) {
                row.iter_mut().zip(&step.diagonal).for_each(|(left, diagonal)| *left /= diagonal);
            }
            with_panels(moved.view_mut(), Accum::Replace, left.view(), &step.moving);
            for row in 0..moved.rows() {
                let original = &self.weights.row(row)[step.columns.clone()];
                moved.row_mut(row).iter_mut().zip(original).for_each(|(moved, x)| *moved += x);
            }
            let choice = Choice { t: &step.inverse, importance: &step.importance, codes: Codes::Open };
            self.encode(&mut now, step.columns.clone(), &choice);
            let sketched = step.sketched();
            for row in 0..along.rows() {
                let own = now.own.row(row).iter().zip(&sketched);
                along
                    .row_mut(row)
                    .iter_mut()
                    .zip(own)
                    .for_each(|(sum, (own, sketched))| *sum += own * sketched);
            }
            self.errors.put(step.columns.start, now.errors.view());
        }
        self.along = Some(along);
    }

    /// Chooses all codes again, from left to right, each group's for its best place with all others as they are.
    fn sweep(&mut self) {
        self.along = None;
        let size = quant_kernels::group(self.format).expect("a format whose codes are chosen");
        let mut now = Now::new(self.format, self.weights.rows());
        for (step, around) in self.metric.steps.iter().zip(&self.metric.around) {
            let groups = around.groups(size);
            now.widen(step.columns.len());
            self.decode(&mut now, step.columns.clone());
            let Now { left, moved, before, .. } = &mut now;
            self.errors.times(left.view_mut(), Accum::Replace, &around.columns);
            moved.values_mut().copy_from_slice(before.values());
            for row in 0..moved.rows() {
                let of_groups =
                    moved.row_mut(row).chunks_exact_mut(size).zip(left.row(row).chunks_exact(size));
                for (group, (moved, left)) in of_groups.enumerate() {
                    for (k, left) in left.iter().enumerate() {
                        let inverse = groups.inverses.row(group * size + k);
                        moved.iter_mut().zip(inverse).for_each(|(moved, inverse)| *moved += left * inverse);
                    }
                }
            }
            let choice = Choice { t: &groups.moving, importance: &around.importance, codes: Codes::Chosen };
            let bytes = self.bytes(&step.columns);
            let old: Vec<Vec<u8>> = self.blocks.iter().map(|row| row[bytes.clone()].to_vec()).collect();
            self.encode(&mut now, step.columns.clone(), &choice);
            for row in self.worse(&mut now, step.columns.clone(), &around.corner) {
                self.blocks[row][bytes.clone()].copy_from_slice(&old[row]);
            }
            self.errors.put(step.columns.start, now.errors.view());
        }
    }

    /// The rows whose error is more with the new codes of a step, which get their old errors back. Few are: where
    /// neighbours in a group say much of one another, which the choice of a code takes for independent.
    fn worse(&self, now: &mut Now, columns: Range<usize>, corner: &Dense) -> Vec<usize> {
        let Now { left, moved, before, errors, .. } = now;
        // What the new codes add to the errors, and what they cost: 2 (e H) d + d H d.
        let change = moved;
        for row in 0..change.rows() {
            let change = change.row_mut(row);
            difference(change, &self.weights.row(row)[columns.clone()], before.row(row));
            change.iter_mut().zip(errors.row(row)).for_each(|(change, new)| *change = new - *change);
        }
        let mut own = Dense::zeros(change.rows(), change.columns());
        one_thread(own.view_mut(), Accum::Replace, change.view(), corner.view());
        let is_worse = |&row: &usize| {
            let costs = left.row(row).iter().zip(own.row(row)).zip(change.row(row));
            costs.map(|((left, own), d)| f64::from((2.0 * left + own) * d)).sum::<f64>() > 0.0
        };
        let worse: Vec<usize> = (0..change.rows()).filter(is_worse).collect();
        for &row in &worse {
            let old = errors.row_mut(row).iter_mut().zip(change.row(row));
            old.for_each(|(error, change)| *error -= change);
        }
        worse
    }

    /// Takes the errors of the blocks as they are.
    fn take(&mut self) {
        let mut now = Now::new(self.format, self.weights.rows());
        for step in &self.metric.steps {
            now.widen(step.columns.len());
            self.decode(&mut now, step.columns.clone());
            let Now { before, errors, .. } = &mut now;
            for row in 0..errors.rows() {
                let original = &self.weights.row(row)[step.columns.clone()];
                difference(errors.row_mut(row), original, before.row(row));
            }
            self.errors.put(step.columns.start, errors.view());
        }
    }

    /// What the blocks of a step are decoded to.
    fn decode(&self, now: &mut Now, columns: Range<usize>) {
        let bytes = self.bytes(&columns);
        for (row, blocks) in self.blocks.iter().enumerate() {
            quant_kernels::dequantize(self.format, &blocks[bytes.clone()], now.before.row_mut(row));
        }
    }

    fn bytes(&self, columns: &Range<usize>) -> Range<usize> {
        let bytes = |columns: usize| self.format.row_bytes(columns as u64) as usize;
        bytes(columns.start)..bytes(columns.end)
    }

    /// Encodes a step block after block, each moved by what happened in those before.
    fn encode(&mut self, now: &mut Now, columns: Range<usize>, choice: &Choice) {
        let bytes = self.bytes(&columns);
        let (format, weights) = (self.format, self.weights.some_columns(columns.clone()));
        let Now { moved, errors, own, before, block: [values, old, of_block], encoded, .. } = now;
        let (rows, width) = (moved.rows(), moved.columns());
        let (n, block_bytes) = (format.block_len(), format.block_bytes());
        for (place, start) in (0..width).step_by(n).enumerate() {
            let block = start..start + n;
            let of_row = bytes.start + place * block_bytes..bytes.start + (place + 1) * block_bytes;
            for (row, values) in values.values_mut().chunks_exact_mut(n).enumerate() {
                // The kernels know no larger weights.
                let moved = moved.row(row)[block.clone()].iter().map(|x| x.clamp(-LARGEST, LARGEST));
                values.iter_mut().zip(moved).for_each(|(value, x)| *value = x);
            }
            let importance = &choice.importance[block.clone()];
            let corner: Vec<f32>;
            let t = if n == width {
                choice.t.values()
            } else {
                corner = block.clone().flat_map(|i| &choice.t.row(i)[block.clone()]).copied().collect();
                &corner[..]
            };
            let before = match choice.codes {
                Codes::Open => {
                    quant_kernels::prepare(format, values.values(), n, Some(importance), encoded);
                    None
                }
                Codes::Chosen => {
                    for row in 0..rows {
                        old.row_mut(row).copy_from_slice(&before.row(row)[block.clone()]);
                        let encoded = &mut encoded[row * block_bytes..][..block_bytes];
                        encoded.copy_from_slice(&self.blocks[row][of_row.clone()]);
                    }
                    Some(old.values())
                }
            };
            let feed = Feed { moved: values.values(), t, importance, before, errors: of_block.values_mut() };
            quant_kernels::feed(format, encoded, feed);
            quant_kernels::dequantize(format, encoded, values.values_mut());
            for (row, encoded) in encoded.chunks_exact(block_bytes).enumerate() {
                self.blocks[row][of_row.clone()].copy_from_slice(encoded);
                own.row_mut(row)[block.clone()].copy_from_slice(of_block.row(row));
                let errors = &mut errors.row_mut(row)[block.clone()];
                difference(errors, &weights.row(row)[block.clone()], values.row(row));
            }
            if block.end < width {
                let mut rest = Dense::zeros(rows, width - block.end);
                let right = choice.t.view().part(block.clone(), block.end..width);
                one_thread(rest.view_mut(), Accum::Replace, of_block.view(), right);
                for row in 0..rows {
                    let moved = &mut moved.row_mut(row)[block.end..];
                    moved.iter_mut().zip(rest.row(row)).for_each(|(weight, rest)| *weight -= rest);
                }
            }
        }
    }

    /// Adds, for each row, what it was and what is wrong with it.
    fn add_to(&mut self, sums: &mut [[f64; 2]]) {
        let sketch = &self.metric.sketch;
        let mut x = Dense::zeros(self.weights.rows(), sketch.columns());
        with_panels(x.view_mut(), Accum::Replace, self.weights, sketch);
        let e = self.along.take().unwrap_or_else(|| {
            let mut e = Dense::zeros(self.weights.rows(), sketch.columns());
            self.errors.times(e.view_mut(), Accum::Replace, sketch);
            e
        });
        for (row, [xx, xe]) in sums.iter_mut().enumerate() {
            for (x, e) in x.row(row).iter().zip(e.row(row)) {
                *xx += f64::from(*x) * f64::from(*x);
                *xe += f64::from(*x) * f64::from(*e);
            }
        }
    }
}

/// The columns of a step, rows after rows, on their way; memory that serves one step after the other.
struct Now {
    format: Format,
    rows: usize,
    /// What the errors of other columns come to there.
    left: Dense,
    /// The weights, moved by that.
    moved: Dense,
    /// What the blocks were decoded to before.
    before: Dense,
    /// What is wrong with the decoded weights.
    errors: Dense,
    /// Their own errors: what they had become less the decoded ones.
    own: Dense,
    /// Of one block a row: the weights, those decoded before, and what moves those to the right.
    block: [Dense; 3],
    /// The same blocks encoded.
    encoded: Vec<u8>,
}

impl Now {
    fn new(format: Format, rows: usize) -> Self {
        let [left, moved, before, errors, own] = [(); 5].map(|()| Dense::zeros(rows, 0));
        let block = [(); 3].map(|()| Dense::zeros(rows, format.block_len()));
        let encoded = vec![0; rows * format.block_bytes()];
        Self { format, rows, left, moved, before, errors, own, block, encoded }
    }

    /// For a step of so many columns.
    fn widen(&mut self, width: usize) {
        if self.moved.columns() != width {
            let [left, moved, before, errors, own] = [(); 5].map(|()| Dense::zeros(self.rows, width));
            *self = Self { left, moved, before, errors, own, ..Self::new(self.format, self.rows) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs that resemble their neighbours, and five rows of weights: three steps, the last one shorter.
    fn three_steps() -> (Dense, Dense) {
        let (rows, columns) = (5, 640);
        let mut h = Dense::zeros(columns, columns);
        for i in 0..columns {
            for j in 0..columns {
                h.row_mut(i)[j] = 0.95f32.powi(i.abs_diff(j) as i32);
            }
        }
        let number = |i: usize| ((i * 7919) % 1013 + (i * 104_729) % 997) as f32 / 1005.0 - 1.0;
        let weights = Dense::new(columns, (0..rows * columns).map(number).collect());
        (h, weights)
    }

    #[test]
    fn short_rows_are_gone_through_often_if_chance_is_hidden() {
        let of = |columns: usize, damping: f32, tokens: f32| {
            let mut h = Dense::zeros(columns, columns);
            (0..columns).for_each(|i| h.row_mut(i)[i] = 1.0);
            sweeps(&Metric { tokens: Some(tokens), ..Metric::new(h, damping).expect("positive") })
        };
        // IQ1_S has 0.115, and what has 3.3 bits or more 0.01.
        assert_eq!([of(512, 0.115, 4100.0), of(512, 0.115, 4090.0), of(512, 0.115, 0.0)], [3, 0, 0]);
        assert_eq!([of(512, 0.01, 12_900.0), of(512, 0.01, 12_700.0)], [3, 1]);
        assert_eq!(of(2049, 0.115, 1e6), 1);
    }

    #[test]
    fn own_errors_say_what_all_errors_come_to_in_the_sketch() {
        let (h, weights) = three_steps();
        let (rows, columns) = (weights.rows(), weights.columns());
        let metric = Metric::new(h, 0.01).expect("positive");
        // Blocks of 32 and of a group each, and codes that are not chosen with feedback.
        for format in [Format::Q4_0, Format::Q8_0, Format::MXFP4] {
            let row_bytes = format.row_bytes(columns as u64) as usize;
            let mut blocks = vec![0; rows * row_bytes];
            let blocks = blocks.chunks_exact_mut(row_bytes).collect();
            let errors = Strips::new(rows, columns);
            let mut segment =
                Segment { format, weights: weights.view(), metric: &metric, blocks, errors, along: None };
            segment.feed();
            let mut all = Dense::zeros(rows, metric.sketch.columns());
            segment.errors.times(all.view_mut(), Accum::Replace, &metric.sketch);
            let along = segment.along.expect("fed");
            let largest = all.values().iter().fold(0f32, |largest, x| largest.max(x.abs()));
            for (along, all) in along.values().iter().zip(all.values()) {
                assert!((along - all).abs() < 1e-4 * largest, "{format}: {along} for {all} of {largest}");
            }
        }
    }

    #[test]
    fn over_several_steps_the_error_is_much_less_and_the_gain_is_one() {
        let (h, weights) = three_steps();
        let (rows, columns) = (weights.rows(), weights.columns());
        let metrics = [Metric::new(h.clone(), super::super::DAMPING).expect("positive")];
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
