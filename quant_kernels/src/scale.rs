//! A half-precision scale as it lies in a block.

use bytemuck::{Pod, Zeroable};
use half::f16;

use crate::LARGEST;

/// Two bytes, little-endian, so that blocks need no alignment.
#[repr(transparent)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Scale([u8; 2]);

impl Scale {
    /// The nearest scale that is finite, and zero only for zero: a block of tiny weights keeps what it can.
    #[inline(always)]
    pub(crate) fn nearest(d: f32) -> Self {
        let smallest = f16::from_bits(1).to_f32();
        let magnitude = d.abs().min(LARGEST).max(smallest);
        let d = if d == 0.0 { 0.0 } else { magnitude.copysign(d) };
        f16::from_f32(d).into()
    }

    #[inline(always)]
    pub(crate) fn get(self) -> f32 {
        f16::from(self).to_f32()
    }

    /// The scale times a factor; as it is where the product is no finite f16.
    #[inline(always)]
    pub(crate) fn times(self, factor: f32) -> Self {
        let product = f16::from_f32(self.get() * factor);
        if product.is_finite() { product.into() } else { self }
    }
}

impl From<f16> for Scale {
    #[inline(always)]
    fn from(d: f16) -> Self {
        Self(d.to_le_bytes())
    }
}

impl From<Scale> for f16 {
    #[inline(always)]
    fn from(scale: Scale) -> Self {
        Self::from_le_bytes(scale.0)
    }
}
