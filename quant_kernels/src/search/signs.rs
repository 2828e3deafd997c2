//! Sign bits, and the eighth that IQ2_XXS, IQ2_XS and IQ3_XXS derive from the other seven.

use fearless_simd::{Simd, SimdBase, SimdMask, f32x8};

/// Bit t is set where `x[t]` is below zero.
#[inline(always)]
pub(crate) fn signs<S: Simd>(simd: S, x: &[f32; 8]) -> u8 {
    f32x8::load_array_ref(simd, x).simd_lt(f32x8::splat(simd, 0.0)).to_bitmask() as u8
}

/// All eight sign bits of the stored seven: an even number of them is set.
#[inline(always)]
pub(crate) fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// The coordinate whose sign costs least to turn when `a[t]` is importance times magnitude; the first of equals.
#[inline(always)]
pub(crate) fn cheapest<const D: usize>(a: &[f32; D], values: &[f32; D]) -> usize {
    let mut best = 0;
    for t in 1..D {
        if a[t] * values[t] < a[best] * values[best] {
            best = t;
        }
    }
    best
}

/// Values times a scale, minus where a bit of `signs` is set.
#[inline(always)]
pub(crate) fn signed<const D: usize>(values: &[f32; D], signs: u8, scale: f32) -> [f32; D] {
    let mut y = [0.0; D];
    for t in 0..D {
        let minus = u32::from(signs >> t & 1) << 31;
        y[t] = f32::from_bits((scale * values[t]).to_bits() ^ minus);
    }
    y
}
