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

use super::bits::put;
use crate::block::{Block, Temper};
use crate::codes::{Group, Shared, VectorBlock, decode};
use crate::feedback::{Side, vector};
use crate::scale::Scale;
use crate::search::codebook::IQ2_XS as BOOK;
use crate::search::eights::{Encoded, encode};
use crate::search::entries::KEPT;
use crate::search::one_group::{self, Choice};
use crate::search::signs::{even_signs, signed};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct IQ2_XS {
    d: Scale,
    qs: [[u8; 2]; 32],
    scales: [u8; 8],
}

impl Block<256> for IQ2_XS {
    const TEMPER: Option<Temper> = Some(Temper::Square(3.0));
    const SHRINKS: bool = true;
    const GROUP: Option<usize> = Some(8);

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        Self::of(&encode::<S, 2, 16, 0, KEPT>(simd, &BOOK, true, None, x, importance))
    }

    #[inline(always)]
    fn prepare<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        Self::of(&encode::<S, 2, 16, 2, 6>(simd, &BOOK, true, None, x, importance))
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

impl IQ2_XS {
    #[inline(always)]
    fn of(encoded: &Encoded<16>) -> Self {
        let Encoded { d, codes, entries, signs } = encoded;
        let mut block = Self::zeroed();
        block.d = (*d).into();
        for b in 0..16 {
            block.set_shared(b, Shared { code: codes[b], down: false });
        }
        for i in 0..32 {
            block.set_group(i, Group::eight(entries[i], signs[i]));
        }
        block
    }
}

impl VectorBlock for IQ2_XS {
    const SHARING: usize = 2;
    const TOP: u8 = 15;

    #[inline(always)]
    fn d(&self) -> f32 {
        self.d.get()
    }

    #[inline(always)]
    fn scale(d: f32, code: u8) -> f32 {
        d * (0.5 + f32::from(code)) * 0.25
    }

    #[inline(always)]
    fn shared(&self, b: usize) -> Shared {
        Shared { code: self.scales[b / 2] >> (4 * (b % 2)) & 15, down: false }
    }

    #[inline(always)]
    fn set_shared(&mut self, b: usize, shared: Shared) {
        put(&mut self.scales[b / 2], 4 * (b % 2), 4, shared.code);
    }

    #[inline(always)]
    fn group(&self, i: usize) -> Group {
        let q = u16::from_le_bytes(self.qs[i]);
        Group::eight(q & 511, even_signs(u32::from(q >> 9)))
    }

    #[inline(always)]
    fn set_group(&mut self, i: usize, group: Group) {
        let [entry, _] = group.entries;
        self.qs[i] = (entry | u16::from(group.signs & 127) << 9).to_le_bytes();
    }

    #[inline(always)]
    fn values(group: Group, scale: f32) -> [f32; 8] {
        signed(&BOOK.values[usize::from(group.entries[0])], group.signs, scale)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32, _down: bool) -> Choice {
        one_group::even_signs(simd, &BOOK, x, w, scale)
    }

    #[inline(always)]
    fn costs<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scales: &[f32; 3]) -> [[f32; 3]; 2] {
        [one_group::even_signs_costs(simd, &BOOK, x, w, scales), [f32::INFINITY; 3]]
    }
}
