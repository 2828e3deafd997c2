//! IQ3_XXS: four weights as one of 256 magnitude patterns, even signs of eight, a 4-bit scale for each 32. 3.0625 bits
//! per weight.
//!
//! ```text
//! byte   0..2     2..66            66..98
//!        d: f16   qs: 64 entries   words: 8 x u32 (four times 7 signs from bit 0, code in bits 28..32)
//!
//! weight[i] = d * (1/2 + code) / 2 * entry[i % 4] * sign; the eighth sign makes the number of minus signs even
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;
use half::f16;

use crate::block::{Block, Temper};
use crate::search::codebook::IQ3_XXS as BOOK;
use crate::search::fours::{Encoded, encode};
use crate::search::near_fours::IQ3_XXS as NEAR;
use crate::search::scales::Shape;
use crate::search::signs::{even_signs, signed};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct IQ3_XXS {
    d: [u8; 2],
    qs: [u8; 64],
    words: [[u8; 4]; 8],
}

const SHAPE: Shape = Shape::new(16, 0.25, 0.036);

impl Block<256> for IQ3_XXS {
    const TEMPER: Option<Temper> = Some(Temper::Square(8.0));

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, signs } = encode(simd, &BOOK, &SHAPE, true, &NEAR, x, importance);
        let mut block = Self { d: d.to_le_bytes(), qs: entries.map(|entry| entry as u8), words: [[0; 4]; 8] };
        for g in 0..8 {
            let mut word = u32::from(codes[g]) << 28;
            for l in 0..4 {
                word |= u32::from(signs[4 * g + l] & 127) << (7 * l);
            }
            block.words[g] = word.to_le_bytes();
        }
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        let (fours, _) = y.as_chunks_mut::<4>();
        for (i, y) in fours.iter_mut().enumerate() {
            let word = u32::from_le_bytes(self.words[i / 8]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            let signs = even_signs(word >> (7 * (i / 2 % 4)));
            *y = signed(&BOOK.values[usize::from(self.qs[i])], signs >> (4 * (i % 2)), scale);
        }
    }

    const SCALES: bool = true;

    #[inline(always)]
    fn scaled(mut self, factor: f32) -> Self {
        self.d = f16::from_f32(f16::from_le_bytes(self.d).to_f32() * factor).to_le_bytes();
        self
    }
}
