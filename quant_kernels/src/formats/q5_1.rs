//! Q5_1: five bits a weight, a scale and a minimum for each 32. 6 bits per weight.
//!
//! ```text
//! byte   0..2     2..4     4..8                      8..24
//!        d: f16   m: f16   qh: fifth bit of each,    qs: 16 x (low nibble: weight i, high nibble: weight i + 16)
//!                          weight i in bit i
//!
//! weight[i] = d * (nibble + 16 * bit) + m
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::{prelude::*, u8x32};

use super::bits::put;
use crate::block::{Block, Temper};
use crate::codes::ScalarBlock;
use crate::feedback::{Side, scalar};
use crate::scale::Scale;
use crate::search::scale_min::{Landings, fit};

/// One block of 32 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Q5_1 {
    pub(crate) d: Scale,
    pub(crate) m: Scale,
    qh: [u8; 4],
    qs: [u8; 16],
}

/// How far beyond the outer levels the lowest and the highest weight may land.
const LANDINGS: [Landings; 2] = [
    Landings::new([-0.3, 0.0, 0.3, 0.6], [-0.3, 0.0, 0.3, 0.6]),
    Landings::new([-0.15, 0.15, 0.45, 0.75], [-0.15, 0.15, 0.45, 0.75]),
];

impl Block<32> for Q5_1 {
    const TEMPER: Option<Temper> = Some(Temper::Square(2.0));

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 32], importance: &[f32; 32]) -> Self {
        let mut codes = [0; 32];
        let (d, m) = fit(simd, x, importance, 31.0, &LANDINGS, &mut codes);
        let qh = u8x32::simd_from(simd, codes).simd_ge(16).to_bitmask() as u32;
        let mut qs = [0; 16];
        for i in 0..16 {
            qs[i] = codes[i] & 15 | codes[i + 16] << 4;
        }
        Self { d, m, qh: qh.to_le_bytes(), qs }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 32]) {
        let (d, m) = (self.d.get(), self.m.get());
        let qh = u32::from_le_bytes(self.qh);
        for i in 0..16 {
            let low = self.qs[i] & 15 | (qh >> i << 4 & 16) as u8;
            let high = self.qs[i] >> 4 | (qh >> (i + 16) << 4 & 16) as u8;
            y[i] = d * f32::from(low) + m;
            y[i + 16] = d * f32::from(high) + m;
        }
    }

    #[inline(always)]
    fn map_scales(&mut self, change: impl Fn(Scale) -> Scale) {
        self.d = change(self.d);
        self.m = change(self.m);
    }

    const GROUP: Option<usize> = Some(1);

    #[inline(always)]
    fn feed<S: Simd>(simd: S, blocks: &mut [Self], rows: &mut Side<'_>) {
        scalar::feed(simd, blocks, rows);
    }
}

impl ScalarBlock<32> for Q5_1 {
    const TOP: u8 = 31;

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        put(&mut self.qs[i % 16], i / 16 * 4, 4, level);
        put(&mut self.qh[i / 8], i % 8, 1, level >> 4);
    }
}
