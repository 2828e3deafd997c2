//! IQ3_S: four weights as one of 512 magnitude patterns, free signs, a 4-bit scale for each 32. 3.4375 bits per weight.
//!
//! ```text
//! byte   0..2     2..66                      66..74                       74..106     106..110
//!        d: f16   qs: 64 x entry bits 0..8   qh: entry bit 8, eight       signs: 32   scales: 8 codes, low nibble
//!                                            entries a byte                           first
//!
//! weight[i] = d * (1 + 2 code) * entry[i % 4] * sign
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;
use half::f16;

use crate::block::{Block, Temper};
use crate::search::codebook::IQ3_S as BOOK;
use crate::search::fours::{Encoded, encode};
use crate::search::near_fours::IQ3_S as NEAR;
use crate::search::scales::Shape;
use crate::search::signs::signed;

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct IQ3_S {
    d: [u8; 2],
    qs: [u8; 64],
    qh: [u8; 8],
    signs: [u8; 32],
    scales: [u8; 4],
}

const SHAPE: Shape = Shape::new(16, 1.0, 0.15);

impl Block<256> for IQ3_S {
    const TEMPER: Option<Temper> = Some(Temper::Square(3.0));

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, signs } = encode(simd, &BOOK, &SHAPE, false, &NEAR, x, importance);
        let mut block = Self { d: d.to_le_bytes(), qs: [0; 64], qh: [0; 8], signs, scales: [0; 4] };
        for i in 0..64 {
            block.qs[i] = entries[i] as u8;
            block.qh[i / 8] |= ((entries[i] >> 8) as u8) << (i % 8);
        }
        for b in 0..8 {
            block.scales[b / 2] |= codes[b] << (4 * (b % 2));
        }
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        let (fours, _) = y.as_chunks_mut::<4>();
        for (i, y) in fours.iter_mut().enumerate() {
            let entry = usize::from(self.qs[i]) | usize::from(self.qh[i / 8] >> (i % 8) & 1) << 8;
            let code = (self.scales[i / 16] >> (4 * (i / 8 % 2))) & 15;
            let scale = d * f32::from(1 + 2 * code);
            *y = signed(&BOOK.values[entry], self.signs[i / 2] >> (4 * (i % 2)), scale);
        }
    }

    const SCALES: bool = true;

    #[inline(always)]
    fn scaled(mut self, factor: f32) -> Self {
        self.d = f16::from_f32(f16::from_le_bytes(self.d).to_f32() * factor).to_le_bytes();
        self
    }
}
