//! The search near the rounded weights, for the large codebooks of eight values on three levels.
//!
//! Each weight is rounded to the nearest level by itself. Of the 3^8 patterns that this can give a third or a sixth are
//! entries; for every pattern a list of the nearest entries is kept, sixteen lanes. The lists know nothing of the
//! importances, so the best entry need not be among them; the tests hold the loss against a full search.

use std::sync::LazyLock;

use fearless_simd::{Select, Simd, SimdBase, SimdCvtTruncate, SimdMask, f32x16, i32x16, mask32x16};

use super::codebook::{self, Codebook};
use super::entries::{Entries, KEPT};

const PATTERNS: usize = 6561;
/// Sixteens of entries in a list.
const ROWS: usize = 1;

/// The nearest entries of each pattern.
pub(crate) struct Neighbours {
    /// By pattern, sixteen and weight: the lanes whose level is the lowest, and those whose level is the highest.
    levels: Vec<[[[u16; 8]; 2]; ROWS]>,
    /// By pattern: the numbers of the entries.
    entries: Vec<[u16; 16 * ROWS]>,
}

pub(crate) static IQ1: LazyLock<Neighbours> = LazyLock::new(|| Neighbours::new(&codebook::IQ1));
pub(crate) static IQ2_S: LazyLock<Neighbours> = LazyLock::new(|| Neighbours::new(&codebook::IQ2_S));

impl Neighbours {
    fn new(book: &Codebook<8>) -> Self {
        let mut values: Vec<f32> = book.values.as_flattened().to_vec();
        values.sort_by(f32::total_cmp);
        values.dedup();
        let level = |v: f32| values.iter().position(|&other| other == v).unwrap_or_default() as i32;
        let all: Vec<[i32; 8]> = book.values.iter().map(|entry| entry.map(level)).collect();
        let mut table = Self { levels: Vec::new(), entries: Vec::new() };
        for pattern in 0..PATTERNS {
            let rounded: [i32; 8] = std::array::from_fn(|t| (pattern / 3_usize.pow(t as u32) % 3) as i32);
            let distance = |entry: &[i32; 8]| -> i32 { (0..8).map(|t| (entry[t] - rounded[t]).pow(2)).sum() };
            // Buckets by distance, at most 32; inside a bucket the order of the codebook.
            let mut shells: [Vec<u16>; 33] = std::array::from_fn(|_| Vec::new());
            for (number, entry) in all.iter().enumerate() {
                shells[distance(entry) as usize].push(number as u16);
            }
            let mut nearest = shells.into_iter().flatten();
            let entries: [u16; 16 * ROWS] = std::array::from_fn(|_| nearest.next().unwrap_or_default());
            let mut levels = [[[0; 8]; 2]; ROWS];
            for (lane, &number) in entries.iter().enumerate() {
                for t in 0..8 {
                    match all[usize::from(number)][t] {
                        0 => levels[lane / 16][0][t] |= 1 << (lane % 16),
                        2 => levels[lane / 16][1][t] |= 1 << (lane % 16),
                        _ => {}
                    }
                }
            }
            table.levels.push(levels);
            table.entries.push(entries);
        }
        table
    }

    /// The number in the codebook of what [`search`](Self::search) found.
    pub fn entry(&self, found: u32) -> u16 {
        self.entries[found as usize / (16 * ROWS)][found as usize % (16 * ROWS)]
    }

    /// The entries with the largest P - s Q / 2 of the lists of patterns, each with its scale; the first of equals.
    #[inline(always)]
    pub fn search<S: Simd>(
        &self,
        simd: S,
        levels: &Levels,
        a: &[f32; 8],
        w: &[f32; 8],
        patterns: &[i32; KEPT],
        scales: &[f32; KEPT],
    ) -> Entries {
        let zero = f32x16::splat(simd, 0.0);
        // What the lowest and the highest level add to those of the middle level.
        let [low, middle, high] = levels.0;
        let (mut p0, mut q0) = (0.0, 0.0);
        for t in 0..8 {
            p0 += a[t] * middle;
            q0 += w[t] * (middle * middle);
        }
        let mut found = Entries::NONE;
        for k in 0..KEPT {
            let pattern = patterns[k] as usize;
            let mut best = f32::NEG_INFINITY;
            for (row, masks) in self.levels[pattern].iter().enumerate() {
                let mut p = f32x16::splat(simd, p0);
                let mut q = f32x16::splat(simd, q0);
                for t in 0..8 {
                    for (masks, step, square) in [
                        (masks[0], low - middle, low * low - middle * middle),
                        (masks[1], high - middle, high * high - middle * middle),
                    ] {
                        let mask = mask32x16::from_bitmask(simd, u64::from(masks[t]));
                        p += mask.select(f32x16::splat(simd, a[t] * step), zero);
                        q += mask.select(f32x16::splat(simd, w[t] * square), zero);
                    }
                }
                let score = p - q * (0.5 * scales[k]);
                let top = score.reduce_max();
                if top > best {
                    best = top;
                    let lane =
                        score.simd_ge(f32x16::splat(simd, top)).to_bitmask().trailing_zeros() as usize % 16;
                    found.p[k] = p.as_array()[lane];
                    found.q[k] = q.as_array()[lane];
                    found.entry[k] = (pattern * 16 * ROWS + 16 * row + lane) as u32;
                }
            }
        }
        found
    }
}

/// The three values of a codebook, rising.
pub(crate) struct Levels(pub [f32; 3]);

impl Levels {
    /// The pattern of weights rounded at a scale, digit t for weight t, in sixteen lanes.
    #[inline(always)]
    pub fn round<S: Simd>(simd: S, bounds: [f32x16<S>; 2], x: &[f32; 8]) -> [i32; 16] {
        let zero = f32x16::splat(simd, 0.0);
        let mut pattern = zero;
        let mut digit = 1.0;
        for &x in x {
            let one = f32x16::splat(simd, digit);
            for bound in bounds {
                pattern += bound.simd_lt(x).select(one, zero);
            }
            digit *= 3.0;
        }
        *i32x16::truncate_from(pattern).as_array()
    }

    /// Half-way between neighbouring levels at a scale.
    #[inline(always)]
    pub fn bounds(&self) -> [f32; 2] {
        [0.5 * (self.0[0] + self.0[1]), 0.5 * (self.0[1] + self.0[2])]
    }
}
