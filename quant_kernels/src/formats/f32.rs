//! F32: the weights themselves. 32 bits per weight.

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use crate::block::{Block, Temper};

/// One weight, little-endian.
#[repr(transparent)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct F32([u8; 4]);

impl Block<1> for F32 {
    const TEMPER: Option<Temper> = None;
    const NEAREST: bool = true;

    #[inline(always)]
    fn quantize<S: Simd>(_simd: S, x: &[f32; 1], _importance: &[f32; 1]) -> Self {
        Self(x[0].to_le_bytes())
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 1]) {
        *y = [f32::from_le_bytes(self.0)];
    }
}
