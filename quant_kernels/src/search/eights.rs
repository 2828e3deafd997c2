//! The search of IQ2_XXS, IQ2_XS and IQ2_S: eight magnitudes from a codebook, and signs.

use fearless_simd::Simd;
use half::f16;

use super::candidates::{Candidates, Target, search};
use super::codebook::Codebook;
use super::importance::normalized;
use super::scales::{around, root_mean_square};
use super::signs::{cheapest, signs};
use super::super_block::{fit, guess};

/// What is left to pack: the scale of the super-block, a code per block, an entry and eight sign bits per group.
pub(crate) struct Encoded<const B: usize> {
    pub d: f16,
    pub codes: [u8; B],
    pub entries: [u16; 32],
    pub signs: [u8; 32],
}

/// d times these are the scales of the codes: (1/2 + code) / 4.
pub(crate) const STEPS: [f32; 16] = {
    let mut steps = [0.0; 16];
    let mut code = 0;
    while code < 16 {
        steps[code] = (code as f32 + 0.5) * 0.25;
        code += 1;
    }
    steps
};

/// Encodes B blocks of G groups of eight; `even` wants an even number of minus signs in each group.
#[inline(always)]
pub(crate) fn encode<S: Simd, const G: usize, const B: usize>(
    simd: S,
    book: &Codebook<8>,
    even: bool,
    x: &[f32; 256],
    importance: &[f32; 256],
) -> Encoded<B> {
    let importance = normalized(importance);
    let mut encoded = Encoded { d: f16::ZERO, codes: [0; B], entries: [0; 32], signs: [0; 32] };
    let (xs, _) = x.as_chunks::<8>();
    let (ws, _) = importance.as_chunks::<8>();
    let mut blocks = [[EMPTY; G]; B];
    let mut guesses = [0.0; B];
    for b in 0..B {
        let part = b * G * 8..(b + 1) * G * 8;
        let typical = root_mean_square(&x[part.clone()], &importance[part]) * TYPICAL;
        for g in 0..G {
            let i = b * G + g;
            encoded.signs[i] = signs(&xs[i]);
            let odd = even && encoded.signs[i].count_ones() % 2 == 1;
            blocks[b][g] = search(simd, book, &target(&xs[i], &ws[i]), odd, &around::<KEPT>(typical, RATIO));
        }
        guesses[b] = guess(simd, &blocks[b], &around::<16>(typical, RATIO_OF_GUESSES));
    }
    let fitted = fit(simd, &blocks, &STEPS, &guesses);
    encoded.d = fitted.d;
    for b in 0..B {
        encoded.codes[b] = fitted.lanes[b] as u8;
        for g in 0..G {
            let i = b * G + g;
            let entry = blocks[b][g].entry[blocks[b][g].at(fitted.d.to_f32() * STEPS[fitted.lanes[b]])];
            encoded.entries[i] = entry;
            if even && encoded.signs[i].count_ones() % 2 == 1 {
                let a = target(&xs[i], &ws[i]).a;
                encoded.signs[i] ^= 1 << cheapest(&a, &book.values[usize::from(entry)]);
            }
        }
    }
    encoded
}

const KEPT: usize = 8;
const EMPTY: Candidates<KEPT> = Candidates { p: [0.0; KEPT], q: [0.0; KEPT], entry: [0; KEPT] };
/// A block's best scale over its root mean square.
const TYPICAL: f32 = 0.05;
const RATIO: f32 = 1.15;
const RATIO_OF_GUESSES: f32 = 1.075;

#[inline(always)]
fn target(x: &[f32; 8], w: &[f32; 8]) -> Target<8> {
    let mut a = [0.0; 8];
    for t in 0..8 {
        a[t] = w[t] * x[t].abs();
    }
    Target { a, w: *w }
}
