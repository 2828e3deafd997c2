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

use super::bits::put32;
use crate::block::{Block, Temper};
use crate::codes::{Group, Shared, VectorBlock, decode};
use crate::feedback::{Side, vector};
use crate::scale::Scale;
use crate::search::codebook::IQ3_XXS as BOOK;
use crate::search::fours::{Encoded, encode};
use crate::search::near_fours::IQ3_XXS as NEAR;
use crate::search::one_group::{self, Choice};
use crate::search::scales::Shape;
use crate::search::signs::{even_signs, signed};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct IQ3_XXS {
    d: Scale,
    qs: [u8; 64],
    words: [[u8; 4]; 8],
}

/// Scales d (1/2 + code) / 2. The root mean square of the codebook is 30.8, 1 / 0.032; see [`Shape::typical`].
const SHAPE: Shape = Shape::new(16, 0.25, 0.036);

impl Block<256> for IQ3_XXS {
    const TEMPER: Option<Temper> = Some(Temper::Square(8.0));
    const SHRINKS: bool = true;
    const GROUP: Option<usize> = Some(8);

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, signs } = encode(simd, &BOOK, &SHAPE, true, &NEAR, x, importance);
        let mut block = Self::zeroed();
        block.d = d.into();
        for b in 0..8 {
            block.set_shared(b, Shared { code: codes[b], down: false });
        }
        for i in 0..32 {
            block.set_group(
                i,
                Group { entries: [entries[2 * i], entries[2 * i + 1]], signs: signs[i], down: false },
            );
        }
        block
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

impl VectorBlock for IQ3_XXS {
    const SHARING: usize = 4;
    const TOP: u8 = 15;

    #[inline(always)]
    fn d(&self) -> f32 {
        self.d.get()
    }

    #[inline(always)]
    fn scale(d: f32, code: u8) -> f32 {
        d * (0.5 + f32::from(code)) * 0.5
    }

    #[inline(always)]
    fn shared(&self, b: usize) -> Shared {
        Shared { code: (u32::from_le_bytes(self.words[b]) >> 28) as u8, down: false }
    }

    #[inline(always)]
    fn set_shared(&mut self, b: usize, shared: Shared) {
        put32(&mut self.words[b], 28, 4, shared.code.into());
    }

    #[inline(always)]
    fn group(&self, i: usize) -> Group {
        let entries = [self.qs[2 * i].into(), self.qs[2 * i + 1].into()];
        let signs = even_signs(u32::from_le_bytes(self.words[i / 4]) >> (7 * (i % 4)));
        Group { entries, signs, down: false }
    }

    #[inline(always)]
    fn set_group(&mut self, i: usize, group: Group) {
        for (half, entry) in group.entries.into_iter().enumerate() {
            self.qs[2 * i + half] = entry as u8;
        }
        put32(&mut self.words[i / 4], 7 * (i % 4), 7, group.signs.into());
    }

    #[inline(always)]
    fn values(group: Group, scale: f32) -> [f32; 8] {
        let [first, last] = group.entries.map(|entry| &BOOK.values[usize::from(entry)]);
        let halves = [signed(first, group.signs, scale), signed(last, group.signs >> 4, scale)];
        bytemuck::cast(halves)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32, _down: bool) -> Choice {
        one_group::two_fours(simd, &BOOK, &NEAR, true, x, w, scale)
    }

    #[inline(always)]
    fn costs<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scales: &[f32; 3]) -> [[f32; 3]; 2] {
        [one_group::two_fours_costs(simd, &NEAR, true, x, w, scales), [f32::INFINITY; 3]]
    }
}
