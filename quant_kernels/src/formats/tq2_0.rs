//! TQ2_0: -1, 0 or 1 in two bits a weight, and one scale for each 256. 2.0625 bits per weight.
//!
//! ```text
//! byte   0..64                             64..66
//!        qs: weight 128 p + 32 j + l       d: f16
//!        in bits 2 j of byte 32 p + l
//!
//! weight[i] = d * (bits - 1)
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use super::tq1_0::{LANDINGS, Ternary};
use crate::block::{Block, Temper};
use crate::scale::Scale;
use crate::search::scale::fit;

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct TQ2_0 {
    qs: [[u8; 32]; 2],
    d: Scale,
}

impl Block<256> for TQ2_0 {
    const TEMPER: Option<Temper> = None;

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let mut codes = [0; 256];
        let d = fit::<Ternary, S, 2, 256>(simd, x, importance, &LANDINGS, &mut codes);
        let mut qs = [[0; 32]; 2];
        for (k, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
            for l in 0..32 {
                qs[k / 4][l] |= codes[l] << (2 * (k % 4));
            }
        }
        Self { qs, d }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = self.d.get();
        for (k, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for l in 0..32 {
                y[l] = d * (f32::from(self.qs[k / 4][l] >> (2 * (k % 4)) & 3) - 1.0);
            }
        }
    }
}
