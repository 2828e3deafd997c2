//! One scale for a group of weights on given levels: sixteen candidates at once, one a lane.

use fearless_simd::{f32x16, prelude::*};

use super::gain::{energy, to_unit};
use super::levels::{Levels, codes};
use crate::scale::Scale;

/// The numbers of the lanes.
pub(crate) const LANES: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// Sums over a group, for sixteen inverse scales: importance x weight x level, and importance x level squared.
#[derive(Clone, Copy)]
pub(crate) struct Sums<S: Simd> {
    pub(crate) xq: f32x16<S>,
    pub(crate) qq: f32x16<S>,
}

/// [`Sums`] for several times sixteen inverse scales.
#[inline(always)]
pub(crate) fn sums<L: Levels, S: Simd, const TIMES: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    inverse: [f32x16<S>; TIMES],
) -> [Sums<S>; TIMES] {
    let zero = f32x16::splat(simd, 0.0);
    let mut sums = [Sums { xq: zero, qq: zero }; TIMES];
    for (&x, &w) in x.iter().zip(w) {
        for t in 0..TIMES {
            let q = L::nearest(inverse[t] * x);
            let wq = q * w;
            sums[t].xq += wq * x;
            sums[t].qq += wq * q;
        }
    }
    sums
}

/// The weight of largest magnitude, with its sign; the positive one of two.
#[inline(always)]
pub(crate) fn peak<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (lowest, highest) = range(simd, x);
    if highest >= -lowest { highest } else { lowest }
}

/// The lowest and the highest weight, of a multiple of sixteen.
#[inline(always)]
pub(crate) fn range<S: Simd>(simd: S, x: &[f32]) -> (f32, f32) {
    let (mut lowest, mut highest) =
        (f32x16::splat(simd, f32::INFINITY), f32x16::splat(simd, f32::NEG_INFINITY));
    for x in x.as_chunks::<16>().0 {
        let x = f32x16::simd_from(simd, *x);
        lowest = lowest.min(x);
        highest = highest.max(x);
    }
    // Adding zero: -0.0 or 0.0 may be the minimum of the two, by level.
    (lowest.reduce_min() + 0.0, highest.reduce_max() + 0.0)
}

/// Where the weight of largest magnitude may land, in units of the level of largest magnitude; one a lane.
pub(crate) type Landings = [f32; 16];

/// Landings from the first lane's in even steps.
pub(crate) const fn landings(first: f32, step: f32) -> Landings {
    let mut landings = LANES;
    let mut lane = 0;
    while lane < 16 {
        landings[lane] = first + step * landings[lane];
        lane += 1;
    }
    landings
}

/// The scale that leaves the least squared error, with its sign; and sum(w x y) = sum(w y^2) with it.
///
/// It is the least-squares one for the levels that a landing gives. The lowest lane of equals wins, in it the first
/// landing. Zero if all weights are.
#[inline(always)]
pub(crate) fn best_scale<L: Levels, S: Simd, const TIMES: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    landings: &[Landings; TIMES],
) -> (f32, f32) {
    let peak = peak(simd, x);
    if peak == 0.0 {
        return (0.0, 0.0);
    }
    let unit = L::END / peak;
    let mut inverse = [f32x16::splat(simd, 0.0); TIMES];
    for t in 0..TIMES {
        inverse[t] = f32x16::simd_from(simd, landings[t]) * unit;
    }
    let mut best = f32x16::splat(simd, 0.0);
    let mut scale = best;
    for Sums { xq, qq } in sums::<L, S, TIMES>(simd, x, w, inverse) {
        let d = xq / qq.max(f32::MIN_POSITIVE);
        let gained = d * xq;
        let better = gained.simd_gt(best);
        best = better.select(gained, best);
        scale = better.select(d, scale);
    }
    let lane = first_largest(best);
    (scale[lane], best[lane])
}

/// The lane of the largest value, the lowest of equals.
#[inline(always)]
pub(crate) fn first_largest<S: Simd>(values: f32x16<S>) -> usize {
    values.simd_eq(values.reduce_max()).to_bitmask().trailing_zeros() as usize
}

/// A block's scale at unit gain, and the codes of its weights.
#[inline(always)]
pub(crate) fn fit<L: Levels, S: Simd, const TIMES: usize, const N: usize>(
    simd: S,
    x: &[f32; N],
    w: &[f32; N],
    landings: &[Landings; TIMES],
    level: &mut [u8; N],
) -> Scale {
    let (d, gained) = best_scale::<L, S, TIMES>(simd, x, w, landings);
    let gain = to_unit(energy(simd, x, w), gained);
    let stored = Scale::nearest(d * gain);
    let inverse = if d == 0.0 { 0.0 } else { gain / stored.get() };
    codes::<L, S>(simd, x, inverse, level);
    stored
}

#[cfg(test)]
mod tests {
    use super::super::levels::{Integers, K4, Listed};
    use super::super::test_data::{at_every_level, group};
    use super::*;

    /// [`best_scale`], one candidate and one weight at a time.
    fn definition(
        nearest: impl Fn(f32) -> f32,
        end: f32,
        x: &[f32],
        w: &[f32],
        landings: &[Landings],
    ) -> (f32, f32) {
        let mut peak = 0.0f32;
        for &x in x {
            if x.abs() > peak.abs() || x == -peak && x > 0.0 {
                peak = x;
            }
        }
        let (mut scale, mut most) = (0.0, 0.0);
        for lane in 0..16 {
            for landing in landings {
                let inverse = landing[lane] * (end / peak);
                let (mut xq, mut qq) = (0.0, 0.0);
                for (&x, &w) in x.iter().zip(w) {
                    let q = nearest(inverse * x);
                    xq += q * w * x;
                    qq += q * w * q;
                }
                let d = xq / qq.max(f32::MIN_POSITIVE);
                if d * xq > most {
                    (scale, most) = (d, d * xq);
                }
            }
        }
        (scale, most)
    }

    const TRIED: [Landings; 2] = [landings(0.8, 0.02), landings(-0.78, -0.02)];

    #[test]
    fn the_best_scale_is_the_definitions_on_integers() {
        let nearest = |v: f32| v.round_ties_even().clamp(-8.0, 7.0);
        for seed in 0..200 {
            let (x, w) = group(seed);
            let expected = definition(nearest, -8.0, &x, &w, &TRIED);
            at_every_level!(simd => {
                assert_eq!(best_scale::<Integers<-8, 7>, _, 2>(simd, &x, &w, &TRIED), expected, "seed {seed}");
            });
        }
    }

    #[test]
    fn the_best_scale_is_the_definitions_on_listed_values() {
        let nearest = |v: f32| {
            let distance = |k: &&i8| (v - f32::from(**k)).abs();
            // The upper of two that are equally near.
            let nearest = K4.iter().rev().min_by(|a, b| distance(a).total_cmp(&distance(b)));
            f32::from(*nearest.unwrap())
        };
        for seed in 0..200 {
            let (x, w) = group(seed);
            let expected = definition(nearest, -127.0, &x, &w, &TRIED);
            at_every_level!(simd => {
                assert_eq!(best_scale::<Listed, _, 2>(simd, &x, &w, &TRIED), expected, "seed {seed}");
            });
        }
    }
}
