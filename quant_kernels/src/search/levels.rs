//! The levels that weights are rounded to before scaling: integers between two ends, or listed values.

use fearless_simd::{f32x16, i32x16, prelude::*};

/// The numbers that a stored level stands for; a weight is scale times number.
pub(crate) trait Levels {
    /// The number of largest magnitude, with its sign.
    const END: f32;

    /// The nearest number of each lane.
    fn nearest<S: Simd>(v: f32x16<S>) -> f32x16<S>;

    /// The code that a block stores for the nearest number, a small integer.
    fn code<S: Simd>(v: f32x16<S>) -> f32x16<S>;
}

/// The stored codes of weights, each divided by the same scale; a multiple of sixteen.
#[inline(always)]
pub(crate) fn codes<L: Levels, S: Simd>(simd: S, x: &[f32], inverse: f32, codes: &mut [u8]) {
    for (x, codes) in x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0) {
        *codes = bytes(L::code(f32x16::simd_from(simd, *x) * inverse));
    }
}

/// Small whole numbers as bytes.
#[inline(always)]
pub(crate) fn bytes<S: Simd>(v: f32x16<S>) -> [u8; 16] {
    let v: i32x16<S> = v.to_int();
    let mut bytes = [0; 16];
    for i in 0..16 {
        bytes[i] = v[i] as u8;
    }
    bytes
}

/// The stored levels 0..=top of weights, each x * inverse + offset; a multiple of sixteen.
#[inline(always)]
pub(crate) fn shifted<S: Simd>(simd: S, x: &[f32], inverse: f32, offset: f32, top: f32, codes: &mut [u8]) {
    for (x, codes) in x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0) {
        let v = f32x16::simd_from(simd, *x) * inverse + offset;
        *codes = bytes(v.round_ties_even().max(0.0).min(top));
    }
}

/// All integers from LOW to HIGH, ties to even; stored from zero up.
pub(crate) struct Integers<const LOW: i32, const HIGH: i32>;

impl<const LOW: i32, const HIGH: i32> Levels for Integers<LOW, HIGH> {
    const END: f32 = if LOW.abs() > HIGH { LOW as f32 } else { HIGH as f32 };

    #[inline(always)]
    fn nearest<S: Simd>(v: f32x16<S>) -> f32x16<S> {
        v.round_ties_even().max(LOW as f32).min(HIGH as f32)
    }

    #[inline(always)]
    fn code<S: Simd>(v: f32x16<S>) -> f32x16<S> {
        Self::nearest(v) - LOW as f32
    }
}

/// The sixteen values of IQ4_NL and IQ4_XS, denser around zero.
pub(crate) const K4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// [`K4`] as levels; a number halfway between two goes to the upper one.
pub(crate) struct Listed;

impl Levels for Listed {
    const END: f32 = -127.0;

    #[inline(always)]
    fn nearest<S: Simd>(v: f32x16<S>) -> f32x16<S> {
        let simd = v.token();
        let mut value = f32x16::splat(simd, f32::from(K4[0]));
        for pair in K4.windows(2) {
            let (below, above) = (f32::from(pair[0]), f32::from(pair[1]));
            let reached = v.simd_ge(0.5 * (below + above));
            value = reached.select(f32x16::splat(simd, above), value);
        }
        value
    }

    #[inline(always)]
    fn code<S: Simd>(v: f32x16<S>) -> f32x16<S> {
        let simd = v.token();
        let mut code = f32x16::splat(simd, 0.0);
        for (index, pair) in K4.windows(2).enumerate() {
            let reached = v.simd_ge(0.5 * (f32::from(pair[0]) + f32::from(pair[1])));
            code = reached.select(f32x16::splat(simd, (index + 1) as f32), code);
        }
        code
    }
}
