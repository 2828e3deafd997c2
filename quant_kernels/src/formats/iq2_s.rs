//! IQ2_S: eight weights as one of 1024 magnitude patterns and free signs, a 4-bit scale for each 16. 2.5625 bits per
//! weight.
//!
//! ```text
//! byte   0..2     2..34                      34..66        66..74                  74..82
//!        d: f16   qs: 32 x entry bits 0..8   signs: 32     qh: entry bits 8..10,   scales: 16 codes, low nibble first
//!                                                          four groups a byte
//!
//! weight[i] = d * (1/2 + code) / 4 * entry[i % 8] * sign
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;
use half::f16;

use crate::block::{Block, Temper};
use crate::search::codebook::IQ2_S as BOOK;
use crate::search::eights::{Encoded, encode};
use crate::search::neighbours::IQ2_S as NEIGHBOURS;
use crate::search::signs::signed;

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct IQ2_S {
    d: [u8; 2],
    qs: [u8; 32],
    signs: [u8; 32],
    qh: [u8; 8],
    scales: [u8; 8],
}

impl Block<256> for IQ2_S {
    const TEMPER: Option<Temper> = Some(Temper::Square(2.0));

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, signs } =
            encode::<S, 2, 16>(simd, &BOOK, false, Some(&NEIGHBOURS), x, importance);
        let mut block = Self { d: d.to_le_bytes(), qs: [0; 32], signs, qh: [0; 8], scales: [0; 8] };
        for i in 0..32 {
            block.qs[i] = entries[i] as u8;
            block.qh[i / 4] |= ((entries[i] >> 8) as u8) << (2 * (i % 4));
        }
        for b in 0..16 {
            block.scales[b / 2] |= codes[b] << (4 * (b % 2));
        }
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        let (eights, _) = y.as_chunks_mut::<8>();
        for (i, y) in eights.iter_mut().enumerate() {
            let high = (self.qh[i / 4] >> (2 * (i % 4))) & 3;
            let entry = usize::from(self.qs[i]) | usize::from(high) << 8;
            let code = (self.scales[i / 4] >> (4 * (i / 2 % 2))) & 15;
            let scale = d * (0.5 + f32::from(code)) * 0.25;
            *y = signed(&BOOK.values[entry], self.signs[i], scale);
        }
    }

    const SCALES: bool = true;

    #[inline(always)]
    fn scaled(mut self, factor: f32) -> Self {
        self.d = f16::from_f32(f16::from_le_bytes(self.d).to_f32() * factor).to_le_bytes();
        self
    }
}
