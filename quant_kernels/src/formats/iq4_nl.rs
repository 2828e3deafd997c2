//! IQ4_NL: four bits a weight into sixteen listed values, and one scale for each 32. 4.5 bits per weight.
//!
//! ```text
//! byte   0..2     2..18
//!        d: f16   qs: 16 x (low nibble: weight i, high nibble: weight i + 16)
//!
//! weight[i] = d * K4[nibble]
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use super::bits::put;
use crate::block::Block;
use crate::codes::ScalarBlock;
use crate::feedback::{Side, scalar};
use crate::scale::Scale;
use crate::search::levels::{K4, Listed};
use crate::search::scale::{Landings, fit, landings};

/// One block of 32 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct IQ4_NL {
    pub(crate) d: Scale,
    qs: [u8; 16],
}

/// Where the largest weight may land, as parts of -127; the mirrored ones try the shorter end for it.
const LANDINGS: [Landings; 2] = [landings(0.80, 0.02), landings(-0.78, -0.02)];

impl Block<32> for IQ4_NL {
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 32], importance: &[f32; 32]) -> Self {
        let mut codes = [0; 32];
        let d = fit::<Listed, S, 2, 32>(simd, x, importance, &LANDINGS, &mut codes);
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
            y[i] = d * f32::from(K4[usize::from(self.qs[i] & 15)]);
            y[i + 16] = d * f32::from(K4[usize::from(self.qs[i] >> 4)]);
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

impl ScalarBlock<32> for IQ4_NL {
    const TOP: u8 = 15;
    const LIST: Option<&'static [i8]> = Some(&K4);

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        put(&mut self.qs[i % 16], i / 16 * 4, 4, level);
    }
}
