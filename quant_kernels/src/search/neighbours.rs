//! The search near the rounded weights, for the large codebooks of eight values on three levels.
//!
//! Each weight is rounded to the nearest level by itself. Of the 3^8 patterns that this can give a third or a sixth are
//! entries; for every pattern a list of the nearest entries is kept, sixteen lanes and sixteen more for the final
//! choice. The lists know nothing of the importances, so the best entry need not be among them; the tests hold the loss
//! against a full search.
//!
//! ```text
//!   weights / scale   0.9 -0.2  0.1  1.3  ...      rounded by themselves to -1, 0, 1
//!   pattern           + 0 0 + ...                  one of 3^8; about one in three is an entry
//!   its list          + 0 0 + ..   + 0 - + ..      the sixteen nearest entries, one a lane: P and Q of each by two
//!                                                  lookups in tables of sums over the first four and the last four
//! ```

use std::sync::LazyLock;

use fearless_simd::{Select, Simd, SimdBase, SimdFloat, SimdMask, f32x8, f32x16, mask32x16, u32x16};

use super::codebook::{self, Codebook};
use super::entries::{Entries, KEPT, Taken, maxima};
use super::look_up::{Places, look_up};
use super::super_block::first_largest;

const PATTERNS: usize = 6561;

/// The sum of 3^t over the bits t that are set.
const TERNARY: [u16; 256] = {
    let mut sums = [0; 256];
    let mut bits = 1;
    while bits < 256 {
        let highest = usize::ilog2(bits);
        sums[bits] = sums[bits - (1 << highest)] + 3_u16.pow(highest);
        bits += 1;
    }
    sums
};

/// The nearest entries of each pattern.
pub(crate) struct Neighbours {
    /// By pattern, near sixteen and far sixteen: where in the tables of [`Sums`] an entry's sums are, of the weights at
    /// the lowest level among the first four and the last four, then of those at the highest.
    places: Vec<[Places; 2]>,
    /// By pattern: the numbers of the entries.
    entries: Vec<[u16; 32]>,
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
        let mut table = Self { places: Vec::new(), entries: Vec::new() };
        for pattern in 0..PATTERNS {
            let rounded: [i32; 8] = std::array::from_fn(|t| (pattern / 3_usize.pow(t as u32) % 3) as i32);
            let distance = |entry: &[i32; 8]| -> i32 { (0..8).map(|t| (entry[t] - rounded[t]).pow(2)).sum() };
            // Buckets by distance, at most 32; inside a bucket the order of the codebook.
            let mut shells: [Vec<u16>; 33] = std::array::from_fn(|_| Vec::new());
            for (number, entry) in all.iter().enumerate() {
                shells[distance(entry) as usize].push(number as u16);
            }
            let mut nearest = shells.into_iter().flatten();
            let entries: [u16; 32] = std::array::from_fn(|_| nearest.next().unwrap_or_default());
            let mut places = [[[0; 16]; 4]; 2];
            for (lane, &number) in entries.iter().enumerate() {
                for (t, &level) in all[usize::from(number)].iter().enumerate() {
                    if level != 1 {
                        places[lane / 16][level as usize + t / 4][lane % 16] |= 4 << (t % 4);
                    }
                }
            }
            table.places.push(places);
            table.entries.push(entries);
        }
        table
    }

    /// The number in the codebook of what [`search`](Self::search) found.
    pub fn entry(&self, found: u32) -> u16 {
        self.entries[found as usize / 16][found as usize % 16]
    }

    /// The entries with the largest P - s Q / 2 in the lists of the weights rounded to `rounding` at L scales: for two
    /// kinds of `levels` at those scales, for one kind a bit below and above each.
    #[inline(always)]
    pub fn search<S: Simd, const N: usize, const L: usize>(
        &self,
        simd: S,
        rounding: &Levels,
        levels: &[Levels; N],
        x: &[f32; 8],
        w: &[f32; 8],
        scales: &[f32; L],
    ) -> [Entries; N] {
        const { assert!((N == 1 || N == 2) && 2 * L <= KEPT) };
        let per_list = 2 / N;
        let target = Sums::new(simd, x, w);
        let x = f32x8::load_array_ref(simd, x);
        let zero = f32x16::splat(simd, 0.0);
        let lanes = u32x16::from_fn(simd, |lane| lane as u32);
        let mut patterns = [0; L];
        let mut lists = [[(zero, zero); L]; N];
        let mut scores = [zero; KEPT];
        for l in 0..L {
            let scale = scales[l];
            patterns[l] = rounding.pattern(x, scale);
            let outer = target.outer(simd, &self.places[patterns[l]][0]);
            for n in 0..N {
                let (p, q) = target.p_and_q(&levels[n], outer);
                lists[n][l] = (p, q);
                for j in 0..per_list {
                    let scale = if N == 1 { scale * ASIDE[j] } else { scale };
                    // The lane in the lowest bits of the score comes out of the maximum with it.
                    let score = p - q * (0.5 * scale);
                    scores[L * n + per_list * l + j] = f32x16::from_bits(score.to_bits() & !15_u32 | lanes);
                }
            }
        }
        let best = maxima(&scores).to_bits() & 15;
        let mut found = [Entries::NONE; N];
        for n in 0..N {
            for k in 0..L * per_list {
                let lane = best.as_array()[L * n + k] as usize % 16;
                let (p, q) = &lists[n][k / per_list];
                found[n].p[k] = p.as_array()[lane];
                found[n].q[k] = q.as_array()[lane];
                found[n].entry[k] = (patterns[k / per_list] * 16 + lane) as u32;
            }
        }
        found
    }

    /// The best at one scale among twice as many, for the final choice.
    #[inline(always)]
    pub fn search_at<S: Simd>(
        &self,
        simd: S,
        levels: &Levels,
        x: &[f32; 8],
        w: &[f32; 8],
        scale: f32,
    ) -> Taken {
        let pattern = levels.pattern(f32x8::load_array_ref(simd, x), scale);
        let target = Sums::new(simd, x, w);
        let rows = &self.places[pattern];
        let near = target.p_and_q(levels, target.outer(simd, &rows[0]));
        let far = target.p_and_q(levels, target.outer(simd, &rows[1]));
        let near_score = near.0 - near.1 * (0.5 * scale);
        let far_score = far.0 - far.1 * (0.5 * scale);
        // Lane by lane the better of the two rows, the near one if they are equal.
        let farther = far_score.simd_gt(near_score);
        let (lane, _) = first_largest(near_score.max(far_score));
        let (row, (p, q)) = if farther.to_bitmask() >> lane & 1 == 1 { (1, far) } else { (0, near) };
        Taken { entry: self.entries[pattern][16 * row + lane], p: p.as_array()[lane], q: q.as_array()[lane] }
    }
}

/// What P and Q are made of, with w the importances and a these times the weights.
struct Sums<S: Simd> {
    /// Of a, then of w: the sums over all choices from the first four weights, and from the last four.
    tables: [[f32x16<S>; 2]; 2],
    all_a: f32,
    all_w: f32,
}

/// For sixteen entries: sums of a and w over the weights at the lowest level, and over those at the highest.
type Outer<S> = [(f32x16<S>, f32x16<S>); 2];

impl<S: Simd> Sums<S> {
    #[inline(always)]
    fn new(simd: S, x: &[f32; 8], w: &[f32; 8]) -> Self {
        let (mut a, mut all_a, mut all_w) = ([0.0; 8], 0.0, 0.0);
        for t in 0..8 {
            a[t] = w[t] * x[t];
            all_a += a[t];
            all_w += w[t];
        }
        let tables = [
            [choices(simd, [a[0], a[1], a[2], a[3]]), choices(simd, [a[4], a[5], a[6], a[7]])],
            [choices(simd, [w[0], w[1], w[2], w[3]]), choices(simd, [w[4], w[5], w[6], w[7]])],
        ];
        Self { tables, all_a, all_w }
    }

    #[inline(always)]
    fn outer(&self, simd: S, places: &Places) -> Outer<S> {
        let zero = f32x16::splat(simd, 0.0);
        let mut outer = [(zero, zero); 2];
        for side in 0..2 {
            let [a, w] = &self.tables;
            let first = look_up(simd, [a[0], w[0]], places, 2 * side);
            let last = look_up(simd, [a[1], w[1]], places, 2 * side + 1);
            outer[side] = (first[0] + last[0], first[1] + last[1]);
        }
        outer
    }

    /// P and Q: of the middle level everywhere, and what the outer levels add.
    #[inline(always)]
    fn p_and_q(&self, levels: &Levels, outer: Outer<S>) -> (f32x16<S>, f32x16<S>) {
        let [(low_a, low_w), (high_a, high_w)] = outer;
        let [low, middle, high] = levels.0;
        let square = middle * middle;
        (
            low_a * (low - middle) + high_a * (high - middle) + self.all_a * middle,
            low_w * (low * low - square) + high_w * (high * high - square) + self.all_w * square,
        )
    }
}

/// The sums of all choices of four values: in lane n those of its bits.
#[inline(always)]
fn choices<S: Simd>(simd: S, values: [f32; 4]) -> f32x16<S> {
    const WITH: [u64; 4] = [0xaaaa, 0xcccc, 0xf0f0, 0xff00];
    let zero = f32x16::splat(simd, 0.0);
    let mut parts = [zero; 4];
    for t in 0..4 {
        parts[t] = mask32x16::from_bitmask(simd, WITH[t]).select(f32x16::splat(simd, values[t]), zero);
    }
    (parts[0] + parts[1]) + (parts[2] + parts[3])
}

/// The three values of a codebook, rising.
pub(crate) struct Levels(pub [f32; 3]);

impl Levels {
    /// The pattern of weights rounded at a scale: digit t to the base 3 for weight t.
    #[inline(always)]
    fn pattern<S: Simd>(&self, x: f32x8<S>, scale: f32) -> usize {
        let [low, middle, high] = self.0;
        let above = |bound: f32| x.simd_gt(f32x8::splat(x.simd, scale * bound)).to_bitmask() as usize % 256;
        usize::from(TERNARY[above(0.5 * (low + middle))] + TERNARY[above(0.5 * (middle + high))])
    }
}

/// Where a list serves two scales: these times its own, a sixth apart, as the rungs are two such steps apart.
const ASIDE: [f32; 2] = [0.92, 1.08];

#[cfg(test)]
mod tests {
    use fearless_simd::{Level, dispatch};

    use super::*;
    use crate::search::definition::{Numbers, error, least_error};

    fn excess(
        book: &Codebook<8>,
        near: &Neighbours,
        levels: [f32; 3],
        rounding: [f32; 3],
        middle: f32,
    ) -> f64 {
        let signed = levels[0] < 0.0;
        let shift = if signed { levels[1] } else { 0.0 };
        let values: Vec<[f32; 8]> = book.values.iter().map(|entry| entry.map(|v| v + shift)).collect();
        let rungs = [0.8, 1.0, 1.2];
        let (mut found, mut least) = (0.0, 0.0);
        let mut numbers = Numbers(2);
        for _ in 0..100 {
            let (mut x, w) = numbers.group::<8>();
            if !signed {
                x = x.map(f32::abs);
            }
            let [entries] = dispatch!(Level::new(), simd => {
                near.search(simd, &Levels(rounding), &[Levels(levels)], &x, &w, &rungs.map(|rung| rung * middle))
            });
            for k in 0..2 * rungs.len() {
                let scale = rungs[k / 2] * middle * ASIDE[k % 2];
                found += error(&x, &w, scale, entries.p[k], entries.q[k]);
                least += least_error(&values, signed, false, &x, &w, scale);
            }
        }
        found / least - 1.0
    }

    #[test]
    fn the_best_entry_is_mostly_near() {
        let magnitudes = [8.0, 25.0, 43.0];
        let excess_of_magnitudes = excess(&codebook::IQ2_S, &IQ2_S, magnitudes, magnitudes, 0.05);
        let excess_of_ternary = excess(&codebook::IQ1, &IQ1, [-0.875, 0.125, 1.125], [-1.0, 0.0, 1.0], 1.3);
        assert!((-1e-6..0.02).contains(&excess_of_magnitudes), "{excess_of_magnitudes}");
        assert!((-1e-6..0.02).contains(&excess_of_ternary), "{excess_of_ternary}");
    }
}
