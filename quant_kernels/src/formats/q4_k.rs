//! Q4_K: four bits a weight, groups of 32 with a six-bit scale and minimum. 4.5 bits per weight.
//!
//! ```text
//! byte   0..2     2..4        4..16                   16..144
//!        d: f16   dmin: f16   scales: 8 x (6 + 6)     qs: low nibble weight 64 c + l,
//!                             bits, see six_bits.rs   high nibble weight 64 c + 32 + l, in byte 32 c + l
//!
//! weight[i] = d * scale * nibble - dmin * minimum
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use super::bits::put;
use super::six_bits;
use crate::block::Block;
use crate::codes::ScalarBlock;
use crate::feedback::{Side, scalar};
use crate::scale::Scale;
use crate::search::levels::shifted;
use crate::search::scale_min::Landings;
use crate::search::sub_scales_mins::{Plan, sub_scales_mins};

/// One super-block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Q4_K {
    pub(crate) d: Scale,
    pub(crate) dmin: Scale,
    scales: [u8; 12],
    qs: [[u8; 32]; 4],
}

const PLAN: Plan<2> = Plan {
    top: 15.0,
    end: 63.0,
    landings: [Landings::new([-0.3, 0.0, 0.3, 0.6], [-0.3, 0.0, 0.3, 0.6])],
    windows: [-3.5, 0.5],
};

impl Block<256> for Q4_K {
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let fit = sub_scales_mins::<S, 2, 8>(simd, x, importance, &PLAN);
        let mut block = Self::zeroed();
        block.d = Scale::nearest(fit.d * fit.gain);
        block.dmin = Scale::nearest(fit.dmin * fit.gain);
        block.scales = six_bits::pack(fit.scales, fit.mins);
        let (d, dmin) = (block.d.get() / fit.gain, block.dmin.get() / fit.gain);
        let mut level = [[0; 32]; 8];
        for (k, (x, level)) in x.as_chunks::<32>().0.iter().zip(&mut level).enumerate() {
            let (s, m) = (d * fit.scales[k], dmin * fit.mins[k]);
            let inverse = if s == 0.0 { 0.0 } else { 1.0 / s };
            shifted(simd, x, inverse, m * inverse, 15.0, level);
        }
        for (k, level) in level.iter().enumerate() {
            for l in 0..32 {
                block.qs[k / 2][l] |= level[l] << (4 * (k % 2));
            }
        }
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let (d, dmin) = (self.d.get(), self.dmin.get());
        let (scales, mins) = six_bits::unpack(self.scales);
        for (k, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (s, m) = (d * scales[k], dmin * mins[k]);
            for l in 0..32 {
                let q = self.qs[k / 2][l] >> (4 * (k % 2)) & 15;
                y[l] = s * f32::from(q) - m;
            }
        }
    }

    #[inline(always)]
    fn map_scales(&mut self, change: impl Fn(Scale) -> Scale) {
        self.d = change(self.d);
        self.dmin = change(self.dmin);
    }

    const GROUP: Option<usize> = Some(1);

    #[inline(always)]
    fn feed<S: Simd>(simd: S, blocks: &mut [Self], rows: &mut Side<'_>) {
        scalar::feed(simd, blocks, rows);
    }
}

impl ScalarBlock<256> for Q4_K {
    const TOP: u8 = 15;

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        let (k, l) = (i / 32, i % 32);
        put(&mut self.qs[k / 2][l], 4 * (k % 2), 4, level);
    }
}
