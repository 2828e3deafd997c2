//! The codebook entries that can win for a group of weights, whatever scale its block gets.
//!
//! With importance w, weight x and decoded value s * v the error is a constant minus 2 (s P - s^2 Q / 2), where
//! P = sum w x v and Q = sum w v^2 do not depend on the scale s. So P and Q are computed once for every entry, the
//! best entry is kept for each of a few scales, and all later choices look at the kept ones only.

use fearless_simd::{Simd, SimdBase, f32x16, mask32x16};

use super::codebook::Codebook;

/// The best entries at K rising scales.
#[derive(Clone, Copy)]
pub(crate) struct Entries<const K: usize> {
    pub p: [f32; K],
    pub q: [f32; K],
    pub entry: [u16; K],
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

    /// With the signs left in.
    #[inline(always)]
    pub fn signed(x: &[f32; D], w: &[f32; D]) -> Self {
        let mut a = [0.0; D];
        for t in 0..D {
            a[t] = w[t] * x[t];
        }
        Self { a, w: *w }
    }
}

/// The entry with the largest s P - s^2 Q / 2 for each scale, the first of equals, among all of the codebook.
///
/// With `turned` one sign must be the opposite of the weight's: the one that costs least, so that P loses
/// 2 min(w x v).
#[inline(always)]
pub(crate) fn search<S: Simd, const D: usize, const K: usize>(
    simd: S,
    book: &Codebook<D>,
    target: &Target<D>,
    turned: bool,
    scales: &[f32; K],
) -> Entries<K> {
    let mut ps = [[0.0; 16]; 128];
    let mut qs = [[0.0; 16]; 128];
    let mut best = [f32x16::splat(simd, f32::NEG_INFINITY); K];
    let mut index = [f32x16::splat(simd, 0.0); K];
    let mut here = f32x16::from_fn(simd, |lane| lane as f32);
    for (e, (values, squares)) in book.lanes.iter().zip(&book.squares).enumerate() {
        let mut p = f32x16::load_array_ref(simd, &values[0]) * target.a[0];
        let mut q = f32x16::load_array_ref(simd, &squares[0]) * target.w[0];
        let mut least = p;
        for t in 1..D {
            let product = f32x16::load_array_ref(simd, &values[t]) * target.a[t];
            p += product;
            least = least.min(product);
            q += f32x16::load_array_ref(simd, &squares[t]) * target.w[t];
        }
        if turned {
            p -= least * 2.0;
        }
        p.store_array(&mut ps[e]);
        q.store_array(&mut qs[e]);
        let half = q * 0.5;
        for k in 0..K {
            // The score divided by the scale: the same order, a multiplication less.
            let score = p - half * scales[k];
            let better = score.simd_gt(best[k]);
            best[k] = simd_select(better, score, best[k]);
            index[k] = simd_select(better, here, index[k]);
        }
        here += 16.0;
    }
    let mut found = Entries { p: [0.0; K], q: [0.0; K], entry: [0; K] };
    for k in 0..K {
        let top = best[k].reduce_max();
        let at_top = best[k].simd_ge(f32x16::splat(simd, top));
        let first = simd_select(at_top, index[k], f32x16::splat(simd, 65535.0)).reduce_min() as usize;
        found.entry[k] = first as u16;
        found.p[k] = ps[first / 16][first % 16];
        found.q[k] = qs[first / 16][first % 16];
    }
    found
}

#[inline(always)]
fn simd_select<S: Simd>(mask: mask32x16<S>, yes: f32x16<S>, no: f32x16<S>) -> f32x16<S> {
    fearless_simd::Select::select(mask, yes, no)
}

impl<const K: usize> Entries<K> {
    /// No entries: a placeholder.
    pub const NONE: Self = Self { p: [0.0; K], q: [0.0; K], entry: [0; K] };

    /// The best at a scale, the first of equals.
    #[inline(always)]
    fn at(&self, scale: f32) -> usize {
        let mut best = 0;
        let mut top = f32::NEG_INFINITY;
        for k in 0..K {
            let score = self.p[k] - scale * 0.5 * self.q[k];
            if score > top {
                top = score;
                best = k;
            }
        }
        best
    }

    /// The entry that is best at a scale.
    #[inline(always)]
    pub fn entry_at(&self, scale: f32) -> u16 {
        self.entry[self.at(scale)]
    }

    /// P and Q of the best at a scale.
    #[inline(always)]
    pub fn best(&self, scale: f32) -> (f32, f32) {
        let k = self.at(scale);
        (self.p[k], self.q[k])
    }

    /// P - s Q / 2 of the best at a scale.
    #[inline(always)]
    pub fn score_at(&self, scale: f32) -> f32 {
        let (p, q) = self.best(scale);
        p - scale * 0.5 * q
    }

    /// P - s Q / 2 of the best at sixteen scales, given s / 2.
    #[inline(always)]
    pub fn scores<S: Simd>(&self, simd: S, half: f32x16<S>) -> f32x16<S> {
        let mut top = f32x16::splat(simd, self.p[0]) - half * self.q[0];
        for k in 1..K {
            top = top.max(f32x16::splat(simd, self.p[k]) - half * self.q[k]);
        }
        top
    }
}
