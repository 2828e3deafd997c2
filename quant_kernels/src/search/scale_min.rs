//! A scale and a minimum for a group of weights on the levels 0 to N: sixteen candidates at once, one a lane.

use fearless_simd::{f32x16, prelude::*};

use super::gain::{energy, to_unit};
use super::levels::shifted;
use super::scale::{first_largest, range};
use crate::scale::Scale;

/// Sums over a group, for sixteen maps of weights to levels: of w x q, w q^2 and w q.
#[derive(Clone, Copy)]
pub(crate) struct Sums<S: Simd> {
    pub(crate) xq: f32x16<S>,
    pub(crate) qq: f32x16<S>,
    pub(crate) q: f32x16<S>,
}

impl<S: Simd> Sums<S> {
    /// The level of a weight is x * inverse + offset, rounded and kept within 0..=top; for W times sixteen maps.
    #[inline(always)]
    pub(crate) fn of<const W: usize>(
        simd: S,
        x: &[f32],
        w: &[f32],
        inverse: [f32x16<S>; W],
        offset: [f32x16<S>; W],
        top: f32,
    ) -> [Self; W] {
        let zero = f32x16::splat(simd, 0.0);
        let mut sums = [Self { xq: zero, qq: zero, q: zero }; W];
        for (&x, &w) in x.iter().zip(w) {
            for t in 0..W {
                let q = (inverse[t] * x + offset[t]).round_ties_even().max(0.0).min(top);
                let wq = q * w;
                sums[t].xq += wq * x;
                sums[t].qq += wq * q;
                sums[t].q += wq;
            }
        }
        sums
    }
}

/// y = scale * q - min.
#[derive(Clone, Copy)]
pub(crate) struct ScaleMin {
    pub(crate) scale: f32,
    pub(crate) min: f32,
}

/// How far beyond the outer levels the lowest and the highest weight land, in levels, in each lane.
pub(crate) struct Landings {
    low: [f32; 16],
    high: [f32; 16],
}

impl Landings {
    /// Each of four for the lowest weight with each of four for the highest.
    pub(crate) const fn new(low: [f32; 4], high: [f32; 4]) -> Self {
        let mut landings = Self { low: [0.0; 16], high: [0.0; 16] };
        let mut lane = 0;
        while lane < 16 {
            landings.low[lane] = low[lane / 4];
            landings.high[lane] = high[lane % 4];
            lane += 1;
        }
        landings
    }
}

/// The scale and minimum that leave the least squared error, among least-squares fits to the candidates' levels.
///
/// With `signed` false the minimum is not negative (the weight zero is within reach): what the K formats can store.
#[inline(always)]
pub(crate) fn best_scale_min<S: Simd>(
    simd: S,
    x: &[f32],
    w: &[f32],
    top: f32,
    signed: bool,
    landings: &[Landings],
) -> ScaleMin {
    let (lowest, highest) = range(simd, x);
    let lowest = if signed { lowest } else { lowest.min(0.0) };
    let span = highest - lowest;
    if span <= 0.0 {
        return ScaleMin { scale: 0.0, min: -lowest };
    }
    let (mut weight, mut sum) = (0.0, 0.0);
    for (&x, &w) in x.iter().zip(w) {
        weight += w;
        sum += w * x;
    }
    let mean = sum / weight;
    let zero = f32x16::splat(simd, 0.0);
    let mut best = zero;
    let (mut scale, mut min) = (zero, zero + -lowest);
    for landing in landings {
        let low = f32x16::simd_from(simd, landing.low);
        let high = f32x16::simd_from(simd, landing.high);
        let inverse = (low + high + top) / span;
        let offset = -low - inverse * lowest;
        let [Sums { xq, qq, q }] = Sums::of(simd, x, w, [inverse], [offset], top);
        let covariance = xq - q * mean;
        let variance = qq - q * q / weight;
        // Where one weight is all that counts, the variance is the difference of two large numbers.
        let fit = covariance / variance.max(qq * 1e-5).max(f32::MIN_POSITIVE);
        let floor = fit * q / weight - mean;
        let gained = fit * covariance + mean * sum;
        let (fit, floor, gained) = if signed {
            (fit, floor, gained)
        } else {
            let beyond = floor.simd_lt(0.0);
            let alone = xq / qq.max(f32::MIN_POSITIVE);
            (beyond.select(alone, fit), beyond.select(zero, floor), beyond.select(alone * xq, gained))
        };
        let better = gained.simd_gt(best);
        best = better.select(gained, best);
        scale = better.select(fit, scale);
        min = better.select(floor, min);
    }
    let lane = first_largest(best);
    ScaleMin { scale: scale[lane], min: min[lane] }
}

/// A block's scale and offset (y = d q + m) at unit gain, and the levels of its weights.
#[inline(always)]
pub(crate) fn fit<S: Simd>(
    simd: S,
    x: &[f32; 32],
    w: &[f32; 32],
    top: f32,
    landings: &[Landings],
    levels: &mut [u8; 32],
) -> (Scale, Scale) {
    let ScaleMin { scale, min } = best_scale_min(simd, x, w, top, true, landings);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut xy = f32x16::splat(simd, 0.0);
    for (x, w) in x.as_chunks::<16>().0.iter().zip(w.as_chunks::<16>().0) {
        let (x, w) = (f32x16::simd_from(simd, *x), f32x16::simd_from(simd, *w));
        let y = (x * inverse + min * inverse).round_ties_even().max(0.0).min(top) * scale - min;
        xy += x * w * y;
    }
    let gain = to_unit(energy(simd, x, w), xy.reduce_sum());
    let (d, m) = (Scale::nearest(scale * gain), Scale::nearest(-min * gain));
    let (s, m_now) = (d.get() / gain, m.get() / gain);
    let inverse = if s == 0.0 { 0.0 } else { 1.0 / s };
    shifted(simd, x, inverse, -m_now * inverse, top, levels);
    (d, m)
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{at_every_level, group};
    use super::*;

    /// [`best_scale_min`], one candidate and one weight at a time.
    fn definition(x: &[f32], w: &[f32], top: f32, signed: bool, landings: &[Landings]) -> (f32, f32) {
        let highest = x.iter().fold(f32::NEG_INFINITY, |highest, x| highest.max(*x));
        let lowest = x.iter().fold(if signed { f32::INFINITY } else { 0.0 }, |lowest, x| lowest.min(*x));
        let (mut weight, mut sum) = (0.0, 0.0);
        for (x, w) in x.iter().zip(w) {
            weight += w;
            sum += w * x;
        }
        let mean = sum / weight;
        let (mut scale, mut min, mut most) = (0.0, -lowest, 0.0);
        for lane in 0..16 {
            for landing in landings {
                let (low, high) = (landing.low[lane], landing.high[lane]);
                let inverse = (low + high + top) / (highest - lowest);
                let offset = -low - inverse * lowest;
                let (mut xq, mut qq, mut q) = (0.0, 0.0, 0.0);
                for (&x, &w) in x.iter().zip(w) {
                    let level = (inverse * x + offset).round_ties_even().clamp(0.0, top);
                    xq += level * w * x;
                    qq += level * w * level;
                    q += level * w;
                }
                let covariance = xq - q * mean;
                let variance = (qq - q * q / weight).max(qq * 1e-5).max(f32::MIN_POSITIVE);
                let mut fit = covariance / variance;
                let mut floor = fit * q / weight - mean;
                let mut gained = fit * covariance + mean * sum;
                if !signed && floor < 0.0 {
                    fit = xq / qq.max(f32::MIN_POSITIVE);
                    floor = 0.0;
                    gained = fit * xq;
                }
                if gained > most {
                    (scale, min, most) = (fit, floor, gained);
                }
            }
        }
        (scale, min)
    }

    #[test]
    fn the_best_scale_and_minimum_are_the_definitions() {
        let landings = [
            Landings::new([-0.3, 0.0, 0.3, 0.6], [-0.3, 0.0, 0.3, 0.6]),
            Landings::new([-0.15, 0.15, 0.45, 0.75], [-0.15, 0.15, 0.45, 0.75]),
        ];
        for seed in 0..200 {
            let (x, w) = group(seed);
            for (top, signed) in [(3.0, false), (15.0, false), (15.0, true), (31.0, true)] {
                let expected = definition(&x, &w, top, signed, &landings);
                at_every_level!(simd => {
                    let found = best_scale_min(simd, &x, &w, top, signed, &landings);
                    assert_eq!((found.scale, found.min), expected, "seed {seed}, {top} {signed}");
                });
            }
        }
    }
}
