//! Q4_0: four bits a weight and one scale for each 32. 4.5 bits per weight.
//!
//! ```text
//! byte   0..2     2..18
//!        d: f16   qs: 16 x (low nibble: weight i, high nibble: weight i + 16)
//!
//! weight[i] = d * (nibble - 8)
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use super::bits::put;
use crate::block::{Block, Temper};
use crate::codes::ScalarBlock;
use crate::feedback::{Side, scalar};
use crate::scale::Scale;
use crate::search::levels::Integers;
use crate::search::scale::{Landings, fit, landings};

/// One block of 32 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Q4_0 {
    pub(crate) d: Scale,
    qs: [u8; 16],
}

/// Where the largest weight may land, as parts of -8; clipping it often pays.
const LANDINGS: [Landings; 1] = [landings(0.80, 0.02)];

impl Block<32> for Q4_0 {
    const TEMPER: Option<Temper> = Some(Temper::Square(2.0));

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 32], importance: &[f32; 32]) -> Self {
        let mut codes = [0; 32];
        let d = fit::<Integers<-8, 7>, S, 1, 32>(simd, x, importance, &LANDINGS, &mut codes);
        let mut qs = [0; 16];
        for i in 0..16 {
            qs[i] = codes[i] | codes[i + 16] << 4;
        }
        Self { d, qs }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 32]) {
        let d = self.d.get();
        for i in 0..16 {
            y[i] = d * (f32::from(self.qs[i] & 15) - 8.0);
            y[i + 16] = d * (f32::from(self.qs[i] >> 4) - 8.0);
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

impl ScalarBlock<32> for Q4_0 {
    const TOP: u8 = 15;

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        put(&mut self.qs[i % 16], i / 16 * 4, 4, level);
    }
}
