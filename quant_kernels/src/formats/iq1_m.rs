//! IQ1_M: eight weights as one of 2048 ternary patterns with a shift, a 3-bit scale for each 16. 1.75 bits per weight.
//!
//! ```text
//! byte   0..32                      32..48                             48..56
//!        qs: 32 x entry bits 0..8   qh: 32 nibbles, low first (entry   scales: 4 x u16 (four 3-bit codes from bit 0,
//!                                   bits 8..11, bit 3: shift down)     a nibble of d's f16 on top, lowest first)
//!
//! weight[i] = d * (1 + 2 code) * (entry[i % 8] + shift), shift 1/8 up or down
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;
use half::f16;

use crate::block::{Block, Temper};
use crate::search::codebook::IQ1 as BOOK;
use crate::search::ternary::{Encoded, encode_shifted_groups, shifted};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct IQ1_M {
    qs: [u8; 32],
    qh: [u8; 16],
    scales: [[u8; 2]; 4],
}

impl IQ1_M {
    #[inline(always)]
    fn d(&self) -> f16 {
        let mut bits = 0;
        for k in 0..4 {
            bits |= u16::from(self.scales[k][1] >> 4) << (4 * k);
        }
        f16::from_bits(bits)
    }

    #[inline(always)]
    fn set_d(&mut self, d: f16) {
        for k in 0..4 {
            let nibble = (d.to_bits() >> (4 * k)) as u8 & 15;
            self.scales[k][1] = self.scales[k][1] & 15 | nibble << 4;
        }
    }
}

impl Block<256> for IQ1_M {
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, down } = encode_shifted_groups(simd, x, importance);
        let mut block = Self { qs: entries.map(|entry| entry as u8), qh: [0; 16], scales: [[0; 2]; 4] };
        for i in 0..32 {
            let nibble = (entries[i] >> 8) as u8 | down[i] << 3;
            block.qh[i / 2] |= nibble << (4 * (i % 2));
        }
        for k in 0..4 {
            let mut word = 0;
            for j in 0..4 {
                word |= u16::from(codes[4 * k + j]) << (3 * j);
            }
            block.scales[k] = word.to_le_bytes();
        }
        block.set_d(d);
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = self.d().to_f32();
        let (eights, _) = y.as_chunks_mut::<8>();
        for (i, y) in eights.iter_mut().enumerate() {
            let high = self.qh[i / 2] >> (4 * (i % 2)) & 15;
            let entry = usize::from(self.qs[i]) | usize::from(high & 7) << 8;
            let b = i / 2;
            let code = u16::from_le_bytes(self.scales[b / 4]) >> (3 * (b % 4)) & 7;
            let scale = d * f32::from(2 * code + 1);
            *y = shifted(&BOOK.values[entry], high >> 3 != 0, scale);
        }
    }

    const SCALES: bool = true;
    const TEMPER: Option<Temper> = Some(Temper::Fourth(0.03));

    #[inline(always)]
    fn scaled(mut self, factor: f32) -> Self {
        self.set_d(f16::from_f32(self.d().to_f32() * factor));
        self
    }
}
