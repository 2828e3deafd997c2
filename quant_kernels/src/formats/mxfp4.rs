//! MXFP4: four-bit floats (E2M1) with one power of two for each 32. 4.25 bits per weight.
//!
//! ```text
//! byte   0        1..17
//!        e: u8    qs: 16 x (low nibble: weight i, high nibble: weight i + 16)
//!
//! weight[i] = 2^(e - 128) * F4[nibble]
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::{f32x16, prelude::*};

use crate::block::Block;
use crate::search::levels::{Levels, codes};
use crate::search::scale::peak;

/// One block of 32 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct MXFP4 {
    e: u8,
    qs: [u8; 16],
}

/// Twice the values of E2M1; the fourth bit is the sign.
pub const F4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// [`F4`] as levels; a number halfway between two goes to the one nearer to zero.
struct Float4;

impl Levels for Float4 {
    const END: f32 = 12.0;

    #[inline(always)]
    fn nearest<S: Simd>(v: f32x16<S>) -> f32x16<S> {
        let simd = v.token();
        let magnitude = v.abs();
        let mut value = f32x16::splat(simd, 0.0);
        for pair in F4[..8].windows(2) {
            let (below, above) = (f32::from(pair[0]), f32::from(pair[1]));
            let passed = magnitude.simd_gt(0.5 * (below + above));
            value = passed.select(f32x16::splat(simd, above), value);
        }
        value.copysign(v)
    }

    #[inline(always)]
    fn code<S: Simd>(v: f32x16<S>) -> f32x16<S> {
        let simd = v.token();
        let magnitude = v.abs();
        let mut code = f32x16::splat(simd, 0.0);
        for (index, pair) in F4[..8].windows(2).enumerate() {
            let passed = magnitude.simd_gt(0.5 * (f32::from(pair[0]) + f32::from(pair[1])));
            code = passed.select(f32x16::splat(simd, (index + 1) as f32), code);
        }
        v.simd_lt(0.0).select(code + 8.0, code)
    }
}

/// 2^(e - 128) for the byte of a block, subnormal for 0 and 1.
#[inline(always)]
fn power(e: u8) -> f32 {
    if e < 2 { f32::from_bits(0x0020_0000 << e) } else { f32::from_bits((u32::from(e) - 1) << 23) }
}

impl Block<32> for MXFP4 {
    /// Tries the exponent that brings the largest weight to 8..16, where 14 and more clip, and its two neighbours.
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 32], importance: &[f32; 32]) -> Self {
        let peak = peak(simd, x).abs();
        if peak == 0.0 {
            return Self::zeroed();
        }
        let usual = ((peak.to_bits() >> 23) as i32 - 2).max(0);
        let (mut least, mut e) = (f32::INFINITY, 0);
        for candidate in [usual, usual + 1, usual - 1] {
            // Not 0, whose inverse f32 cannot hold.
            let candidate = candidate.clamp(1, 254) as u8;
            let s = power(candidate);
            let mut error = f32x16::splat(simd, 0.0);
            for (x, w) in x.as_chunks::<16>().0.iter().zip(importance.as_chunks::<16>().0) {
                let x = f32x16::simd_from(simd, *x);
                let difference = Float4::nearest(x / s) * s - x;
                error += difference * difference * f32x16::simd_from(simd, *w);
            }
            let error = error.reduce_sum();
            if error < least {
                (least, e) = (error, candidate);
            }
        }
        let mut level = [0; 32];
        codes::<Float4, S>(simd, x, 1.0 / power(e), &mut level);
        let mut qs = [0; 16];
        for i in 0..16 {
            qs[i] = level[i] | level[i + 16] << 4;
        }
        Self { e, qs }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 32]) {
        let s = power(self.e);
        for i in 0..16 {
            y[i] = s * f32::from(F4[usize::from(self.qs[i] & 15)]);
            y[i + 16] = s * f32::from(F4[usize::from(self.qs[i] >> 4)]);
        }
    }

    /// The exponent's byte is E8M0's NaN; decoders give large weights for it instead.
    #[inline(always)]
    fn is_nan(&self) -> bool {
        self.e == 0xff
    }
}
