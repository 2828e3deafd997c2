//! F16: half-precision floats. 16 bits per weight.

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use crate::block::{Block, Temper};

/// One weight, little-endian.
#[repr(transparent)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct F16([u8; 2]);

const SIGN: u32 = 1 << 31;
/// 2^-14, the least normal half; below it the grid is even, with steps of 2^-24.
const NORMAL: f32 = 6.103_515_6e-5;

impl Block<1> for F16 {
    const TEMPER: Option<Temper> = None;
    const NEAREST: bool = true;

    // In whole-number arithmetic without branches, which the compiler turns into vectors; `half` calls one at a time.
    #[inline(always)]
    fn quantize<S: Simd>(_simd: S, x: &[f32; 1], _importance: &[f32; 1]) -> Self {
        let sign = x[0].to_bits() & SIGN;
        let magnitude = x[0].abs();
        let bits = magnitude.to_bits();
        // Half to even: half of the last place that stays, less one if the place is even; carries are right.
        let normal = (bits + 0xfff + (bits >> 13 & 1)).wrapping_sub(112 << 23) >> 13;
        // One half has steps of 2^-24 as f32 too, so the addition rounds.
        let subnormal = (magnitude + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let half = if magnitude < NORMAL { subnormal } else { normal };
        Self(((sign >> 16) as u16 | half as u16).to_le_bytes())
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 1]) {
        let half = u32::from(u16::from_le_bytes(self.0));
        let magnitude = (half & 0x7fff) << 13;
        // The exponents differ by 112; the product is exact, for subnormals too.
        let finite = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
        let magnitude = if magnitude < 0x1f << 23 { finite } else { magnitude | 0xff << 23 };
        *y = [f32::from_bits(magnitude | half << 16 & SIGN)];
    }
}
