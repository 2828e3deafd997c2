//! The last step of every search: the scale at unit gain.
//!
//! Least squares shrinks the weights: what rounding loses is missing from their length. All outputs of the layer
//! shrink with them, which costs the model more than the same error in random directions. So a block's scales are
//! raised until sum(w x y) = sum(w x^2), after the levels were chosen at the least-squares scale.

use fearless_simd::{f32x16, prelude::*};

/// Sum of importance x weight squared.
#[inline(always)]
pub(crate) fn energy<S: Simd>(simd: S, x: &[f32], w: &[f32]) -> f32 {
    let mut sum = f32x16::splat(simd, 0.0);
    for (x, w) in x.as_chunks::<16>().0.iter().zip(w.as_chunks::<16>().0) {
        let x = f32x16::simd_from(simd, *x);
        sum += x * f32x16::simd_from(simd, *w) * x;
    }
    sum.reduce_sum()
}

/// More would say that the levels missed the important weights, not that the block shrank: ternary ones need 1.3.
const MOST: f32 = 1.5;

/// What to multiply scales with so that sum(w x y), now `xy`, becomes sum(w x^2), `xx`; within reason.
#[inline(always)]
pub(crate) fn to_unit(xx: f32, xy: f32) -> f32 {
    if xy > 0.0 { (xx / xy).min(MOST) } else { 1.0 }
}
