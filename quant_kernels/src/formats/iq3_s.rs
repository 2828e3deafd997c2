//! IQ3_S: four weights as one of 512 magnitude patterns, free signs, a 4-bit scale for each 32. 3.4375 bits per weight.
//!
//! ```text
//! byte   0..2     2..66                      66..74                       74..106     106..110
//!        d: f16   qs: 64 x entry bits 0..8   qh: entry bit 8, eight       signs: 32   scales: 8 codes, low nibble
//!                                            entries a byte                           first
//!
//! weight[i] = d * (1 + 2 code) * entry[i % 4] * sign
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use super::bits::put;
use crate::block::{Block, Temper};
use crate::codes::{Group, Shared, VectorBlock, decode};
use crate::feedback::{Side, vector};
use crate::scale::Scale;
use crate::search::codebook::IQ3_S as BOOK;
use crate::search::fours::{Encoded, encode};
use crate::search::near_fours::IQ3_S as NEAR;
use crate::search::one_group::{self, Choice};
use crate::search::scales::Shape;
use crate::search::signs::signed;

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct IQ3_S {
    d: Scale,
    qs: [u8; 64],
    qh: [u8; 8],
    signs: [u8; 32],
    scales: [u8; 4],
}

/// Scales d (1 + 2 code). The root mean square of the codebook is 7.6, 1 / 0.132; see [`Shape::typical`].
const SHAPE: Shape = Shape::new(16, 1.0, 0.15);

impl Block<256> for IQ3_S {
    const TEMPER: Option<Temper> = Some(Temper::Square(3.0));
    const SHRINKS: bool = true;
    const GROUP: Option<usize> = Some(8);

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, signs } = encode(simd, &BOOK, &SHAPE, false, &NEAR, x, importance);
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

impl VectorBlock for IQ3_S {
    const SHARING: usize = 4;
    const TOP: u8 = 15;

    #[inline(always)]
    fn d(&self) -> f32 {
        self.d.get()
    }

    #[inline(always)]
    fn scale(d: f32, code: u8) -> f32 {
        d * f32::from(1 + 2 * code)
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
        let high = self.qh[i / 4] >> (2 * (i % 4));
        let entry = |half: usize| u16::from(self.qs[2 * i + half]) | u16::from(high >> half & 1) << 8;
        Group { entries: [entry(0), entry(1)], signs: self.signs[i], down: false }
    }

    #[inline(always)]
    fn set_group(&mut self, i: usize, group: Group) {
        for (half, entry) in group.entries.into_iter().enumerate() {
            self.qs[2 * i + half] = entry as u8;
            put(&mut self.qh[i / 4], 2 * (i % 4) + half, 1, (entry >> 8) as u8);
        }
        self.signs[i] = group.signs;
    }

    #[inline(always)]
    fn values(group: Group, scale: f32) -> [f32; 8] {
        let [first, last] = group.entries.map(|entry| &BOOK.values[usize::from(entry)]);
        let halves = [signed(first, group.signs, scale), signed(last, group.signs >> 4, scale)];
        bytemuck::cast(halves)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32, _down: bool) -> Choice {
        one_group::two_fours(simd, &BOOK, &NEAR, false, x, w, scale)
    }

    #[inline(always)]
    fn costs<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scales: &[f32; 3]) -> [[f32; 3]; 2] {
        [one_group::two_fours_costs(simd, &NEAR, false, x, w, scales), [f32::INFINITY; 3]]
    }
}
