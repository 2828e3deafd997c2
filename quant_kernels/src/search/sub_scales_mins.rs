//! A super-block's scale and minimum together with the integer scales and minimums of its groups.

use fearless_simd::{f32x16, prelude::*};

use super::gain::{energy, to_unit};
use super::scale::first_largest;
use super::scale_min::{Landings, ScaleMin, Sums, best_scale_min};
use crate::scale::Scale;

/// Sixteen lanes as four by four.
const ROWS: [f32; 16] = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0];
const COLUMNS: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0];

/// How a format cuts its super-block, and how hard to look: at W times four integer scales.
pub(crate) struct Plan<const W: usize> {
    /// The highest level.
    pub(crate) top: f32,
    /// The highest integer scale and minimum.
    pub(crate) end: f32,
    /// For each group's own scale and minimum: [`best_scale_min`]'s.
    pub(crate) landings: [Landings; 1],
    /// Where each four integer scales begin, from the one that the group wants. Eight of them leave 1.5 % less error
    /// than four in Q4_K and 3 % less in Q5_K, for a third more time; nothing less in Q2_K, whose scales end at 15.
    pub(crate) windows: [f32; W],
}

/// A super-block's scales at unit gain, and the integer scales and minimums of its `K` groups.
pub(crate) struct SubScalesMins<const K: usize> {
    pub(crate) d: f32,
    pub(crate) dmin: f32,
    pub(crate) gain: f32,
    pub(crate) scales: [f32; K],
    pub(crate) mins: [f32; K],
}

/// Scales and minimums for 256 weights in K groups.
///
/// Each group first finds its own. The largest fix d and dmin; then each group tries integers around its own choice
/// with the error that they really leave, and d and dmin are fitted to what was taken by least squares.
#[inline(always)]
pub(crate) fn sub_scales_mins<S: Simd, const W: usize, const K: usize>(
    simd: S,
    x: &[f32; 256],
    w: &[f32; 256],
    plan: &Plan<W>,
) -> SubScalesMins<K> {
    let size = 256 / K;
    let mut wanted = [ScaleMin { scale: 0.0, min: 0.0 }; K];
    let (mut d, mut dmin) = (0.0f32, 0.0f32);
    for (wanted, (x, w)) in wanted.iter_mut().zip(x.chunks_exact(size).zip(w.chunks_exact(size))) {
        *wanted = best_scale_min(simd, x, w, plan.top, false, &plan.landings);
        d = d.max(wanted.scale / plan.end);
        dmin = dmin.max(wanted.min / plan.end);
    }
    (d, dmin) = (Scale::nearest(d).get(), Scale::nearest(dmin).get());
    let (mut scales, mut mins) = ([0.0; K], [0.0; K]);
    let (mut uu, mut uv, mut vv, mut xu, mut xv) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for (k, (x, w)) in x.chunks_exact(size).zip(w.chunks_exact(size)).enumerate() {
        let choice = best_integers(simd, x, w, d, dmin, wanted[k], plan);
        (scales[k], mins[k]) = (choice.scale, choice.min);
        let (scale, min) = (f64::from(choice.scale), f64::from(choice.min));
        uu += scale * scale * f64::from(choice.qq);
        uv += scale * min * f64::from(choice.q);
        vv += min * min * f64::from(choice.weight);
        xu += scale * f64::from(choice.xq);
        xv += min * f64::from(choice.sum);
    }
    let det = uu * vv - uv * uv;
    let fit = ((xu * vv - xv * uv) / det) as f32;
    let fit_min = ((xu * uv - xv * uu) / det) as f32;
    // Ill-conditioned fits are far off, with scale and minimum cancelling each other.
    if near(fit, d) && near(fit_min, dmin) {
        (d, dmin) = (fit, fit_min);
    }
    let xy = f64::from(d) * xu - f64::from(dmin) * xv;
    SubScalesMins { d, dmin, gain: to_unit(energy(simd, x, w), xy as f32), scales, mins }
}

/// Whether a refitted scale is a small step from the one before; false for NaN.
#[inline(always)]
fn near(fit: f32, before: f32) -> bool {
    fit > 0.5 * before && fit < 2.0 * before
}

/// A group's integers, the sums for their levels, and the sums of w and w x.
struct Choice {
    scale: f32,
    min: f32,
    xq: f32,
    qq: f32,
    q: f32,
    weight: f32,
    sum: f32,
}

/// The integer scale and minimum that leave the least error, of the plan's scales by four minimums around what the
/// group wants.
///
/// The lowest lane of equals wins, in it the first window. A second look, around the fit to the first one's levels,
/// gains another 0.5 to 1 % for half as much time again.
#[inline(always)]
fn best_integers<S: Simd, const W: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    d: f32,
    dmin: f32,
    wanted: ScaleMin,
    plan: &Plan<W>,
) -> Choice {
    let (mut weight, mut sum) = (0.0, 0.0);
    for (&x, &w) in x.iter().zip(w) {
        weight += w;
        sum += w * x;
    }
    let zero = f32x16::splat(simd, 0.0);
    let first =
        |wanted: f32, d: f32, from: f32| if d > 0.0 { (wanted / d + from).round_ties_even() } else { 0.0 };
    let min = f32x16::simd_from(simd, COLUMNS) + first(wanted.min, dmin, -1.5);
    let min = min.max(0.0).min(plan.end);
    let m = min * dmin;
    let mut scale = [zero; W];
    let (mut inverse, mut offset) = ([zero; W], [zero; W]);
    for t in 0..W {
        let integers = f32x16::simd_from(simd, ROWS) + first(wanted.scale, d, plan.windows[t]);
        scale[t] = integers.max(0.0).min(plan.end);
        let s = scale[t] * d;
        inverse[t] = s.simd_eq(0.0).select(zero, 1.0 / s);
        offset[t] = m * inverse[t];
    }
    let sums = Sums::of(simd, x, w, inverse, offset, plan.top);
    let mut least = zero + f32::INFINITY;
    let mut best = (zero, Sums { xq: zero, qq: zero, q: zero });
    for t in 0..W {
        let (s, sums) = (scale[t] * d, &sums[t]);
        // The squared error less that of all zeros: y = s q - m.
        let error = s * (s * sums.qq - 2.0 * sums.xq) + m * (m * weight + 2.0 * (sum - s * sums.q));
        let better = error.simd_lt(least);
        least = better.select(error, least);
        best.0 = better.select(scale[t], best.0);
        best.1.xq = better.select(sums.xq, best.1.xq);
        best.1.qq = better.select(sums.qq, best.1.qq);
        best.1.q = better.select(sums.q, best.1.q);
    }
    let lane = first_largest(-least);
    let (scale, sums) = best;
    Choice {
        scale: scale[lane],
        min: min[lane],
        xq: sums.xq[lane],
        qq: sums.qq[lane],
        q: sums.q[lane],
        weight,
        sum,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{at_every_level, group};
    use super::*;

    #[test]
    fn the_best_integers_are_the_definitions() {
        let landings = [Landings::new([0.0; 4], [0.0; 4])];
        let plan = Plan { top: 15.0, end: 63.0, landings, windows: [-3.5, 0.5] };
        for seed in 0..200 {
            let (x, w) = group(seed);
            let (d, dmin, wanted) = (4e-4, 3e-3, ScaleMin { scale: 0.011, min: 0.09 });
            let (weight, sum) = w.iter().zip(&x).fold((0.0, 0.0), |(a, b), (w, x)| (a + w, b + w * x));
            let first = |wanted: f32, d: f32, from: f32| (wanted / d + from).round_ties_even();
            let (mut chosen, mut least) = ((0.0, 0.0), f32::INFINITY);
            for lane in 0..16 {
                for from in plan.windows {
                    let scale = (first(wanted.scale, d, from) + (lane / 4) as f32).clamp(0.0, 63.0);
                    let min = (first(wanted.min, dmin, -1.5) + (lane % 4) as f32).clamp(0.0, 63.0);
                    let (s, m) = (scale * d, min * dmin);
                    let inverse = if s == 0.0 { 0.0 } else { 1.0 / s };
                    let (mut xq, mut qq, mut q) = (0.0, 0.0, 0.0);
                    for (&x, &w) in x.iter().zip(&w) {
                        let level = (inverse * x + m * inverse).round_ties_even().clamp(0.0, 15.0);
                        xq += level * w * x;
                        qq += level * w * level;
                        q += level * w;
                    }
                    let error = s * (s * qq - 2.0 * xq) + m * (m * weight + 2.0 * (sum - s * q));
                    if error < least {
                        (chosen, least) = ((scale, min), error);
                    }
                }
            }
            at_every_level!(simd => {
                let found = best_integers::<_, 2>(simd, &x, &w, d, dmin, wanted, &plan);
                assert_eq!((found.scale, found.min), chosen, "seed {seed}");
            });
        }
    }
}
