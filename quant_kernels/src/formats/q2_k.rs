//! Q2_K: two bits a weight, groups of 16 with a four-bit scale and a four-bit minimum. 2.625 bits per weight.
//!
//! ```text
//! byte   0..16                       16..80                            80..82    82..84
//!        scales: low nibble scale,   qs: weight 128 p + 32 j + l       d: f16    dmin: f16
//!        high nibble minimum         in bits 2 j of byte 32 p + l
//!
//! weight[i] = d * scale * q - dmin * minimum
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use super::bits::put;
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
pub struct Q2_K {
    scales: [u8; 16],
    qs: [[u8; 32]; 2],
    pub(crate) d: Scale,
    pub(crate) dmin: Scale,
}

const PLAN: Plan<1> = Plan {
    top: 3.0,
    end: 15.0,
    landings: [Landings::new([-0.3, 0.0, 0.3, 0.6], [-0.3, 0.0, 0.3, 0.6])],
    windows: [-1.5],
};

impl Block<256> for Q2_K {
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let fit = sub_scales_mins::<S, 1, 16>(simd, x, importance, &PLAN);
        let mut block = Self::zeroed();
        block.d = Scale::nearest(fit.d * fit.gain);
        block.dmin = Scale::nearest(fit.dmin * fit.gain);
        let (d, dmin) = (block.d.get() / fit.gain, block.dmin.get() / fit.gain);
        let mut level = [[0; 32]; 8];
        for (k, (x, level)) in
            x.as_chunks::<16>().0.iter().zip(level.as_flattened_mut().as_chunks_mut::<16>().0).enumerate()
        {
            let (s, m) = (d * fit.scales[k], dmin * fit.mins[k]);
            let inverse = if s == 0.0 { 0.0 } else { 1.0 / s };
            shifted(simd, x, inverse, m * inverse, 3.0, level);
            block.scales[k] = fit.scales[k] as u8 | (fit.mins[k] as u8) << 4;
        }
        for (k, level) in level.iter().enumerate() {
            for l in 0..32 {
                block.qs[k / 4][l] |= level[l] << (2 * (k % 4));
            }
        }
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let (d, dmin) = (self.d.get(), self.dmin.get());
        for (k, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let s = d * f32::from(self.scales[k] & 15);
            let m = dmin * f32::from(self.scales[k] >> 4);
            let (p, j) = (k / 8, k % 8 / 2);
            for l in 0..16 {
                let q = self.qs[p][16 * (k % 2) + l] >> (2 * j) & 3;
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

impl ScalarBlock<256> for Q2_K {
    const TOP: u8 = 3;

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        let (k, l) = (i / 32, i % 32);
        put(&mut self.qs[k / 4][l], 2 * (k % 4), 2, level);
    }
}
