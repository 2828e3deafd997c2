//! A super-block's scale together with the integer scales of its groups.

use fearless_simd::{f32x16, prelude::*};

use super::gain::{energy, to_unit};
use super::levels::Levels;
use super::scale::{LANES, Landings, best_scale, first_largest, sums};
use crate::scale::Scale;

/// How a format cuts its super-block, and how hard to look.
pub(crate) struct Plan<const TIMES: usize> {
    /// The end of the integer scales that is further from zero: -32 or -128; the other end is one short of it.
    pub(crate) end: f32,
    /// For the first guess of each group's scale: [`best_scale`]'s.
    pub(crate) landings: [Landings; TIMES],
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
pub(crate) fn sub_scales<L: Levels, S: Simd, const TIMES: usize, const K: usize>(
    simd: S,
    x: &[f32; 256],
    w: &[f32; 256],
    plan: &Plan<TIMES>,
) -> SubScales<K> {
    let size = 256 / K;
    let mut wanted = [0.0; K];
    for (k, wanted) in wanted.iter_mut().enumerate() {
        let group = k * size..(k + 1) * size;
        (*wanted, _) = best_scale::<L, S, TIMES>(simd, &x[group.clone()], &w[group], &plan.landings);
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
            let (x, w) = (&x[group.clone()], &w[group]);
            let wanted = wanted[k] / d;
            let (scale, xq, qq) = if plan.mirror {
                best_integer::<L, S, 2>(simd, x, w, d, wanted, plan.end, [1.0, -1.0])
            } else {
                best_integer::<L, S, 1>(simd, x, w, d, wanted, plan.end, [1.0])
            };
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
///
/// In the first of `signs` that is best, the lowest lane of equals wins.
#[inline(always)]
fn best_integer<L: Levels, S: Simd, const SIGNS: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    d: f32,
    wanted: f32,
    end: f32,
    signs: [f32; SIGNS],
) -> (f32, f32, f32) {
    let zero = f32x16::splat(simd, 0.0);
    let around = f32x16::simd_from(simd, LANES) + (wanted.round_ties_even() - 8.0);
    let (mut integers, mut s, mut inverse) = ([zero; SIGNS], [zero; SIGNS], [zero; SIGNS]);
    for t in 0..SIGNS {
        integers[t] = (around * signs[t]).max(end).min(-1.0 - end);
        s[t] = integers[t] * d;
        inverse[t] = s[t].simd_eq(0.0).select(zero, 1.0 / s[t]);
    }
    let sums = sums::<L, S, SIGNS>(simd, x, w, inverse);
    let mut best = zero + f32::NEG_INFINITY;
    let (mut scale, mut xq, mut qq) = (zero, zero, zero);
    for t in 0..SIGNS {
        // How much of the squared error the group loses: 2 s xq - s s qq.
        let gained = s[t] * (sums[t].xq + (sums[t].xq - s[t] * sums[t].qq));
        let better = gained.simd_gt(best);
        best = better.select(gained, best);
        scale = better.select(integers[t], scale);
        xq = better.select(sums[t].xq, xq);
        qq = better.select(sums[t].qq, qq);
    }
    let lane = first_largest(best);
    (scale[lane], xq[lane], qq[lane])
}
