//! BF16: the upper half of an f32. 16 bits per weight.

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use crate::block::{Block, Temper};

/// One weight, little-endian.
#[repr(transparent)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct BF16([u8; 2]);

impl Block<1> for BF16 {
    const TEMPER: Option<Temper> = None;
    const NEAREST: bool = true;

    #[inline(always)]
    fn quantize<S: Simd>(_simd: S, x: &[f32; 1], _importance: &[f32; 1]) -> Self {
        let bits = x[0].to_bits();
        // Half to even: half of the last place that stays, less one if the place is even.
        let rounded = bits + 0x7fff + (bits >> 16 & 1);
        Self(((rounded >> 16) as u16).to_le_bytes())
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 1]) {
        *y = [f32::from_bits(u32::from(u16::from_le_bytes(self.0)) << 16)];
    }
}
