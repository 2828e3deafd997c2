//! Q5_0: five bits a weight and one scale for each 32. 5.5 bits per weight.
//!
//! ```text
//! byte   0..2     2..6                      6..22
//!        d: f16   qh: fifth bit of each,    qs: 16 x (low nibble: weight i, high nibble: weight i + 16)
//!                 weight i in bit i
//!
//! weight[i] = d * (nibble + 16 * bit - 16)
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::{prelude::*, u8x32};

use super::bits::put;
use crate::block::Block;
use crate::codes::ScalarBlock;
use crate::feedback::{Side, scalar};
use crate::scale::Scale;
use crate::search::levels::Integers;
use crate::search::scale::{Landings, fit, landings};

/// One block of 32 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Q5_0 {
    pub(crate) d: Scale,
    qh: [u8; 4],
    qs: [u8; 16],
}

/// Where the largest weight may land, as parts of -16; clipping it often pays.
const LANDINGS: [Landings; 1] = [landings(0.88, 0.01)];

impl Block<32> for Q5_0 {
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 32], importance: &[f32; 32]) -> Self {
        let mut codes = [0; 32];
        let d = fit::<Integers<-16, 15>, S, 1, 32>(simd, x, importance, &LANDINGS, &mut codes);
        let qh = u8x32::simd_from(simd, codes).simd_ge(16).to_bitmask() as u32;
        let mut qs = [0; 16];
        for i in 0..16 {
            qs[i] = codes[i] & 15 | codes[i + 16] << 4;
        }
        Self { d, qh: qh.to_le_bytes(), qs }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 32]) {
        let d = self.d.get();
        let qh = u32::from_le_bytes(self.qh);
        for i in 0..16 {
            let low = self.qs[i] & 15 | (qh >> i << 4 & 16) as u8;
            let high = self.qs[i] >> 4 | (qh >> (i + 16) << 4 & 16) as u8;
            y[i] = d * (f32::from(low) - 16.0);
            y[i + 16] = d * (f32::from(high) - 16.0);
        }
    }

    #[inline(always)]
    fn map_scales(&mut self, change: impl Fn(Scale) -> Scale) {
        self.d = change(self.d);
    }

    const GROUP: Option<usize> = Some(1);

    #[inline(always)]
    fn feed<S: Simd>(simd: S, blocks: &mut [Self], rows: &mut Side<'_>) {
        scalar::feed(simd, blocks, rows);
    }
}

impl ScalarBlock<32> for Q5_0 {
    const TOP: u8 = 31;

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        put(&mut self.qs[i % 16], i / 16 * 4, 4, level);
        put(&mut self.qh[i / 8], i % 8, 1, level >> 4);
    }
}
