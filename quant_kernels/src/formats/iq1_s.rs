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

use super::bits::put16;
use crate::block::{Block, Temper};
use crate::codes::{Group, Shared, VectorBlock, decode};
use crate::feedback::{Side, vector};
use crate::scale::Scale;
use crate::search::codebook::IQ1 as BOOK;
use crate::search::one_group::{self, Choice};
use crate::search::ternary::{Encoded, encode_shifted_blocks, scale_shifted_blocks, shifted};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct IQ1_S {
    d: Scale,
    qs: [u8; 32],
    qh: [[u8; 2]; 8],
}

impl Block<256> for IQ1_S {
    const TEMPER: Option<Temper> = Some(Temper::Fourth(0.03));
    const COHERENCE: Option<f64> = Some(10.0);
    const SHRINKS: bool = true;
    const GROUP: Option<usize> = Some(8);

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        Self::of(&encode_shifted_blocks(simd, x, importance))
    }

    #[inline(always)]
    fn prepare<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        Self::of(&scale_shifted_blocks(simd, x, importance))
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        decode(self, y);
    }

    #[inline(always)]
    fn map_scales(&mut self, change: impl Fn(Scale) -> Scale) {
        self.d = change(self.d);
    }

    #[inline(always)]
    fn feed<S: Simd>(simd: S, blocks: &mut [Self], rows: &mut Side<'_>) {
        vector::feed(simd, blocks, rows);
    }
}

impl IQ1_S {
    #[inline(always)]
    fn of(encoded: &Encoded<8>) -> Self {
        let Encoded { d, codes, entries, down } = encoded;
        let mut block = Self::zeroed();
        block.d = (*d).into();
        for b in 0..8 {
            block.set_shared(b, Shared { code: codes[b], down: down[4 * b] != 0 });
        }
        for i in 0..32 {
            block.set_group(i, Group::shifted(entries[i], down[i] != 0));
        }
        block
    }
}

impl VectorBlock for IQ1_S {
    const SHARING: usize = 4;
    const TOP: u8 = 7;

    #[inline(always)]
    fn d(&self) -> f32 {
        self.d.get()
    }

    #[inline(always)]
    fn scale(d: f32, code: u8) -> f32 {
        d * f32::from(2 * code + 1)
    }

    #[inline(always)]
    fn shared(&self, b: usize) -> Shared {
        let high = u16::from_le_bytes(self.qh[b]);
        Shared { code: (high >> 12 & 7) as u8, down: high >> 15 != 0 }
    }

    #[inline(always)]
    fn set_shared(&mut self, b: usize, shared: Shared) {
        put16(&mut self.qh[b], 12, 3, shared.code.into());
        put16(&mut self.qh[b], 15, 1, shared.down.into());
    }

    #[inline(always)]
    fn group(&self, i: usize) -> Group {
        let high = u16::from_le_bytes(self.qh[i / 4]);
        let entry = u16::from(self.qs[i]) | (high >> (3 * (i % 4)) & 7) << 8;
        Group::shifted(entry, high >> 15 != 0)
    }

    #[inline(always)]
    fn set_group(&mut self, i: usize, group: Group) {
        let [entry, _] = group.entries;
        self.qs[i] = entry as u8;
        put16(&mut self.qh[i / 4], 3 * (i % 4), 3, entry >> 8);
    }

    #[inline(always)]
    fn values(group: Group, scale: f32) -> [f32; 8] {
        shifted(&BOOK.values[usize::from(group.entries[0])], group.down, scale)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32, down: bool) -> Choice {
        one_group::shifted(simd, x, w, scale, down)
    }

    #[inline(always)]
    fn costs<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scales: &[f32; 3]) -> [[f32; 3]; 2] {
        one_group::shifted_costs(simd, x, w, scales)
    }
}
