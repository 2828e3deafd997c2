//! IQ4_XS: four bits a weight into sixteen listed values, groups of 32 with six-bit scales. 4.25 bits per weight.
//!
//! ```text
//! byte   0..2     2..4            4..8             8..136
//!        d: f16   scales_h: u16   scales_l: 4      qs: 8 groups of 16 bytes; low nibble: weight i of its group,
//!                 2 bits a group  a nibble each    high nibble: weight i + 16
//!
//! weight[i] = d * (scale - 32) * K4[nibble]
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use super::bits::put;
use crate::block::Block;
use crate::codes::ScalarBlock;
use crate::feedback::{Side, scalar};
use crate::scale::Scale;
use crate::search::levels::{K4, Listed, codes};
use crate::search::sub_scales::{Plan, sub_scales};

/// One super-block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct IQ4_XS {
    pub(crate) d: Scale,
    scales_h: [u8; 2],
    scales_l: [u8; 4],
    qs: [[u8; 16]; 8],
}

const PLAN: Plan<2> = Plan { end: -32.0, landing: 0.9, head: 1.05, signs: [1.0, -1.0] };

impl Block<256> for IQ4_XS {
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let fit = sub_scales::<Listed, S, 2, 8>(simd, x, importance, &PLAN);
        let mut block = Self::zeroed();
        block.d = Scale::nearest(fit.d * fit.gain);
        let d = block.d.get() / fit.gain;
        let mut scales_h = 0;
        for (g, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let s = d * fit.scales[g];
            let mut level = [0; 32];
            codes::<Listed, S>(simd, x, if s == 0.0 { 0.0 } else { 1.0 / s }, &mut level);
            for i in 0..16 {
                block.qs[g][i] = level[i] | level[i + 16] << 4;
            }
            let scale = (fit.scales[g] + 32.0) as u16;
            block.scales_l[g / 2] |= (scale as u8 & 15) << (4 * (g % 2));
            scales_h |= (scale >> 4) << (2 * g);
        }
        block.scales_h = scales_h.to_le_bytes();
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = self.d.get();
        let scales_h = u16::from_le_bytes(self.scales_h);
        for (g, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low = u16::from(self.scales_l[g / 2] >> (4 * (g % 2)) & 15);
            let scale = low | (scales_h >> (2 * g) & 3) << 4;
            let s = d * (f32::from(scale) - 32.0);
            for i in 0..16 {
                y[i] = s * f32::from(K4[usize::from(self.qs[g][i] & 15)]);
                y[i + 16] = s * f32::from(K4[usize::from(self.qs[g][i] >> 4)]);
            }
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

impl ScalarBlock<256> for IQ4_XS {
    const TOP: u8 = 15;
    const LIST: Option<&'static [i8]> = Some(&K4);

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        put(&mut self.qs[i / 32][i % 16], i / 16 % 2 * 4, 4, level);
    }
}
