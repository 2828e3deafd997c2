//! Q6_K: six bits a weight, groups of 16 with eight-bit scales. 6.5625 bits per weight.
//!
//! ```text
//! byte   0..128                   128..192                   192..208            208..210
//!        ql: four low bits        qh: two high bits          scales: 16 x i8     d: f16
//!
//! weight 128 p + 32 j + l: low bits in byte 64 p + 32 (j mod 2) + l, high nibble for j >= 2;
//!                          high bits in bits 2 j of byte 32 p + l
//! weight[i] = d * scale * (low + 16 * high - 32)
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use super::bits::put;
use crate::block::Block;
use crate::codes::ScalarBlock;
use crate::feedback::{Side, scalar};
use crate::scale::Scale;
use crate::search::levels::{Integers, codes};
use crate::search::sub_scales::{Plan, sub_scales};

/// One super-block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Q6_K {
    ql: [[[u8; 32]; 2]; 2],
    qh: [[u8; 32]; 2],
    scales: [i8; 16],
    pub(crate) d: Scale,
}

type Levels = Integers<-32, 31>;

const PLAN: Plan<1> = Plan { end: -128.0, landing: 0.95, head: 1.0, signs: [1.0] };

impl Block<256> for Q6_K {
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let fit = sub_scales::<Levels, S, 1, 16>(simd, x, importance, &PLAN);
        let mut block = Self::zeroed();
        block.d = Scale::nearest(fit.d * fit.gain);
        let d = block.d.get() / fit.gain;
        let mut level = [[[0; 32]; 4]; 2];
        let groups = level.as_flattened_mut().as_flattened_mut().as_chunks_mut::<16>().0;
        for (k, (x, level)) in x.as_chunks::<16>().0.iter().zip(groups).enumerate() {
            let s = d * fit.scales[k];
            codes::<Levels, S>(simd, x, if s == 0.0 { 0.0 } else { 1.0 / s }, level);
            block.scales[k] = fit.scales[k] as i32 as i8;
        }
        for (p, level) in level.iter().enumerate() {
            for l in 0..32 {
                block.ql[p][0][l] = level[0][l] & 15 | level[2][l] << 4;
                block.ql[p][1][l] = level[1][l] & 15 | level[3][l] << 4;
                block.qh[p][l] =
                    level[0][l] >> 4 | level[1][l] >> 4 << 2 | level[2][l] >> 4 << 4 | level[3][l] >> 4 << 6;
            }
        }
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = self.d.get();
        for (k, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (p, j) = (k / 4, k % 4);
            let s = [d * f32::from(self.scales[2 * k]), d * f32::from(self.scales[2 * k + 1])];
            for l in 0..32 {
                let low = self.ql[p][j % 2][l] >> (4 * (j / 2)) & 15;
                let high = self.qh[p][l] >> (2 * j) & 3;
                y[l] = s[l / 16] * (f32::from(low | high << 4) - 32.0);
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

impl ScalarBlock<256> for Q6_K {
    const TOP: u8 = 63;

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        let (p, j, l) = (i / 128, i / 32 % 4, i % 32);
        put(&mut self.ql[p][j % 2][l], 4 * (j / 2), 4, level);
        put(&mut self.qh[p][l], 2 * j, 2, level >> 4);
    }
}
