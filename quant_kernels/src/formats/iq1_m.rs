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

use super::bits::{put, put16};
use crate::block::{Block, Temper};
use crate::codes::{Group, Shared, VectorBlock, decode};
use crate::feedback::{Side, vector};
use crate::scale::Scale;
use crate::search::codebook::IQ1 as BOOK;
use crate::search::one_group::{self, Choice};
use crate::search::ternary::{Encoded, encode_shifted_groups, shifted};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct IQ1_M {
    qs: [u8; 32],
    qh: [u8; 16],
    scales: [[u8; 2]; 4],
}

impl IQ1_M {
    /// The super-block's scale.
    #[inline(always)]
    fn scale_of_all(&self) -> Scale {
        let mut bits = 0;
        for k in 0..4 {
            bits |= u16::from(self.scales[k][1] >> 4) << (4 * k);
        }
        f16::from_bits(bits).into()
    }

    #[inline(always)]
    fn set_scale(&mut self, d: Scale) {
        let bits = f16::from(d).to_bits();
        for k in 0..4 {
            put16(&mut self.scales[k], 12, 4, bits >> (4 * k));
        }
    }
}

impl Block<256> for IQ1_M {
    const TEMPER: Option<Temper> = Some(Temper::Fourth(0.03));
    const COHERENCE: Option<f64> = Some(10.0);
    const SHRINKS: bool = true;
    const GROUP: Option<usize> = Some(8);

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let Encoded { d, codes, entries, down } = encode_shifted_groups(simd, x, importance);
        let mut block = Self::zeroed();
        block.set_scale(d.into());
        for b in 0..16 {
            block.set_shared(b, Shared { code: codes[b], down: false });
        }
        for i in 0..32 {
            block.set_group(i, Group::shifted(entries[i], down[i] != 0));
        }
        block
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        decode(self, y);
    }

    #[inline(always)]
    fn map_scales(&mut self, change: impl Fn(Scale) -> Scale) {
        self.set_scale(change(self.scale_of_all()));
    }

    #[inline(always)]
    fn feed<S: Simd>(simd: S, blocks: &mut [Self], rows: &mut Side<'_>) {
        vector::feed(simd, blocks, rows);
    }
}

impl VectorBlock for IQ1_M {
    const SHARING: usize = 2;
    const TOP: u8 = 7;

    #[inline(always)]
    fn d(&self) -> f32 {
        self.scale_of_all().get()
    }

    #[inline(always)]
    fn scale(d: f32, code: u8) -> f32 {
        d * f32::from(2 * code + 1)
    }

    #[inline(always)]
    fn shared(&self, b: usize) -> Shared {
        let word = u16::from_le_bytes(self.scales[b / 4]);
        Shared { code: (word >> (3 * (b % 4)) & 7) as u8, down: false }
    }

    #[inline(always)]
    fn set_shared(&mut self, b: usize, shared: Shared) {
        put16(&mut self.scales[b / 4], 3 * (b % 4), 3, shared.code.into());
    }

    #[inline(always)]
    fn group(&self, i: usize) -> Group {
        let high = self.qh[i / 2] >> (4 * (i % 2)) & 15;
        let entry = u16::from(self.qs[i]) | u16::from(high & 7) << 8;
        Group::shifted(entry, high >> 3 != 0)
    }

    #[inline(always)]
    fn set_group(&mut self, i: usize, group: Group) {
        let [entry, _] = group.entries;
        self.qs[i] = entry as u8;
        put(&mut self.qh[i / 2], 4 * (i % 2), 4, (entry >> 8) as u8 | u8::from(group.down) << 3);
    }

    #[inline(always)]
    fn values(group: Group, scale: f32) -> [f32; 8] {
        shifted(&BOOK.values[usize::from(group.entries[0])], group.down, scale)
    }

    #[inline(always)]
    fn choose<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32, _down: bool) -> Choice {
        one_group::either_shift(simd, x, w, scale)
    }

    #[inline(always)]
    fn costs<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scales: &[f32; 3]) -> [[f32; 3]; 2] {
        [one_group::either_shift_costs(simd, x, w, scales), [f32::INFINITY; 3]]
    }
}
