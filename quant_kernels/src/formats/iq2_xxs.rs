//! IQ2_XXS: eight weights as one of 256 magnitude patterns and even signs, a 4-bit scale for each 32. 2.0625 bits per
//! weight.
//!
//! ```text
//! byte   0..2     2..66
//!        d: f16   8 x (4 entries: u8, then a u32: four times 7 signs from bit 0, code in bits 28..32)
//!
//! weight[i] = d * (1/2 + code) / 4 * entry[i % 8] * sign; the eighth sign makes the number of minus signs even
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;
use half::f16;

use crate::block::{Block, Temper};
use crate::search::codebook::IQ2_XXS as BOOK;
use crate::search::eights::{Encoded, encode};
use crate::search::signs::{even_signs, signed};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct IQ2_XXS {
    d: [u8; 2],
    qs: [[u8; 8]; 8],
}

impl Block<256> for IQ2_XXS {
    const TEMPER: Option<Temper> = Some(Temper::Square(8.0));

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, signs } = encode::<S, 4, 8>(simd, &BOOK, true, None, x, importance);
        let mut qs = [[0; 8]; 8];
        for g in 0..8 {
            let mut word = u32::from(codes[g]) << 28;
            for l in 0..4 {
                qs[g][l] = entries[4 * g + l] as u8;
                word |= u32::from(signs[4 * g + l] & 127) << (7 * l);
            }
            qs[g][4..].copy_from_slice(&word.to_le_bytes());
        }
        Self { d: d.to_le_bytes(), qs }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        let (eights, _) = y.as_chunks_mut::<8>();
        for (i, y) in eights.iter_mut().enumerate() {
            let [a, b, c, e, word @ ..] = self.qs[i / 4];
            let word = u32::from_le_bytes(word);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            let entry = [a, b, c, e][i % 4];
            *y = signed(&BOOK.values[usize::from(entry)], even_signs(word >> (7 * (i % 4))), scale);
        }
    }

    const SCALES: bool = true;

    #[inline(always)]
    fn scaled(mut self, factor: f32) -> Self {
        self.d = f16::from_f32(f16::from_le_bytes(self.d).to_f32() * factor).to_le_bytes();
        self
    }
}
