//! The search of IQ3_XXS and IQ3_S: four magnitudes from a codebook, and signs.

use fearless_simd::{Simd, SimdBase, f32x16};
use half::f16;

use super::candidates::{Candidates, Target, search};
use super::codebook::Codebook;
use super::importance::normalized;
use super::scales::{around, root_mean_square};
use super::signs::{cheapest, signs};
use super::super_block::{Group, fit, guess};

/// What is left to pack: the scale of the super-block, a code per block of 32, an entry per four weights and eight sign
/// bits per eight.
pub(crate) struct Encoded {
    pub d: f16,
    pub codes: [u8; 8],
    pub entries: [u16; 64],
    pub signs: [u8; 32],
}

/// How a format scales and where its scales lie.
pub(crate) struct Shape {
    /// d times these are the scales of the codes.
    pub steps: [f32; 16],
    /// An even number of minus signs in each eight weights.
    pub even: bool,
    /// A block's usual scale over its root mean square.
    pub typical: f32,
}

/// Two entries that share eight signs. With an odd number of minus signs in an even format one of the two has to turn
/// one.
#[derive(Clone, Copy)]
struct Pair {
    kept: [Candidates<KEPT>; 2],
    turned: [Candidates<KEPT>; 2],
    odd: bool,
}

impl Pair {
    /// For an odd pair, whether the second turns a sign; the first does when both cost the same.
    #[inline(always)]
    fn second_turns(&self, scale: f32) -> bool {
        let first = self.turned[0].score_at(scale) + self.kept[1].score_at(scale);
        let second = self.kept[0].score_at(scale) + self.turned[1].score_at(scale);
        second > first
    }

    /// The two lists that hold the best at this scale.
    #[inline(always)]
    fn lists(&self, scale: f32) -> [&Candidates<KEPT>; 2] {
        if !self.odd {
            [&self.kept[0], &self.kept[1]]
        } else if self.second_turns(scale) {
            [&self.kept[0], &self.turned[1]]
        } else {
            [&self.turned[0], &self.kept[1]]
        }
    }
}

impl Group for Pair {
    #[inline(always)]
    fn score<S: Simd>(&self, simd: S, scales: f32x16<S>) -> f32x16<S> {
        let kept = [self.kept[0].score(simd, scales), self.kept[1].score(simd, scales)];
        if !self.odd {
            return kept[0] + kept[1];
        }
        let turned = [self.turned[0].score(simd, scales), self.turned[1].score(simd, scales)];
        (turned[0] + kept[1]).max(kept[0] + turned[1])
    }

    #[inline(always)]
    fn best(&self, _lane: usize, scale: f32) -> (f32, f32) {
        let [first, second] = self.lists(scale);
        let (i, j) = (first.at(scale), second.at(scale));
        (first.p[i] + second.p[j], first.q[i] + second.q[j])
    }
}

/// Encodes eight blocks of four groups of eight weights.
#[inline(always)]
pub(crate) fn encode<S: Simd>(
    simd: S,
    book: &Codebook<4>,
    shape: &Shape,
    x: &[f32; 256],
    importance: &[f32; 256],
) -> Encoded {
    let importance = normalized(importance);
    let mut encoded = Encoded { d: f16::ZERO, codes: [0; 8], entries: [0; 64], signs: [0; 32] };
    let (eights, _) = x.as_chunks::<8>();
    let (xs, _) = x.as_chunks::<4>();
    let (ws, _) = importance.as_chunks::<4>();
    let mut blocks = [[EMPTY; 4]; 8];
    let mut guesses = [0.0; 8];
    for b in 0..8 {
        let part = b * 32..(b + 1) * 32;
        let typical = root_mean_square(&x[part.clone()], &importance[part]) * shape.typical;
        let scales = around(typical, RATIO);
        for g in 0..4 {
            let i = b * 4 + g;
            encoded.signs[i] = signs(&eights[i]);
            let pair = &mut blocks[b][g];
            pair.odd = shape.even && encoded.signs[i].count_ones() % 2 == 1;
            for half in 0..2 {
                let target = target(&xs[2 * i + half], &ws[2 * i + half]);
                pair.kept[half] = search(simd, book, &target, false, &scales);
                if pair.odd {
                    pair.turned[half] = search(simd, book, &target, true, &scales);
                }
            }
        }
        guesses[b] = guess(simd, &blocks[b], &around::<16>(typical, RATIO_OF_GUESSES));
    }
    let fitted = fit(simd, &blocks, &shape.steps, &guesses);
    encoded.d = fitted.d;
    for b in 0..8 {
        encoded.codes[b] = fitted.lanes[b] as u8;
        let scale = fitted.d.to_f32() * shape.steps[fitted.lanes[b]];
        for g in 0..4 {
            let i = b * 4 + g;
            let pair = &blocks[b][g];
            let lists = pair.lists(scale);
            for half in 0..2 {
                encoded.entries[2 * i + half] = lists[half].entry[lists[half].at(scale)];
            }
            if pair.odd {
                let half = usize::from(pair.second_turns(scale));
                let a = target(&xs[2 * i + half], &ws[2 * i + half]).a;
                let entry = usize::from(encoded.entries[2 * i + half]);
                encoded.signs[i] ^= 1 << (4 * half + cheapest(&a, &book.values[entry]));
            }
        }
    }
    encoded
}

const KEPT: usize = 8;
const NONE: Candidates<KEPT> = Candidates { p: [0.0; KEPT], q: [0.0; KEPT], entry: [0; KEPT] };
const EMPTY: Pair = Pair { kept: [NONE; 2], turned: [NONE; 2], odd: false };
const RATIO: f32 = 1.15;
const RATIO_OF_GUESSES: f32 = 1.075;

#[inline(always)]
fn target(x: &[f32; 4], w: &[f32; 4]) -> Target<4> {
    let mut a = [0.0; 4];
    for t in 0..4 {
        a[t] = w[t] * x[t].abs();
    }
    Target { a, w: *w }
}
