//! A super-block's scale together with the integer scales of its groups.

use fearless_simd::{f32x16, prelude::*};

use super::gain::{energy, to_unit};
use super::levels::Levels;
use super::scale::{Sums, best_scale, first_largest};
use crate::scale::Scale;

/// How a format cuts its super-block, and how hard to look.
pub(crate) struct Plan<'a> {
    /// The end of the integer scales that is further from zero: -32 or -128; the other end is one short of it.
    pub(crate) end: f32,
    /// For the first guess of each group's scale: [`best_scale`]'s.
    pub(crate) landings: &'a [(f32, f32)],
    /// Try the guesses' mirror images too: pays where the levels' two ends differ much.
    pub(crate) mirror: bool,
    /// Times that the integer scales and the super-block's scale are fitted to each other.
    pub(crate) rounds: usize,
}

/// A super-block's scale at unit gain, and the integer scales of its `K` groups.
pub(crate) struct SubScales<const K: usize> {
    pub(crate) d: f32,
    pub(crate) gain: f32,
    pub(crate) scales: [f32; K],
}

/// Scales for 256 weights in K groups.
///
/// Groups first choose a scale each. The largest fixes d; then each group tries the sixteen integers around its
/// choice with the error that they really leave, and d is fitted to what they took by least squares.
#[inline(always)]
pub(crate) fn sub_scales<L: Levels, S: Simd, const K: usize>(
    simd: S,
    x: &[f32; 256],
    w: &[f32; 256],
    plan: &Plan,
) -> SubScales<K> {
    let size = 256 / K;
    let mut wanted = [0.0; K];
    for (k, wanted) in wanted.iter_mut().enumerate() {
        let group = k * size..(k + 1) * size;
        *wanted = best_scale::<L, S>(simd, &x[group.clone()], &w[group], plan.landings);
    }
    let mut scales = [0.0; K];
    let mut largest = 0.0f32;
    for wanted in wanted {
        if wanted.abs() > largest.abs() {
            largest = wanted;
        }
    }
    let mut d = largest / plan.end;
    if d == 0.0 {
        return SubScales { d, gain: 1.0, scales };
    }
    let mut xy = 0.0;
    for _ in 0..plan.rounds {
        d = Scale::nearest(d).get();
        let (mut xu, mut uu) = (0.0, 0.0);
        for k in 0..K {
            let group = k * size..(k + 1) * size;
            let (scale, xq, qq) =
                best_integer::<L, S>(simd, &x[group.clone()], &w[group], d, wanted[k] / d, plan);
            scales[k] = scale;
            xu += scale * xq;
            uu += scale * scale * qq;
        }
        if uu > 0.0 {
            d = xu / uu;
        }
        xy = d * xu;
    }
    SubScales { d, gain: to_unit(energy(simd, x, w), xy), scales }
}

/// The integer scale of a group that leaves the least error with this d, among those around `wanted`; and its sums.
#[inline(always)]
fn best_integer<L: Levels, S: Simd>(
    simd: S,
    x: &[f32],
    w: &[f32],
    d: f32,
    wanted: f32,
    plan: &Plan,
) -> (f32, f32, f32) {
    let first = wanted.round_ties_even() - 8.0;
    let mut best = f32x16::splat(simd, f32::NEG_INFINITY);
    let (mut scale, mut xq, mut qq) = (best, best, best);
    for sign in if plan.mirror { &[1.0, -1.0][..] } else { &[1.0] } {
        let integers = f32x16::from_fn(simd, |lane| sign * (first + lane as f32));
        let integers = integers.max(plan.end).min(-1.0 - plan.end);
        let s = integers * d;
        let inverse = s.simd_eq(0.0).select(f32x16::splat(simd, 0.0), 1.0 / s);
        let sums = Sums::of::<L>(simd, x, w, inverse);
        // How much of the squared error the group loses: 2 s xq - s s qq.
        let gained = s * (sums.xq + (sums.xq - s * sums.qq));
        let better = gained.simd_gt(best);
        best = better.select(gained, best);
        scale = better.select(integers, scale);
        xq = better.select(sums.xq, xq);
        qq = better.select(sums.qq, qq);
    }
    let lane = first_largest(best);
    (scale[lane], xq[lane], qq[lane])
}
