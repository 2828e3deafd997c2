//! A super-block's scale together with the integer scales of its groups.

use fearless_simd::{f32x16, prelude::*};

use super::gain::{energy, to_unit};
use super::levels::Levels;
use super::scale::{LANES, first_largest, peak, sums};
use crate::scale::Scale;

/// How a format divides its super-block, and how many scales are tried.
pub(crate) struct Plan<const SIGNS: usize> {
    /// The end of the integer scales that is further from zero: -32 or -128; the other end is one short of it.
    pub(crate) end: f32,
    /// A group's scale is searched around the one at which its largest weight is at this part of the largest level;
    /// groups that gain by clipping it take a lower scale.
    pub(crate) landing: f32,
    /// The super-block's scale, in units of the one that gives the largest group the largest integer.
    pub(crate) head: f32,
    /// Signs of integer scales to try: the mirror image pays where the two ends of the levels differ much.
    pub(crate) signs: [f32; SIGNS],
}

/// A super-block's scale, what raises it to unit gain, and the integer scales of its `K` groups.
pub(crate) struct SubScales<const K: usize> {
    pub(crate) d: f32,
    pub(crate) gain: f32,
    pub(crate) scales: [f32; K],
}

/// Scales for 256 weights in K groups.
///
/// The largest weight fixes d, and each group tries the sixteen integers around the one for its own largest weight,
/// with the error that they really leave; then d is fitted to the levels by least squares. A search for each group's
/// own scale before d took twice the time and gave no less error: the integers are the candidates. The best of two or
/// three d gains 0.5 to 2 % for two or three times the time.
#[inline(always)]
pub(crate) fn sub_scales<L: Levels, S: Simd, const SIGNS: usize, const K: usize>(
    simd: S,
    x: &[f32; 256],
    w: &[f32; 256],
    plan: &Plan<SIGNS>,
) -> SubScales<K> {
    let size = 256 / K;
    let mut wanted = [0.0; K];
    let mut largest = 0.0f32;
    for (wanted, x) in wanted.iter_mut().zip(x.chunks_exact(size)) {
        *wanted = peak(simd, x) / (L::END * plan.landing);
        if wanted.abs() > largest.abs() {
            largest = *wanted;
        }
    }
    let d = Scale::nearest(largest * plan.head / plan.end).get();
    let mut scales = [0.0; K];
    if d == 0.0 {
        return SubScales { d, gain: 1.0, scales };
    }
    let (mut xu, mut uu) = (0.0, 0.0);
    for (k, (x, w)) in x.chunks_exact(size).zip(w.chunks_exact(size)).enumerate() {
        let choice = best_integer::<L, S, SIGNS>(simd, x, w, d, wanted[k], plan);
        scales[k] = choice.scale;
        xu += choice.scale * choice.xq;
        uu += choice.scale * choice.scale * choice.qq;
    }
    let d = if uu > 0.0 { xu / uu } else { d };
    SubScales { d, gain: to_unit(energy(simd, x, w), d * xu), scales }
}

/// A group's integer scale and its sums: importance x weight x level, and importance x level squared.
struct Choice {
    scale: f32,
    xq: f32,
    qq: f32,
}

/// The integer scale that leaves the least error with this d, among those around `wanted`.
///
/// The lowest lane of equals wins, in it the first of the signs.
#[inline(always)]
fn best_integer<L: Levels, S: Simd, const SIGNS: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    d: f32,
    wanted: f32,
    plan: &Plan<SIGNS>,
) -> Choice {
    let zero = f32x16::splat(simd, 0.0);
    let around = f32x16::simd_from(simd, LANES) + ((wanted / d).round_ties_even() - 8.0);
    let (mut integers, mut s, mut inverse) = ([zero; SIGNS], [zero; SIGNS], [zero; SIGNS]);
    for t in 0..SIGNS {
        integers[t] = (around * plan.signs[t]).max(plan.end).min(-1.0 - plan.end);
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
    Choice { scale: scale[lane], xq: xq[lane], qq: qq[lane] }
}

#[cfg(test)]
mod tests {
    use super::super::levels::Integers;
    use super::super::test_data::{at_every_level, group};
    use super::*;

    #[test]
    fn the_best_integer_is_the_definitions() {
        let plan = Plan { end: -32.0, landing: 1.1, head: 1.2, signs: [1.0, -1.0] };
        for seed in 0..200 {
            let (x, w) = group(seed);
            let (d, wanted) = (1.3e-3f32, 0.02f32);
            let first = (wanted / d).round_ties_even() - 8.0;
            let (mut scale, mut most) = (0.0, f32::NEG_INFINITY);
            for lane in 0..16 {
                for sign in plan.signs {
                    let integer = (sign * (first + lane as f32)).clamp(-32.0, 31.0);
                    let s = integer * d;
                    let inverse = if s == 0.0 { 0.0 } else { 1.0 / s };
                    let (mut xq, mut qq) = (0.0, 0.0);
                    for (&x, &w) in x.iter().zip(&w) {
                        let q = (inverse * x).round_ties_even().clamp(-4.0, 3.0);
                        xq += q * w * x;
                        qq += q * w * q;
                    }
                    let gained = s * (xq + (xq - s * qq));
                    if gained > most {
                        (scale, most) = (integer, gained);
                    }
                }
            }
            at_every_level!(simd => {
                let found = best_integer::<Integers<-4, 3>, _, 2>(simd, &x, &w, d, wanted, &plan);
                assert_eq!(found.scale, scale, "seed {seed}");
            });
        }
    }
}
