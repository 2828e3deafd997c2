//! The codebook entries that can win for a group of weights, whatever scale its block gets.
//!
//! With importance w, weight x and decoded value s * v the error is a constant minus 2 (s P - s^2 Q / 2), where
//! P = sum w x v and Q = sum w v^2 do not depend on the scale s. So P and Q are computed once for every entry, the
//! best entry is kept for each of a few scales, and all later choices look at the kept ones only.

use fearless_simd::{Simd, SimdBase, SimdMask, f32x8, f32x16};
use half::f16;

/// How many scales are searched.
pub(crate) const KEPT: usize = 8;

/// The scales that are searched, in tenths of the middle one: as wide as the grid of [`POINTS`](super::scales::POINTS),
/// and in whole tenths, so that 16-bit scores go from one to the next by subtracting one or two of the same number.
pub(crate) const LADDER: [u8; KEPT] = [6, 7, 8, 9, 10, 12, 14, 16];

/// The best entries at rising scales.
#[derive(Clone, Copy)]
pub(crate) struct Entries {
    pub p: [f32; KEPT],
    pub q: [f32; KEPT],
    pub entry: [u32; KEPT],
}

/// The entry that a group takes in the end.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    /// Its number in the codebook.
    pub entry: u16,
    pub p: f32,
    pub q: f32,
}

impl Taken {
    /// The better of the two at a scale, `self` if they are equal.
    #[inline(always)]
    pub fn or(self, other: Self, scale: f32) -> Self {
        let half = 0.5 * scale;
        if other.p - half * other.q > self.p - half * self.q { other } else { self }
    }
}

/// The d of least squares for entries and scale codes that stand.
pub(crate) struct LeastSquares {
    xy: f32,
    yy: f32,
}

impl LeastSquares {
    pub const NEW: Self = Self { xy: 0.0, yy: 0.0 };

    #[inline(always)]
    pub fn add(&mut self, step: f32, taken: &Taken) {
        self.xy += step * taken.p;
        self.yy += step * step * taken.q;
    }

    /// Another d if there is one.
    #[inline(always)]
    pub fn d(&self, d: f16) -> f16 {
        if self.xy > 0.0 && self.yy > 0.0 { f16::from_f32(self.xy / self.yy) } else { d }
    }
}

/// One side of a group: signs taken out, or with them where the values have signs of their own.
pub(crate) struct Target<const D: usize> {
    /// Importance times weight.
    pub a: [f32; D],
    /// Importance.
    pub w: [f32; D],
}

impl<const D: usize> Target<D> {
    /// With the signs taken out.
    #[inline(always)]
    pub fn magnitudes(x: &[f32; D], w: &[f32; D]) -> Self {
        let mut a = [0.0; D];
        for t in 0..D {
            a[t] = w[t] * x[t].abs();
        }
        Self { a, w: *w }
    }
}

impl Entries {
    /// No entries: none of them is ever the best.
    pub const NONE: Self = Self { p: [f32::MIN; KEPT], q: [0.0; KEPT], entry: [0; KEPT] };

    /// The best at a scale, the first of equals, and its P - s Q / 2.
    #[inline(always)]
    pub fn at<S: Simd>(&self, simd: S, scale: f32) -> (usize, f32) {
        let half = 0.5 * scale;
        let score = f32x8::load_array_ref(simd, &self.p) - f32x8::load_array_ref(simd, &self.q) * half;
        let top = score.reduce_max();
        let first = score.simd_ge(f32x8::splat(simd, top)).to_bitmask().trailing_zeros();
        (first as usize % KEPT, top)
    }

    /// P - s Q / 2 of the best at sixteen scales, given s / 2.
    #[inline(always)]
    pub fn scores<S: Simd>(&self, simd: S, half: f32x16<S>) -> f32x16<S> {
        self.scores_of::<S, KEPT>(simd, half)
    }

    /// The same where only the first K are in use.
    #[inline(always)]
    pub fn scores_of<S: Simd, const K: usize>(&self, simd: S, half: f32x16<S>) -> f32x16<S> {
        let mut top = f32x16::splat(simd, self.p[0]) - half * self.q[0];
        for k in 1..K {
            top = top.max(f32x16::splat(simd, self.p[k]) - half * self.q[k]);
        }
        top
    }
}

/// The largest lane of each of eight vectors, in lanes 0 to 7.
#[inline(always)]
pub(crate) fn maxima<S: Simd>(v: &[f32x16<S>; KEPT]) -> f32x16<S> {
    let low = pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
    let high = pairs(pairs(v[4], v[5]), pairs(v[6], v[7]));
    let all = pairs(low, high);
    pairs(all, all)
}

/// The larger of each two neighbours: of the first in the lower half, of the second in the upper.
#[inline(always)]
fn pairs<S: Simd>(a: f32x16<S>, b: f32x16<S>) -> f32x16<S> {
    a.unzip_low(b).max(a.unzip_high(b))
}
