//! The search of IQ3_XXS and IQ3_S: four magnitudes from a codebook, and signs.

use fearless_simd::{Simd, SimdBase, f32x16};
use half::f16;

use super::codebook::Codebook;
use super::entries::{Entries, Target, search};
use super::importance::normalized;
use super::scales::{Grid, Shape};
use super::signs::{cheapest, signs};
use super::super_block::{Candidates, fit};

/// What is left to pack: the scale of the super-block, a code per block of 32, an entry per four weights and eight sign
/// bits per eight.
pub(crate) struct Encoded {
    pub d: f16,
    pub codes: [u8; 8],
    pub entries: [u16; 64],
    pub signs: [u8; 32],
}

/// How many scales of a block are searched.
const KEPT: usize = 16;

/// Two entries that share eight signs. With an odd number of minus signs in an even format one of the two has to turn
/// one.
#[derive(Clone, Copy)]
struct Pair {
    kept: [Entries<KEPT>; 2],
    /// With a sign turned; empty where none has to be.
    turned: [Entries<KEPT>; 2],
    odd: bool,
}

impl Pair {
    /// Which half turns a sign in an odd pair; the first when both cost the same.
    #[inline(always)]
    fn turning(&self, scale: f32) -> usize {
        let first = self.turned[0].score_at(scale) + self.kept[1].score_at(scale);
        let second = self.kept[0].score_at(scale) + self.turned[1].score_at(scale);
        usize::from(second > first)
    }

    /// The entries of both halves to choose from at a scale.
    #[inline(always)]
    fn lists(&self, scale: f32) -> [&Entries<KEPT>; 2] {
        if !self.odd {
            [&self.kept[0], &self.kept[1]]
        } else if self.turning(scale) == 0 {
            [&self.turned[0], &self.kept[1]]
        } else {
            [&self.kept[0], &self.turned[1]]
        }
    }
}

impl Candidates for [Pair; 4] {
    #[inline(always)]
    fn score<S: Simd>(&self, simd: S, scales: f32x16<S>) -> f32x16<S> {
        let half = scales * 0.5;
        let mut sum = f32x16::splat(simd, 0.0);
        for pair in self {
            let kept = [pair.kept[0].scores(simd, half), pair.kept[1].scores(simd, half)];
            if pair.odd {
                let turned = [pair.turned[0].scores(simd, half), pair.turned[1].scores(simd, half)];
                sum += (turned[0] + kept[1]).max(kept[0] + turned[1]);
            } else {
                sum += kept[0] + kept[1];
            }
        }
        sum * scales
    }

    #[inline(always)]
    fn best(&self, _lane: usize, scale: f32) -> (f32, f32) {
        let mut sum = (0.0, 0.0);
        for pair in self {
            for entries in pair.lists(scale) {
                let (p, q) = entries.best(scale);
                sum = (sum.0 + p, sum.1 + q);
            }
        }
        sum
    }
}

/// Encodes eight blocks of four groups of eight weights; `even` wants an even number of minus signs in each group.
#[inline(always)]
pub(crate) fn encode<S: Simd>(
    simd: S,
    book: &Codebook<4>,
    shape: &Shape,
    even: bool,
    x: &[f32; 256],
    importance: &[f32; 256],
) -> Encoded {
    let mut encoded = Encoded { d: f16::ZERO, codes: [0; 8], entries: [0; 64], signs: [0; 32] };
    let importance = normalized(importance);
    let Some(grid) = Grid::<8>::new(shape, x, &importance) else {
        return encoded;
    };
    let (eights, _) = x.as_chunks::<8>();
    let (xs, _) = x.as_chunks::<4>();
    let (ws, _) = importance.as_chunks::<4>();
    let mut blocks = [[Pair { kept: [Entries::NONE; 2], turned: [Entries::NONE; 2], odd: false }; 4]; 8];
    for i in 0..32 {
        encoded.signs[i] = signs(&eights[i]);
        let pair = &mut blocks[i / 4][i % 4];
        pair.odd = even && encoded.signs[i].count_ones() % 2 == 1;
        let scales = grid.spread(i / 4);
        for half in 0..2 {
            let target = Target::magnitudes(&xs[2 * i + half], &ws[2 * i + half]);
            pair.kept[half] = search(simd, book, &target, false, &scales);
            if pair.odd {
                pair.turned[half] = search(simd, book, &target, true, &scales);
            }
        }
    }
    let fitted = fit(simd, shape, &grid, &blocks);
    encoded.d = fitted.d;
    for i in 0..32 {
        let code = fitted.lanes[i / 4];
        encoded.codes[i / 4] = code as u8;
        let scale = fitted.d.to_f32() * shape.steps[code];
        let pair = &blocks[i / 4][i % 4];
        let lists = pair.lists(scale);
        for half in 0..2 {
            encoded.entries[2 * i + half] = lists[half].entry_at(scale);
        }
        if pair.odd {
            let quarter = 2 * i + pair.turning(scale);
            let a = Target::magnitudes(&xs[quarter], &ws[quarter]).a;
            let t = cheapest(&a, &book.values[usize::from(encoded.entries[quarter])]);
            encoded.signs[i] ^= 1 << (quarter % 2 * 4 + t);
        }
    }
    encoded
}
