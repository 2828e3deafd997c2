//! Q3_K: three bits a weight, groups of 16 with six-bit scales. 3.4375 bits per weight.
//!
//! ```text
//! byte   0..32                     32..96                       96..108                108..110
//!        hmask: third bits;        qs: two low bits;            scales: 16 x 6 bits    d: f16
//!        weight 32 k + l in        weight 128 p + 32 j + l
//!        bit k of byte l           in bits 2 j of byte 32 p + l
//!
//! scale k: low four bits in byte k mod 8 (high nibble from k = 8 on), high two in bits 2 (k / 4) of byte 8 + k mod 4
//! weight[i] = d * (scale - 32) * (low bits + 4 * third bit - 4)
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use super::bits::put;
use crate::block::{Block, Temper};
use crate::codes::ScalarBlock;
use crate::feedback::{Side, scalar};
use crate::scale::Scale;
use crate::search::levels::{Integers, codes};
use crate::search::sub_scales::{Plan, sub_scales};

/// One super-block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Q3_K {
    hmask: [u8; 32],
    qs: [[u8; 32]; 2],
    scales: [u8; 12],
    pub(crate) d: Scale,
}

type Levels = Integers<-4, 3>;

const PLAN: Plan<2> = Plan { end: -32.0, landing: 1.1, head: 1.2, signs: [1.0, -1.0] };

impl Block<256> for Q3_K {
    const TEMPER: Option<Temper> = Some(Temper::Square(2.0));

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let fit = sub_scales::<Levels, S, 2, 16>(simd, x, importance, &PLAN);
        let mut block = Self::zeroed();
        block.d = Scale::nearest(fit.d * fit.gain);
        let d = block.d.get() / fit.gain;
        let mut level = [[0; 32]; 8];
        for (k, (x, level)) in
            x.as_chunks::<16>().0.iter().zip(level.as_flattened_mut().as_chunks_mut::<16>().0).enumerate()
        {
            let s = d * fit.scales[k];
            codes::<Levels, S>(simd, x, if s == 0.0 { 0.0 } else { 1.0 / s }, level);
            let scale = (fit.scales[k] + 32.0) as u8;
            block.scales[k % 8] |= (scale & 15) << (4 * (k / 8));
            block.scales[8 + k % 4] |= (scale >> 4) << (2 * (k / 4));
        }
        for (k, level) in level.iter().enumerate() {
            for l in 0..32 {
                block.qs[k / 4][l] |= (level[l] & 3) << (2 * (k % 4));
                block.hmask[l] |= (level[l] >> 2) << k;
            }
        }
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = self.d.get();
        for (k, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let s = [d * self.scale(2 * k), d * self.scale(2 * k + 1)];
            for l in 0..32 {
                let q = self.qs[k / 4][l] >> (2 * (k % 4)) & 3 | (self.hmask[l] >> k & 1) << 2;
                y[l] = s[l / 16] * (f32::from(q) - 4.0);
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

impl ScalarBlock<256> for Q3_K {
    const TOP: u8 = 7;

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        let (k, l) = (i / 32, i % 32);
        put(&mut self.qs[k / 4][l], 2 * (k % 4), 2, level);
        put(&mut self.hmask[l], k, 1, level >> 2);
    }
}

impl Q3_K {
    #[inline(always)]
    fn scale(&self, k: usize) -> f32 {
        let low = self.scales[k % 8] >> (4 * (k / 8)) & 15;
        let high = self.scales[8 + k % 4] >> (2 * (k / 4)) & 3;
        f32::from(low | high << 4) - 32.0
    }
}
