//! TQ1_0: -1, 0 or 1, five weights a byte, and one scale for each 256. 1.6875 bits per weight.
//!
//! ```text
//! byte   0..32                  32..48                   48..52                   52..54
//!        qs: weight 32 n + l    qs: weight 160 + 16 n    qh: weight 240 + 4 n     d: f16
//!        is digit n of byte l   + l is digit n of 32+l   + l is digit n of 48+l
//!
//! A byte is a fraction of 256 in base three, digit 0 first, rounded up; qh has four digits and a zero.
//! weight[i] = d * (digit - 1)
//! ```

use bytemuck::{Pod, Zeroable};
use fearless_simd::Simd;

use crate::block::{Block, Temper};
use crate::scale::Scale;
use crate::search::levels::Integers;
use crate::search::scale::{Landings, fit, landings};

/// One block of 256 weights.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct TQ1_0 {
    qs: [u8; 48],
    qh: [u8; 4],
    d: Scale,
}

pub(super) type Ternary = Integers<-1, 1>;

/// Where the largest weight may land: half or less makes all weights zero, more than ten times hardly any.
pub(super) const LANDINGS: [Landings; 2] = [landings(1.0, 0.25), landings(1.125, 0.25)];

impl Block<256> for TQ1_0 {
    const TEMPER: Option<Temper> = None;

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Self {
        let mut codes = [0; 256];
        let d = fit::<Ternary, S, 2, 256>(simd, x, importance, &LANDINGS, &mut codes);
        let (mut qs, mut qh) = ([0; 48], [0; 4]);
        pack::<32, 5>(&codes[..160], &mut qs[..32]);
        pack::<16, 5>(&codes[160..240], &mut qs[32..]);
        pack::<4, 4>(&codes[240..], &mut qh);
        Self { qs, qh, d }
    }

    #[inline(always)]
    fn dequantize<S: Simd>(&self, _simd: S, y: &mut [f32; 256]) {
        let d = self.d.get();
        unpack::<32>(d, &self.qs[..32], &mut y[..160]);
        unpack::<16>(d, &self.qs[32..], &mut y[160..240]);
        unpack::<4>(d, &self.qh, &mut y[240..]);
    }
}

/// Digits of BYTES weights at a time into bytes.
#[inline(always)]
fn pack<const BYTES: usize, const DIGITS: usize>(codes: &[u8], bytes: &mut [u8]) {
    for l in 0..BYTES {
        let mut number = 0;
        for n in 0..5 {
            number = 3 * number + if n < DIGITS { u32::from(codes[BYTES * n + l]) } else { 0 };
        }
        // Rounded up, so that the digits come out of the products' upper bytes.
        bytes[l] = (number * 256).div_ceil(243) as u8;
    }
}

#[inline(always)]
fn unpack<const BYTES: usize>(d: f32, bytes: &[u8], y: &mut [f32]) {
    let mut power = 1u8;
    for y in y.as_chunks_mut::<BYTES>().0 {
        for l in 0..BYTES {
            let rest = bytes[l].wrapping_mul(power);
            let digit = (u16::from(rest) * 3) >> 8;
            y[l] = d * (f32::from(digit) - 1.0);
        }
        power = power.wrapping_mul(3);
    }
}
