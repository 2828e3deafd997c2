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

use super::bits::put32;
use crate::block::{Block, Temper};
use crate::codes::{Group, Shared, VectorBlock, decode};
use crate::feedback::{Side, vector};
use crate::scale::Scale;
use crate::search::codebook::IQ2_XXS as BOOK;
use crate::search::eights::{Encoded, encode};
use crate::search::entries::KEPT;
use crate::search::one_group::{self, Choice};
use crate::search::signs::{even_signs, signed};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct IQ2_XXS {
    d: Scale,
    qs: [Groups; 8],
}

/// Thirty-two weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Groups {
    entries: [u8; 4],
    word: [u8; 4],
}

impl Block<256> for IQ2_XXS {
    const TEMPER: Option<Temper> = Some(Temper::Square(8.0));
    const SHRINKS: bool = true;
    const GROUP: Option<usize> = Some(8);

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        Self::of(&encode::<S, 4, 8, 0, KEPT>(simd, &BOOK, true, None, x, importance))
    }

    #[inline(always)]
    fn prepare<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        Self::of(&encode::<S, 4, 8, 2, 6>(simd, &BOOK, true, None, x, importance))
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

impl IQ2_XXS {
    #[inline(always)]
    fn of(encoded: &Encoded<8>) -> Self {
        let Encoded { d, codes, entries, signs } = encoded;
        let mut block = Self::zeroed();
        block.d = (*d).into();
        for b in 0..8 {
            block.set_shared(b, Shared { code: codes[b], down: false });
        }
        for i in 0..32 {
            block.set_group(i, Group::eight(entries[i], signs[i]));
        }
        block
    }
}

impl VectorBlock for IQ2_XXS {
    const SHARING: usize = 4;
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
        let word = u32::from_le_bytes(self.qs[b].word);
        Shared { code: (word >> 28) as u8, down: false }
    }

    #[inline(always)]
    fn set_shared(&mut self, b: usize, shared: Shared) {
        put32(&mut self.qs[b].word, 28, 4, shared.code.into());
    }

    #[inline(always)]
    fn group(&self, i: usize) -> Group {
        let Groups { entries, word } = self.qs[i / 4];
        let signs = even_signs(u32::from_le_bytes(word) >> (7 * (i % 4)));
        Group::eight(entries[i % 4].into(), signs)
    }

    #[inline(always)]
    fn set_group(&mut self, i: usize, group: Group) {
        let groups = &mut self.qs[i / 4];
        groups.entries[i % 4] = group.entries[0] as u8;
        put32(&mut groups.word, 7 * (i % 4), 7, group.signs.into());
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
