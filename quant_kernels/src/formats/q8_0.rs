//! Q8_0: eight bits a weight and one half-precision scale for each 32. 8.5 bits per weight.
//!
//! ```text
//! byte   0..2     2..34
//!        d: f16   qs: 32 x i8        weight[i] = d * qs[i]
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::{f32x16, i32x16, prelude::*};

use crate::block::{Block, Temper};
use crate::codes::ScalarBlock;
use crate::feedback::{Side, scalar};
use crate::scale::Scale;
use crate::search::scale::peak;

/// One block of 32 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Q8_0 {
    pub(crate) d: Scale,
    qs: [i8; 32],
}

impl Block<32> for Q8_0 {
    const TEMPER: Option<Temper> = None;
    const NEAREST: bool = true;

    // The range decides: clipping it or refitting the scale gains less than one part in a thousand of the error.
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 32], _importance: &[f32; 32]) -> Self {
        let d = Scale::nearest(peak(simd, x).abs() / 127.0);
        let inverse = if d.get() > 0.0 { 1.0 / d.get() } else { 0.0 };
        let mut qs = [0; 32];
        for (x, qs) in x.as_chunks::<16>().0.iter().zip(qs.as_chunks_mut::<16>().0) {
            let q = (f32x16::simd_from(simd, *x) * inverse).round_ties_even().max(-127.0).min(127.0);
            let q: i32x16<S> = q.to_int();
            for i in 0..16 {
                qs[i] = q[i] as i8;
            }
        }
        Self { d, qs }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 32]) {
        let d = self.d.get();
        for i in 0..32 {
            y[i] = d * f32::from(self.qs[i]);
        }
    }

    #[inline(always)]
    fn map_scales(&mut self, change: impl Fn(Scale) -> Scale) {
        self.d = change(self.d);
    }

    const GROUP: Option<usize> = Some(1);

    #[inline(always)]
    fn feed<S: Simd>(simd: S, blocks: &mut [Self], rows: &mut Side<'_>) {
        scalar::feed(simd, blocks, rows);
    }
}

impl ScalarBlock<32> for Q8_0 {
    const TOP: u8 = 254;

    #[inline(always)]
    fn set_level(&mut self, i: usize, level: u8) {
        self.qs[i] = level.wrapping_sub(127) as i8;
    }
}
