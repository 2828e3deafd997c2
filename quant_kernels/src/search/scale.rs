//! One scale for a group of weights on given levels: sixteen candidates at once, one a lane.

use fearless_simd::{f32x16, prelude::*};

use super::gain::{energy, to_unit};
use super::levels::{Levels, codes};
use crate::scale::Scale;

/// Sums over a group, for sixteen inverse scales: importance x weight x level, and importance x level squared.
pub(crate) struct Sums<S: Simd> {
    pub(crate) xq: f32x16<S>,
    pub(crate) qq: f32x16<S>,
}

impl<S: Simd> Sums<S> {
    #[inline(always)]
    pub(crate) fn of<L: Levels>(simd: S, x: &[f32], w: &[f32], inverse: f32x16<S>) -> Self {
        let mut sums = Self { xq: f32x16::splat(simd, 0.0), qq: f32x16::splat(simd, 0.0) };
        for (&x, &w) in x.iter().zip(w) {
            let q = L::nearest(inverse * x);
            let wq = q * w;
            sums.xq += wq * x;
            sums.qq += wq * q;
        }
        sums
    }
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

/// The scale that leaves the least squared error among sixteen for each of `landings`, with its sign.
///
/// A landing is the level, in units of the level of largest magnitude, that the weight of largest magnitude is
/// moved to: first lane and step to the next. The scale is the least-squares one for the levels that the candidate
/// gives. The lowest lane of equals wins, in it the first landing. Zero if all weights are.
#[inline(always)]
pub(crate) fn best_scale<L: Levels, S: Simd>(simd: S, x: &[f32], w: &[f32], landings: &[(f32, f32)]) -> f32 {
    let peak = peak(simd, x);
    if peak == 0.0 {
        return 0.0;
    }
    let unit = L::END / peak;
    let mut best = f32x16::splat(simd, 0.0);
    let mut scale = best;
    for &(first, step) in landings {
        let inverse = f32x16::from_fn(simd, |lane| (first + step * lane as f32) * unit);
        let Sums { xq, qq } = Sums::of::<L>(simd, x, w, inverse);
        let d = xq / qq.max(f32::MIN_POSITIVE);
        let gained = d * xq;
        let better = gained.simd_gt(best);
        best = better.select(gained, best);
        scale = better.select(d, scale);
    }
    scale[first_largest(best)]
}

/// The lane of the largest value, the lowest of equals.
#[inline(always)]
pub(crate) fn first_largest<S: Simd>(values: f32x16<S>) -> usize {
    values.simd_eq(values.reduce_max()).to_bitmask().trailing_zeros() as usize
}

/// A block's scale at unit gain, and the codes of its weights.
#[inline(always)]
pub(crate) fn fit<L: Levels, S: Simd, const N: usize>(
    simd: S,
    x: &[f32; N],
    w: &[f32; N],
    landings: &[(f32, f32)],
    level: &mut [u8; N],
) -> Scale {
    let d = best_scale::<L, S>(simd, x, w, landings);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let (mut xq, mut qq) = (f32x16::splat(simd, 0.0), f32x16::splat(simd, 0.0));
    for (x, w) in x.as_chunks::<16>().0.iter().zip(w.as_chunks::<16>().0) {
        let (x, w) = (f32x16::simd_from(simd, *x), f32x16::simd_from(simd, *w));
        let q = L::nearest(x * inverse);
        xq += q * w * x;
        qq += q * w * q;
    }
    let (xq, qq) = (xq.reduce_sum(), qq.reduce_sum());
    let d = if qq > 0.0 { xq / qq } else { d };
    let gain = to_unit(energy(simd, x, w), d * xq);
    let stored = Scale::nearest(d * gain);
    let inverse = if d == 0.0 { 0.0 } else { gain / stored.get() };
    codes::<L, S>(simd, x, inverse, level);
    stored
}
