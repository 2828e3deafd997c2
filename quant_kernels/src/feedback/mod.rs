//! Error feedback inside of blocks (as in GPTQ): the rounding error of one group of weights is taken up by the
//! weights to its right.
//!
//! The scales of a block are given by [`quantize`](crate::quantize); here the codes of the weights are chosen
//! again, group after group, each for weights that the errors of the groups before have moved. A group has one code:
//! it is one weight in integer formats, and four or eight weights that share a codebook entry in the others.
//!
//! Rows are fed side by side, sixteen in the lanes of a vector, so that what moves them is read once for all of them:
//!
//! ```text
//!               row 0   row 1   ...   row 15
//!   column 0      e       e             e        errors, once their group is settled
//!   column 1      e       e             e
//!   ...           |       |             |
//!   column j    x -= e T_kj for every settled k, in the order of the columns
//! ```

pub(crate) mod scalar;
pub(crate) mod vector;

use std::ops::Range;

use fearless_simd::{Level, Simd, SimdBase, f32x16};

use crate::{Format, formats};

/// Rows that are fed side by side: the lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Columns that are moved together, so that one sum need not wait for the other.
const TOGETHER: usize = 4;

/// Whether [`feed`] knows the format. The others keep the codes that they have.
#[must_use]
pub fn feeds(format: Format) -> bool {
    group(format).is_some()
}

/// How many neighbouring weights share a code that [`feed`] chooses: one in integer formats, eight in those with a
/// codebook. None if it chooses none.
#[must_use]
pub fn group(format: Format) -> Option<usize> {
    if format.is_known() { formats::group(format) } else { None }
}

/// One block of each of some rows, all at the same columns, and what moves the weights.
///
/// The covariance of the inputs is H = R R^T with R upper triangular, and T is the inverse of R with its rows times the
/// diagonal of R. If the weight k comes out off by an error that is its own, not one that it had from others, the
/// weights j to the right are best lessened by that error times T_kj.
#[derive(Debug)]
pub struct Feed<'a> {
    /// The weights, row after row, moved by the errors of the blocks before.
    pub moved: &'a [f32],
    /// The block's rows and columns of T, row after row: ones on the diagonal. Elements left of it are not read.
    pub t: &'a [f32],
    /// R_jj^2 of each weight: the cost of its error that weights to its right cannot take up.
    pub importance: &'a [f32],
    /// What the blocks are decoded to before, row after row, if their codes are to be improved and not chosen for the first
    /// time. `moved` is then the best place of each group while all other weights are as they are, and what moves the groups
    /// to the right is the difference that new codes make.
    pub before: Option<&'a [f32]>,
    /// On return, the weights' own errors, row after row: each is what the weight had become less the decoded one. The
    /// cost e H e^T of all errors of a row is the sum of their squares times the importances. With `before` the
    /// differences instead: what was decoded before less what is now.
    pub errors: &'a mut [f32],
}

/// Encodes the weights anew with the scales that `blocks`, one for each row, have, with feedback. A row's block does
/// not depend on the other rows.
///
/// # Panics
/// If the lengths do not fit.
pub fn feed(format: Format, blocks: &mut [u8], weights: Feed<'_>) {
    feed_at(Level::new(), format, blocks, weights);
}

/// [`feed`] at a chosen SIMD level.
pub fn feed_at(level: Level, format: Format, blocks: &mut [u8], weights: Feed<'_>) {
    let n = format.block_len();
    let Feed { moved, t, importance, before, errors } = weights;
    let rows = blocks.len() / format.block_bytes();
    assert_eq!(blocks.len(), rows * format.block_bytes(), "whole blocks of {format}");
    assert_eq!(
        (moved.len(), before.unwrap_or(moved).len(), t.len(), importance.len(), errors.len()),
        (rows * n, rows * n, n * n, n, rows * n),
        "{rows} blocks of {format}, which have {n} weights each"
    );
    let lanes = || vec![[0.0; LANES]; n];
    let mut side = Side { moved: lanes(), before: before.map(|_| lanes()), errors: lanes(), t, importance };
    let blocks = blocks.chunks_mut(LANES * format.block_bytes());
    let rows = moved.chunks(LANES * n).zip(errors.chunks_mut(LANES * n));
    for (place, (blocks, (moved, errors))) in blocks.zip(rows).enumerate() {
        put(&mut side.moved, moved);
        if let Some((side, before)) = side.before.as_mut().zip(before) {
            put(side, &before[place * LANES * n..][..moved.len()]);
        }
        formats::feed(level, format, blocks, &mut side);
        for (row, errors) in errors.chunks_exact_mut(n).enumerate() {
            errors.iter_mut().zip(&side.errors).for_each(|(error, lanes)| *error = lanes[row]);
        }
    }
}

/// Puts rows into the lanes of their columns.
fn put(columns: &mut [[f32; LANES]], rows: &[f32]) {
    for (row, values) in rows.chunks_exact(columns.len()).enumerate() {
        columns.iter_mut().zip(values).for_each(|(lanes, x)| lanes[row] = *x);
    }
}

/// Multiplies the weights of whole blocks by a factor near 1: a row encoded with feedback comes out smaller than it
/// was, as after any search for the least error, and is brought back to its gain. Does nothing in formats without such
/// scales.
///
/// # Panics
/// If `blocks` are no whole blocks.
pub fn rescale(format: Format, blocks: &mut [u8], factor: f32) {
    formats::rescale(format, blocks, factor);
}

/// At most sixteen rows side by side: of each column the rows' values. Lanes without a row have any.
pub(crate) struct Side<'a> {
    /// The weights, moved by the errors of what is settled.
    moved: Vec<[f32; LANES]>,
    /// What they are decoded to before, if only differences from that are errors.
    before: Option<Vec<[f32; LANES]>>,
    /// The own errors of what is settled.
    errors: Vec<[f32; LANES]>,
    t: &'a [f32],
    /// R_jj^2 of each column.
    pub importance: &'a [f32],
}

impl Side<'_> {
    /// A row's weights from a column on.
    #[inline(always)]
    pub fn weights<const K: usize>(&self, row: usize, first: usize) -> [f32; K] {
        let mut weights = [0.0; K];
        for (weight, lanes) in weights.iter_mut().zip(&self.moved[first..first + K]) {
            *weight = lanes[row];
        }
        weights
    }

    /// Takes the group of K columns from `first` on for done, with these values: notes its errors and moves the columns
    /// right of it. Each column takes the errors one after the other, at any SIMD level.
    #[inline(always)]
    pub fn settle<S: Simd, const K: usize>(&mut self, simd: S, first: usize, decoded: &[[f32; LANES]; K]) {
        for (i, decoded) in decoded.iter().enumerate() {
            self.note(simd, first, first + i, f32x16::load_array_ref(simd, decoded));
        }
        self.spread::<S, K>(simd, first, first + K..self.moved.len());
    }

    /// The own errors of a column whose group begins at `first`: without what it has from the columns of the group
    /// before it, whose codes were chosen together with its own.
    #[inline(always)]
    pub(crate) fn note<S: Simd>(&mut self, simd: S, first: usize, column: usize, decoded: f32x16<S>) {
        if let Some(before) = &self.before {
            let difference = f32x16::load_array_ref(simd, &before[column]) - decoded;
            difference.store_array(&mut self.errors[column]);
            return;
        }
        let n = self.moved.len();
        let mut error = f32x16::load_array_ref(simd, &self.moved[column]) - decoded;
        for k in first..column {
            error -= f32x16::load_array_ref(simd, &self.errors[k]) * self.t[k * n + column];
        }
        error.store_array(&mut self.errors[column]);
    }

    /// Moves some columns by the errors of the K columns from `first` on.
    #[inline(always)]
    fn spread<S: Simd, const K: usize>(&mut self, simd: S, first: usize, columns: Range<usize>) {
        let n = self.moved.len();
        let mut errors = [f32x16::splat(simd, 0.0); K];
        let mut t = [&self.t[..0]; K];
        for k in 0..K {
            errors[k] = f32x16::load_array_ref(simd, &self.errors[first + k]);
            t[k] = &self.t[(first + k) * n..][columns.clone()];
        }
        let moved = &mut self.moved[columns];
        let (fours, rest) = moved.as_chunks_mut::<TOGETHER>();
        let from = fours.len() * TOGETHER;
        for (place, moved) in fours.iter_mut().enumerate() {
            let mut sums = [f32x16::splat(simd, 0.0); TOGETHER];
            for j in 0..TOGETHER {
                sums[j] = f32x16::load_array_ref(simd, &moved[j]);
            }
            for k in 0..K {
                let t = &t[k][place * TOGETHER..][..TOGETHER];
                for j in 0..TOGETHER {
                    sums[j] -= errors[k] * t[j];
                }
            }
            for j in 0..TOGETHER {
                sums[j].store_array(&mut moved[j]);
            }
        }
        for (place, moved) in rest.iter_mut().enumerate() {
            let mut sum = f32x16::load_array_ref(simd, moved);
            for k in 0..K {
                sum -= errors[k] * t[k][from + place];
            }
            sum.store_array(moved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dequantize, quantize};

    /// A covariance with strong neighbours.
    fn of_neighbours(i: usize, j: usize) -> f64 {
        let size = |i: usize| (1.0 + 0.5 * ((i * 7) % 5) as f64).sqrt();
        0.9f64.powi(i.abs_diff(j) as i32) * size(i) * size(j)
    }

    /// One in which each says a little of all others.
    fn of_all(i: usize, j: usize) -> f64 {
        let part = |factor: usize, i: usize| ((i * 7919 + factor * 104_729) % 1013) as f64 / 1013.0 - 0.5;
        let shared: f64 = (1..=40).map(|factor| part(factor, i * factor) * part(factor, j * factor)).sum();
        shared + if i == j { 0.5 } else { 0.0 }
    }

    /// A covariance, T and the squares of R's diagonal.
    fn factor(n: usize, h: fn(usize, usize) -> f64) -> (Vec<f64>, Vec<f32>, Vec<f32>) {
        let covariance: Vec<f64> = (0..n * n).map(|k| h(k / n, k % n)).collect();
        // H = R R^T, from the last column on.
        let mut r = vec![0f64; n * n];
        for j in (0..n).rev() {
            let rest: f64 = (j + 1..n).map(|k| r[j * n + k] * r[j * n + k]).sum();
            r[j * n + j] = (covariance[j * n + j] - rest).sqrt();
            for i in 0..j {
                let rest: f64 = (j + 1..n).map(|k| r[i * n + k] * r[j * n + k]).sum();
                r[i * n + j] = (covariance[i * n + j] - rest) / r[j * n + j];
            }
        }
        // Column after column, T R = D.
        let mut t = vec![0f64; n * n];
        for j in 0..n {
            t[j * n + j] = 1.0;
            for i in (0..j).rev() {
                let rest: f64 = (i + 1..=j).map(|k| r[i * n + k] / r[k * n + k] * t[k * n + j]).sum();
                t[i * n + j] = -rest;
            }
        }
        let squares = (0..n).map(|j| (r[j * n + j] * r[j * n + j]) as f32).collect();
        (covariance, t.into_iter().map(|x| x as f32).collect(), squares)
    }

    fn cost(covariance: &[f64], x: &[f32], y: &[f32]) -> f64 {
        let n = x.len();
        let e: Vec<f64> = x.iter().zip(y).map(|(x, y)| f64::from(x - y)).collect();
        (0..n).map(|i| (0..n).map(|j| e[i] * covariance[i * n + j] * e[j]).sum::<f64>()).sum()
    }

    /// H_kg H_gg^-1 for each column k and each column of the groups g that it is not in.
    fn between_groups(covariance: &[f64], n: usize, size: usize) -> Vec<f64> {
        let h = |i: usize, j: usize| covariance[i * n + j];
        let mut between = vec![0.0; n * n];
        for first in (0..n).step_by(size) {
            for place in 0..size {
                // A column of the inverse, by relaxation.
                let mut inverse = vec![0f64; size];
                for _ in 0..200 {
                    for i in 0..size {
                        let others = (0..size).filter(|&l| l != i);
                        let rest: f64 = others.map(|l| inverse[l] * h(first + l, first + i)).sum();
                        let unit = if i == place { 1.0 } else { 0.0 };
                        inverse[i] = (unit - rest) / h(first + i, first + i);
                    }
                }
                for k in (0..n).filter(|k| k / size != first / size) {
                    between[k * n + first + place] = (0..size).map(|i| h(k, first + i) * inverse[i]).sum();
                }
            }
        }
        between
    }

    /// Chooses the codes of a block again.
    fn improve(format: Format, covariance: &[f64], between: &[f64], x: &[f32], block: &mut [u8]) {
        let n = x.len();
        let mut before = vec![0.0; n];
        dequantize(format, block, &mut before);
        let left =
            |j: usize| -> f64 { (0..n).map(|k| f64::from(x[k] - before[k]) * between[k * n + j]).sum() };
        let moved: Vec<f32> = (0..n).map(|j| x[j] + left(j) as f32).collect();
        let to_the_right = |at: usize| if at / n < at % n { -between[at] as f32 } else { 0.0 };
        let t: Vec<f32> = (0..n * n).map(to_the_right).collect();
        let importance: Vec<f32> = (0..n).map(|j| covariance[j * n + j] as f32).collect();
        let mut differences = vec![0.0; n];
        let (importance, before) = (&importance[..], Some(&before[..]));
        feed(format, block, Feed { moved: &moved, t: &t, importance, before, errors: &mut differences });
    }

    /// The costs of twenty blocks: as they are encoded without feedback, with it, and when codes are chosen again.
    fn costs(format: Format, h: fn(usize, usize) -> f64) -> [f64; 3] {
        let n = format.block_len();
        let (covariance, t, importance) = factor(n, h);
        let diagonal: Vec<f32> = (0..n).map(|i| covariance[i * n + i] as f32).collect();
        let between = between_groups(&covariance, n, group(format).expect("fed"));
        let mut costs = [0.0; 3];
        for seed in 0..20u32 {
            let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let mut noise = || {
                (0..6)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 8) as f32 / 16_777_216.0 - 0.5
                    })
                    .sum::<f32>()
            };
            let x: Vec<f32> = (0..n).map(|_| noise()).collect();
            let mut block = vec![0; format.block_bytes()];
            let mut y = vec![0.0; n];
            quantize(format, &x, n, Some(&diagonal), &mut block);
            dequantize(format, &block, &mut y);
            costs[0] += cost(&covariance, &x, &y);
            quantize(format, &x, n, Some(&importance), &mut block);
            let mut errors = vec![0.0; n];
            let weights =
                Feed { moved: &x, t: &t, importance: &importance, before: None, errors: &mut errors };
            feed(format, &mut block, weights);
            dequantize(format, &block, &mut y);
            let fed = cost(&covariance, &x, &y);
            costs[1] += fed;
            // The own errors say what the cost is.
            let own = |(e, w): (&f32, &f32)| f64::from(*w) * f64::from(*e) * f64::from(*e);
            let own: f64 = errors.iter().zip(&importance).map(own).sum();
            assert!((own / fed - 1.0).abs() < 1e-3, "{format}: {own}");
            improve(format, &covariance, &between, &x, &mut block);
            dequantize(format, &block, &mut y);
            costs[2] += cost(&covariance, &x, &y);
        }
        println!("{format}: {:.3}, {:.3}", costs[1] / costs[0], costs[2] / costs[0]);
        costs
    }

    #[test]
    fn every_known_format_loses_less_with_feedback() {
        for format in Format::all().filter(|&format| feeds(format)) {
            let [without, with, _] = costs(format, of_neighbours);
            assert!(with < 0.7 * without, "{format}: {with}, without feedback {without}");
        }
    }

    #[test]
    fn codes_that_are_chosen_again_cost_less() {
        for format in Format::all().filter(|&format| feeds(format)) {
            let [_, once, again] = costs(format, of_all);
            assert!(again < 0.97 * once, "{format}: {again}, before {once}");
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        // More than sixteen, no multiple of it, one of them zeros.
        const ROWS: usize = 21;
        for format in Format::all().filter(|&format| feeds(format)) {
            let n = format.block_len();
            let number = |i: usize| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5;
            let mut moved: Vec<f32> = (0..ROWS * n).map(number).collect();
            moved[3 * n..4 * n].fill(0.0);
            let t: Vec<f32> = (0..n * n).map(|i| 0.1 * number(3 * i)).collect();
            let importance: Vec<f32> = (0..n).map(|i| 1.1 + number(7 * i)).collect();
            let mut blocks = vec![0; ROWS * format.block_bytes()];
            quantize(format, &moved, n, Some(&importance), &mut blocks);
            let mut one_by_one = (blocks.clone(), vec![0.0; ROWS * n]);
            let rows = one_by_one.0.chunks_exact_mut(format.block_bytes());
            let errors = one_by_one.1.chunks_exact_mut(n);
            for ((block, moved), errors) in rows.zip(moved.chunks_exact(n)).zip(errors) {
                feed(format, block, Feed { moved, t: &t, importance: &importance, before: None, errors });
            }
            let mut errors = vec![0.0; ROWS * n];
            feed(
                format,
                &mut blocks,
                Feed { moved: &moved, t: &t, importance: &importance, before: None, errors: &mut errors },
            );
            assert_eq!((blocks, errors), one_by_one, "{format}");
        }
    }
}
