//! The search near the rounded weights, for the codebooks of four values on eight levels.
//!
//! As `neighbours`, with the values of an entry packed in four bytes.

use std::sync::LazyLock;

use fearless_simd::{
    Simd, SimdBase, SimdCvtTruncate, SimdFloat, SimdInt, SimdMask, f32x4, f32x16, i32x4, u32x16,
};

use super::codebook::{self, Codebook};
use super::entries::{Entries, KEPT, Taken, maxima};
use super::scales::times;
use super::super_block::first_largest;

const PATTERNS: usize = 4096;
/// Entries in a list, and as many again for the final choice.
const LIST: usize = 16;
/// Lists looked at, each for two neighbouring scales.
const LISTS: usize = KEPT / 2;
/// The scales that are searched, over the middle one; closer than for coarser formats, whose error says less of the
/// scale.
const SCALES: [f32; KEPT] = [0.62, 0.72, 0.82, 0.92, 1.03, 1.16, 1.34, 1.6];

/// The nearest entries of each pattern.
pub(crate) struct NearFours {
    /// By pattern: values, the first in the lowest byte.
    values: Vec<[[u32; LIST]; 2]>,
    /// By pattern: the numbers of the entries.
    entries: Vec<[u16; 2 * LIST]>,
    /// Half the distance of two levels.
    unit: f32,
}

pub(crate) static IQ3_XXS: LazyLock<NearFours> = LazyLock::new(|| NearFours::new(&codebook::IQ3_XXS));
pub(crate) static IQ3_S: LazyLock<NearFours> = LazyLock::new(|| NearFours::new(&codebook::IQ3_S));

impl NearFours {
    fn new(book: &Codebook<4>) -> Self {
        let unit = book.values[0][0];
        let level = |v: f32| ((v / unit - 1.0) * 0.5).round() as i32;
        let mut table = Self { values: Vec::new(), entries: Vec::new(), unit };
        for pattern in 0..PATTERNS {
            let distance = |entry: &[f32; 4]| -> i32 {
                (0..4).map(|t| (level(entry[t]) - (pattern >> (3 * t) & 7) as i32).pow(2)).sum()
            };
            let mut nearest: Vec<usize> = (0..book.values.len()).collect();
            nearest.sort_by_cached_key(|&number| distance(&book.values[number]));
            table.entries.push(std::array::from_fn(|lane| nearest[lane] as u16));
            table.values.push([0, LIST].map(|first| {
                std::array::from_fn(|lane| {
                    let entry = book.values[nearest[first + lane]];
                    u32::from_le_bytes(std::array::from_fn(|t| entry[t] as u8))
                })
            }));
        }
        table
    }

    /// The number in the codebook of what [`search`](Self::search) found.
    pub fn entry(&self, found: u32) -> u16 {
        self.entries[found as usize / LIST][found as usize % LIST]
    }

    /// The entries with the largest P - s Q / 2 at the scales of the ladder, in the lists of the rounded magnitudes.
    ///
    /// With `turned` one sign must be the opposite of the weight's, so that P loses 2 min(w x v). It is looked for near
    /// the pattern where the weight that adds least to the norm is as small as it can be.
    #[inline(always)]
    pub fn search<S: Simd>(&self, simd: S, target: &Magnitudes, turned: bool, middle: f32) -> Entries {
        let scales = times(&SCALES, middle);
        let mut between = [0.0; LISTS];
        for l in 0..LISTS {
            between[l] = 0.5 * (scales[2 * l] + scales[2 * l + 1]);
        }
        let inverse = f32x4::splat(simd, 0.5) / (f32x4::load_array_ref(simd, &between) * self.unit);
        let mut pattern = f32x4::splat(simd, 0.0);
        let mut digit = 1.0;
        let rounded = if turned { target.turned } else { target.x };
        for x in rounded {
            let level = (inverse * x - 0.5).round_ties_even().max(0.0).min(7.0);
            pattern += level * digit;
            digit *= 8.0;
        }
        let patterns = i32x4::truncate_from(pattern);
        let zero = f32x16::splat(simd, 0.0);
        let lanes = u32x16::from_fn(simd, |lane| lane as u32);
        let mut lists = [(zero, zero); LISTS];
        let mut scores = [zero; KEPT];
        for l in 0..LISTS {
            let (p, q) = self.sums(simd, patterns.as_array()[l], 0, target, turned);
            lists[l] = (p, q);
            for k in [2 * l, 2 * l + 1] {
                // The lane in the lowest bits of the score comes out of the maximum with it.
                let score = p - q * (0.5 * scales[k]);
                scores[k] = f32x16::from_bits(score.to_bits() & !15_u32 | lanes);
            }
        }
        let best = maxima(&scores).to_bits() & 15;
        let mut found = Entries::NONE;
        for k in 0..KEPT {
            let lane = best.as_array()[k] as usize % LIST;
            found.p[k] = lists[k / 2].0.as_array()[lane];
            found.q[k] = lists[k / 2].1.as_array()[lane];
            found.entry[k] = patterns.as_array()[k / 2] as u32 * LIST as u32 + lane as u32;
        }
        found
    }

    /// P and Q of the list of a pattern.
    #[inline(always)]
    fn sums<S: Simd>(
        &self,
        simd: S,
        pattern: i32,
        row: usize,
        target: &Magnitudes,
        turned: bool,
    ) -> (f32x16<S>, f32x16<S>) {
        let packed = u32x16::load_array_ref(simd, &self.values[pattern as usize % PATTERNS][row]);
        let mut p = f32x16::splat(simd, 0.0);
        let mut q = p;
        let mut least = f32x16::splat(simd, f32::MAX);
        for t in 0..4 {
            let v: f32x16<S> = ((packed >> (8 * t as u32)) & 255).to_float();
            let product = v * target.a[t];
            p += product;
            least = least.min(product);
            q += v * v * target.w[t];
        }
        if turned {
            p -= least * 2.0;
        }
        (p, q)
    }

    /// The same at one scale, for the final choice.
    #[inline(always)]
    pub fn search_at<S: Simd>(&self, simd: S, target: &Magnitudes, turned: bool, scale: f32) -> Taken {
        let rounded = if turned { &target.turned } else { &target.x };
        let inverse = 0.5 / (scale * self.unit);
        let level = f32x4::load_array_ref(simd, rounded) * inverse - 0.5;
        let level = level.round_ties_even().max(0.0).min(7.0);
        let level = i32x4::truncate_from(level);
        let [a, b, c, d] = *level.as_array();
        let pattern = a | b << 3 | c << 6 | d << 9;
        let near = self.sums(simd, pattern, 0, target, turned);
        let far = self.sums(simd, pattern, 1, target, turned);
        let near_score = near.0 - near.1 * (0.5 * scale);
        let far_score = far.0 - far.1 * (0.5 * scale);
        // Lane by lane the better of the two rows, the near one if they are equal.
        let farther = far_score.simd_gt(near_score);
        let (lane, _) = first_largest(near_score.max(far_score));
        let (row, (p, q)) = if farther.to_bitmask() >> lane & 1 == 1 { (1, far) } else { (0, near) };
        Taken {
            entry: self.entries[pattern as usize % PATTERNS][LIST * row + lane],
            p: p.as_array()[lane],
            q: q.as_array()[lane],
        }
    }
}

/// Four magnitudes with their importances.
pub(crate) struct Magnitudes {
    x: [f32; 4],
    /// The same with the one nothing that adds least to the norm.
    turned: [f32; 4],
    w: [f32; 4],
    /// w x.
    a: [f32; 4],
}

impl Magnitudes {
    #[inline(always)]
    pub fn new(x: &[f32; 4], w: &[f32; 4]) -> Self {
        let (mut magnitudes, mut a) = ([0.0; 4], [0.0; 4]);
        let mut least = 0;
        for t in 0..4 {
            magnitudes[t] = x[t].abs();
            a[t] = w[t] * magnitudes[t];
            if a[t] * magnitudes[t] < a[least] * magnitudes[least] {
                least = t;
            }
        }
        let mut turned = magnitudes;
        turned[least] = 0.0;
        Self { x: magnitudes, turned, w: *w, a }
    }
}

#[cfg(test)]
mod tests {
    use fearless_simd::{Level, dispatch};

    use super::*;
    use crate::search::definition::{Numbers, error, least_error};

    fn excess(book: &Codebook<4>, near: &NearFours, turned: bool, middle: f32) -> f64 {
        let (mut found, mut least) = (0.0, 0.0);
        let mut numbers = Numbers(3);
        for _ in 0..200 {
            let (x, w) = numbers.group();
            let entries =
                dispatch!(Level::new(), simd => near.search(simd, &Magnitudes::new(&x, &w), turned, middle));
            for k in 1..6 {
                let scale = SCALES[k] * middle;
                found += error(&x, &w, scale, entries.p[k], entries.q[k]);
                least += least_error(&book.values, false, turned, &x, &w, scale);
            }
        }
        found / least - 1.0
    }

    #[test]
    fn the_best_entry_is_mostly_near() {
        let all = [
            excess(&codebook::IQ3_S, &IQ3_S, false, 0.16),
            excess(&codebook::IQ3_XXS, &IQ3_XXS, false, 0.04),
            excess(&codebook::IQ3_XXS, &IQ3_XXS, true, 0.04),
        ];
        for excess in all {
            assert!((-1e-6..0.02).contains(&excess), "{all:?}");
        }
    }
}
