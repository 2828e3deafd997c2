//! IQ1_S: eight weights as one of 2048 ternary patterns, a 3-bit scale and a shift for each 32. 1.5625 bits per weight.
//!
//! ```text
//! byte   0..2     2..34                      34..50
//!        d: f16   qs: 32 x entry bits 0..8   qh: 8 x u16 (four times entry bits 8..11 from bit 0, code in bits 12..15,
//!                                            bit 15: shift down)
//!
//! weight[i] = d * (1 + 2 code) * (entry[i % 8] + shift), shift 1/8 up or down
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;
use half::f16;

use crate::block::{Block, Temper};
use crate::search::codebook::IQ1 as BOOK;
use crate::search::ternary::{Encoded, encode_shifted_blocks, shifted};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct IQ1_S {
    d: [u8; 2],
    qs: [u8; 32],
    qh: [[u8; 2]; 8],
}

impl Block<256> for IQ1_S {
    const TEMPER: Option<Temper> = Some(Temper::Fourth(0.03));

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, down } = encode_shifted_blocks(simd, x, importance);
        let mut block = Self { d: d.to_le_bytes(), qs: entries.map(|entry| entry as u8), qh: [[0; 2]; 8] };
        for b in 0..8 {
            let mut high = u16::from(codes[b]) << 12 | u16::from(down[4 * b]) << 15;
            for l in 0..4 {
                high |= (entries[4 * b + l] >> 8) << (3 * l);
            }
            block.qh[b] = high.to_le_bytes();
        }
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = f16::from_le_bytes(self.d).to_f32();
        let (eights, _) = y.as_chunks_mut::<8>();
        for (i, y) in eights.iter_mut().enumerate() {
            let high = u16::from_le_bytes(self.qh[i / 4]);
            let entry = usize::from(self.qs[i]) | usize::from(high >> (3 * (i % 4)) & 7) << 8;
            let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
            *y = shifted(&BOOK.values[entry], high >> 15 != 0, scale);
        }
    }

    const SCALES: bool = true;

    #[inline(always)]
    fn scaled(mut self, factor: f32) -> Self {
        self.d = f16::from_f32(f16::from_le_bytes(self.d).to_f32() * factor).to_le_bytes();
        self
    }
}
