//! The search through a whole codebook, in 16-bit integers: thirty-two entries at a time.
//!
//! Scores need not be exact to find the few entries worth keeping, whose P and Q are then computed in floating point.

use fearless_simd::{
    Select, Simd, SimdBase, SimdCombine, SimdInt, SimdIntWiden, SimdMask, SimdNarrow, SimdSplit, f32x8,
    f32x16, i16x32, i32x16,
};

use super::codebook::{Codebook, Lanes};
use super::entries::{Entries, KEPT, LADDER, Target};

/// The entries with the largest P - s Q / 2 at rising scales s: those of the ladder from FROM up to TO, that one left out. Of
/// equals the first in the order of [`Top::entries`]; in the place of the scales that are left out is the first of all.
///
/// With `turned` one sign must be the opposite of the weight's: the one that costs least, so that P loses
/// 2 min(w x v).
#[inline(always)]
pub(crate) fn search<S: Simd, const D: usize, const FROM: usize, const TO: usize>(
    simd: S,
    book: &Codebook<D>,
    target: &Target<D>,
    turned: bool,
    middle: f32,
) -> Entries {
    let scaled = Scaled::new(simd, book, target, middle);
    let mut top = Top::<S, FROM, TO>::new(simd);
    for (i, lanes) in book.lanes.iter().enumerate() {
        let (p, least) = scaled.products(simd, lanes);
        let p = if turned { p - least - least } else { p };
        top.climb(i16x32::splat(simd, i as i16), p, scaled.squares(simd, lanes));
    }
    exact(simd, book, target, turned, top.entries(simd))
}

/// A target in integers, scaled so that P fills 15 bits and a tenth of the middle scale's s Q / 2 has the same unit.
struct Scaled<S: Simd, const D: usize> {
    a: [i16x32<S>; D],
    /// Pairs of dimensions, for Q: half of them are used.
    w: [i16x32<S>; D],
}

/// Bits of Q below the unit of P.
const FRACTION: u32 = 14;

impl<S: Simd, const D: usize> Scaled<S, D> {
    #[inline(always)]
    fn new(simd: S, book: &Codebook<D>, target: &Target<D>, middle: f32) -> Self {
        let (mut sum, mut largest) = (0.0_f32, 0.0_f32);
        for t in 0..D {
            sum += target.a[t];
            largest = largest.max(target.w[t]);
        }
        // A tenth of s Q / 2 for importance 1, in units of 2^-FRACTION.
        let tenth = middle * 0.05 * (1 << FRACTION) as f32 / book.square;
        let mut unit = f32::MAX;
        if sum > 0.0 {
            unit = 32000.0 / (sum * book.largest);
        }
        if largest > 0.0 {
            unit = unit.min(32767.0 / (largest * tenth));
        }
        let unit = if unit < f32::MAX { unit } else { 0.0 };
        let mut a = [i16x32::splat(simd, 0); D];
        let mut w = a;
        for t in 0..D {
            a[t] = i16x32::splat(simd, (target.a[t] * unit + 0.5) as i32 as i16);
        }
        for j in 0..D / 2 {
            let pair = [0, 1].map(|t| (target.w[2 * j + t] * unit * tenth + 0.5) as i32 as i16);
            w[j] = i16x32::from_fn(simd, |lane| pair[lane % 2]);
        }
        Self { a, w }
    }

    /// P, and the smallest of its terms.
    #[inline(always)]
    fn products(&self, simd: S, lanes: &Lanes<D>) -> (i16x32<S>, i16x32<S>) {
        let mut p = i16x32::load_array_ref(simd, &lanes.values[0]) * self.a[0];
        let mut least = p;
        for t in 1..D {
            let product = i16x32::load_array_ref(simd, &lanes.values[t]) * self.a[t];
            p += product;
            least = least.min(product);
        }
        (p, least)
    }

    /// A tenth of s Q / 2 at the middle scale.
    #[inline(always)]
    fn squares(&self, simd: S, lanes: &Lanes<D>) -> i16x32<S> {
        self.half_of_squares(simd, lanes, 0).saturating_narrow(self.half_of_squares(simd, lanes, 1))
    }

    #[inline(always)]
    fn half_of_squares(&self, simd: S, lanes: &Lanes<D>, half: usize) -> i32x16<S> {
        let mut q = i16x32::load_array_ref(simd, &lanes.squares[0][half]).pairwise_dot_product(self.w[0]);
        for j in 1..D / 2 {
            q += i16x32::load_array_ref(simd, &lanes.squares[j][half]).pairwise_dot_product(self.w[j]);
        }
        q >> FRACTION
    }
}

/// The best score in each lane at the scales FROM to TO, and which thirty-two entries it came from.
#[derive(Clone, Copy)]
struct Top<S: Simd, const FROM: usize, const TO: usize> {
    score: [i16x32<S>; KEPT],
    index: [i16x32<S>; KEPT],
}

impl<S: Simd, const FROM: usize, const TO: usize> Top<S, FROM, TO> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        Self { score: [i16x32::splat(simd, i16::MIN); KEPT], index: [i16x32::splat(simd, 0); KEPT] }
    }

    /// Scores P - rung * LADDER[k], where saturation only meets entries far from the best; `rung` is a tenth of
    /// s Q / 2.
    #[inline(always)]
    fn climb(&mut self, index: i16x32<S>, p: i16x32<S>, rung: i16x32<S>) {
        // Six to begin with, then one or two at a time: what the ladder has.
        const {
            assert!(LADDER[0] == 6);
            let mut k = 1;
            while k < KEPT {
                assert!(LADDER[k] - LADDER[k - 1] == 1 || LADDER[k] - LADDER[k - 1] == 2);
                k += 1;
            }
        }
        let two = rung.saturating_add(rung);
        let mut score = p.saturating_sub(two.saturating_add(two)).saturating_sub(two);
        for k in 0..TO {
            match if k > 0 { LADDER[k] - LADDER[k - 1] } else { 0 } {
                0 => {}
                1 => score = score.saturating_sub(rung),
                _ => score = score.saturating_sub(two),
            }
            if k < FROM {
                continue;
            }
            let better = score.simd_gt(self.score[k]);
            self.score[k] = score.max(self.score[k]);
            self.index[k] = better.select(index, self.index[k]);
        }
    }

    /// The best entry at each scale; of equals the one in the lowest lane, then the first.
    #[inline(always)]
    fn entries(&self, simd: S) -> [u32; KEPT] {
        let mut entries = [0; KEPT];
        for k in FROM..TO {
            let top = i16x32::splat(simd, self.score[k].reduce_max());
            let lane = self.score[k].simd_eq(top).to_bitmask().trailing_zeros() as usize % 32;
            entries[k] = self.index[k].as_array()[lane] as u32 * 32 + lane as u32;
        }
        entries
    }
}

/// Two dimensions of a group, each eight times.
#[inline(always)]
fn pair<S: Simd, const D: usize>(simd: S, values: &[f32; D], j: usize) -> f32x16<S> {
    f32x8::splat(simd, values[2 * j]).combine(f32x8::splat(simd, values[2 * j + 1]))
}

/// P and Q of eight entries in floating point: sums of the even and the odd dimensions, then both together.
#[inline(always)]
fn exact<S: Simd, const D: usize>(
    simd: S,
    book: &Codebook<D>,
    target: &Target<D>,
    turned: bool,
    entry: [u32; KEPT],
) -> Entries {
    // Rows are entries, two dimensions of all eight in a vector after the transposition.
    let mut rows = [[0.0; D]; KEPT];
    for k in 0..KEPT {
        rows[k] = book.values[entry[k] as usize];
    }
    let flat = rows.as_flattened();
    let mut v = [f32x16::splat(simd, 0.0); D];
    for j in 0..D / 2 {
        v[j] = f32x16::from_slice(simd, &flat[16 * j..16 * j + 16]);
    }
    for _ in 0..3 {
        let old = v;
        for j in 0..D / 4 {
            (v[2 * j], v[2 * j + 1]) = old[j].interleave(old[j + D / 4]);
        }
    }
    let mut p = v[0] * pair(simd, &target.a, 0);
    let mut q = v[0] * v[0] * pair(simd, &target.w, 0);
    let mut least = p;
    for j in 1..D / 2 {
        let product = v[j] * pair(simd, &target.a, j);
        p += product;
        least = least.min(product);
        q += v[j] * v[j] * pair(simd, &target.w, j);
    }
    let ((p0, p1), (q0, q1), (l0, l1)) = (p.split(), q.split(), least.split());
    let mut p = p0 + p1;
    if turned {
        p -= l0.min(l1) * 2.0;
    }
    Entries { p: p.to_array(), q: (q0 + q1).to_array(), entry }
}

#[cfg(test)]
mod tests {
    use fearless_simd::{Level, dispatch};

    use super::*;
    use crate::search::codebook::{IQ2_XS, IQ2_XXS, IQ3_XXS};
    use crate::search::definition::{Numbers, error, least_error};

    fn excess<const D: usize>(book: &Codebook<D>, turned: bool, middle: f32) -> f64 {
        let (mut found, mut least) = (0.0, 0.0);
        let mut numbers = Numbers(1);
        for _ in 0..100 {
            let (x, w) = numbers.group();
            let entries = dispatch!(Level::new(), simd => {
                search::<_, D, 0, KEPT>(simd, book, &Target::magnitudes(&x, &w), turned, middle)
            });
            for (k, rung) in LADDER.into_iter().enumerate() {
                let scale = middle * 0.1 * f32::from(rung);
                found += error(&x, &w, scale, entries.p[k], entries.q[k]);
                least += least_error(&book.values, false, turned, &x, &w, scale);
            }
        }
        found / least - 1.0
    }

    #[test]
    fn sixteen_bits_find_the_best_entry_but_for_a_thousandth_of_the_error() {
        for turned in [false, true] {
            let all = [
                excess(&IQ2_XXS, turned, 0.05),
                excess(&IQ2_XS, turned, 0.05),
                excess(&IQ3_XXS, turned, 0.04),
            ];
            for excess in all {
                assert!((-1e-6..1e-3).contains(&excess), "{all:?}");
            }
        }
    }
}
