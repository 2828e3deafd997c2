//! IQ2_XS: eight weights as one of 512 magnitude patterns and even signs, a 4-bit scale for each 16. 2.3125 bits per
//! weight.
//!
//! ```text
//! byte   0..2     2..66                                                     66..74
//!        d: f16   qs: 32 x u16 (entry in bits 0..9, 7 signs in bits 9..16)  scales: 16 codes, low nibble first
//!
//! weight[i] = d * (1/2 + code) / 4 * entry[i % 8] * sign; the eighth sign makes the number of minus signs even
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;
use half::f16;

use crate::block::{Block, Temper};
use crate::search::codebook::IQ2_XS as BOOK;
use crate::search::eights::{Encoded, encode};
use crate::search::signs::{even_signs, signed};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct IQ2_XS {
    d: [u8; 2],
    qs: [[u8; 2]; 32],
    scales: [u8; 8],
}

impl Block<256> for IQ2_XS {
    const TEMPER: Option<Temper> = Some(Temper::Square(3.0));

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, signs } = encode::<S, 2, 16>(simd, &BOOK, true, None, x, importance);
        let mut qs = [[0; 2]; 32];
        for i in 0..32 {
            qs[i] = (entries[i] | (u16::from(signs[i]) << 9)).to_le_bytes();
        }
        let mut scales = [0; 8];
        for b in 0..16 {
            scales[b / 2] |= codes[b] << (4 * (b % 2));
        }
        Self { d: d.to_le_bytes(), qs, scales }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        let (eights, _) = y.as_chunks_mut::<8>();
        for (i, y) in eights.iter_mut().enumerate() {
            let q = u16::from_le_bytes(self.qs[i]);
            let code = (self.scales[i / 4] >> (4 * (i / 2 % 2))) & 15;
            let scale = d * (0.5 + f32::from(code)) * 0.25;
            *y = signed(&BOOK.values[usize::from(q & 511)], even_signs(u32::from(q >> 9)), scale);
        }
    }

    const SCALES: bool = true;

    #[inline(always)]
    fn scaled(mut self, factor: f32) -> Self {
        self.d = f16::from_f32(f16::from_le_bytes(self.d).to_f32() * factor).to_le_bytes();
        self
    }
}
