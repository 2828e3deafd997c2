//! Error feedback inside of a block (as in GPTQ): the rounding error of one group of weights is taken up by the
//! weights to its right.
//!
//! The scales of the block are given by [`quantize`](crate::quantize); here the codes of the weights are chosen
//! again, group after group, each for weights that the errors of the groups before have moved. A group has one code:
//! it is one weight in integer formats, and four or eight weights that share a codebook entry in the others.

pub(crate) mod scalar;
pub(crate) mod vector;

use std::ops::Range;

use fearless_simd::{Level, Simd, SimdBase, f32x16};

use crate::{Format, formats};

/// Lanes of the vectors in which weights are moved.
const LANES: usize = 16;

/// Whether [`feed`] knows the format. The others keep the codes that they have.
#[must_use]
pub fn feeds(format: Format) -> bool {
    format.is_known() && formats::feeds(format)
}

/// The weights of one block, and what moves them.
///
/// The covariance of the inputs is H = R R^T with R upper triangular, and T is the inverse of R with its rows times the
/// diagonal of R. If the weight k comes out off by an error that is its own, not one that it had from others, the
/// weights j to the right are best lessened by that error times T_kj.
#[derive(Debug)]
pub struct Feed<'a> {
    /// The weights, moved by the errors of the blocks before. Overwritten.
    pub moved: &'a mut [f32],
    /// The block's rows and columns of T, row after row: ones on the diagonal. Elements left of it are not read.
    pub t: &'a [f32],
    /// R_jj^2 of each weight: the cost of its error that weights to its right cannot take up.
    pub importance: &'a [f32],
    /// On return, the weights' own errors: each is what the weight had become less the decoded one. The cost e H e^T of
    /// all errors is the sum of their squares times the importances.
    pub errors: &'a mut [f32],
}

/// Encodes the weights of one block anew with the scales that `block` has, with feedback.
///
/// # Panics
/// If the lengths are not those of one block.
pub fn feed(format: Format, block: &mut [u8], weights: Feed<'_>) {
    feed_at(Level::new(), format, block, weights);
}

/// [`feed`] at a chosen SIMD level.
pub fn feed_at(level: Level, format: Format, block: &mut [u8], mut weights: Feed<'_>) {
    let n = format.block_len();
    let Feed { moved, t, importance, errors } = &weights;
    assert_eq!(block.len(), format.block_bytes(), "bytes of a block of {format}");
    assert_eq!(
        (moved.len(), t.len(), importance.len(), errors.len()),
        (n, n * n, n, n),
        "a block of {format} has {n} weights"
    );
    formats::feed(level, format, block, &mut weights);
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

impl Feed<'_> {
    /// Takes the group of weights from `first` on for done, with these values: notes its errors and moves the weights
    /// right of it. Sixteen lanes are sixteen weights; each takes the errors one after the other, at any SIMD level.
    #[inline(always)]
    fn settle<S: Simd>(&mut self, simd: S, first: usize, decoded: &[f32]) {
        self.note(first, decoded);
        let end = first + decoded.len();
        self.spread(simd, first..end, end / LANES..self.moved.len() / LANES);
    }

    /// The own errors of a group whose weights were chosen together: without what they have from one another.
    #[inline(always)]
    pub(crate) fn note(&mut self, first: usize, decoded: &[f32]) {
        let n = self.moved.len();
        for j in first..first + decoded.len() {
            let mut error = self.moved[j] - decoded[j - first];
            for k in first..j {
                error -= self.errors[k] * self.t[k * n + j];
            }
            self.errors[j] = error;
        }
    }

    /// Moves the weights of some vectors by some errors. What is settled moves too where it shares a vector with
    /// others, which nothing sees.
    #[inline(always)]
    fn spread<S: Simd>(&mut self, simd: S, errors: Range<usize>, vectors: Range<usize>) {
        let (moved, _) = self.moved.as_chunks_mut::<LANES>();
        let (t, _) = self.t.as_chunks::<LANES>();
        let row = moved.len();
        for vector in vectors {
            let mut sum = f32x16::load_array_ref(simd, &moved[vector]);
            for k in errors.clone() {
                sum -= f32x16::load_array_ref(simd, &t[k * row + vector]) * self.errors[k];
            }
            sum.store_array(&mut moved[vector]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dequantize, quantize};

    /// A covariance with strong neighbours, T and the squares of R's diagonal.
    fn factor(n: usize) -> (Vec<f64>, Vec<f32>, Vec<f32>) {
        let h = |i: usize, j: usize| {
            0.9f64.powi(i.abs_diff(j) as i32)
                * (1.0 + 0.5 * ((i * 7) % 5) as f64).sqrt()
                * (1.0 + 0.5 * ((j * 7) % 5) as f64).sqrt()
        };
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

    #[test]
    fn every_known_format_loses_less_with_feedback() {
        for format in Format::all().filter(|&format| feeds(format)) {
            let n = format.block_len();
            let (covariance, t, importance) = factor(n);
            let diagonal: Vec<f32> = (0..n).map(|i| covariance[i * n + i] as f32).collect();
            let (mut before, mut after) = (0.0, 0.0);
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
                before += cost(&covariance, &x, &y);
                quantize(format, &x, n, Some(&importance), &mut block);
                let (mut moved, mut errors) = (x.clone(), vec![0.0; n]);
                let weights = Feed { moved: &mut moved, t: &t, importance: &importance, errors: &mut errors };
                feed(format, &mut block, weights);
                dequantize(format, &block, &mut y);
                after += cost(&covariance, &x, &y);
                // The own errors say what the cost is.
                let own = |(e, w): (&f32, &f32)| f64::from(*w) * f64::from(*e) * f64::from(*e);
                let own: f64 = errors.iter().zip(&importance).map(own).sum();
                assert!((own / cost(&covariance, &x, &y) - 1.0).abs() < 1e-3, "{format}: {own}");
            }
            println!("{format}: {:.3}", after / before);
            assert!(after < 0.7 * before, "{format}: {after}, without feedback {before}");
        }
    }
}
