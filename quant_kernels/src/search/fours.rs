//! The search of IQ3_XXS and IQ3_S: four magnitudes from a codebook, and signs.

use fearless_simd::{Simd, SimdBase, f32x16};
use half::f16;

use super::codebook::Codebook;
use super::entries::{Entries, LeastSquares, Taken, Target};
use super::near_fours::{Magnitudes, NearFours};
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

/// Two entries that share eight signs. With an odd number of minus signs in an even format one of the two has to turn
/// one.
#[derive(Clone, Copy)]
struct Pair {
    kept: [Entries; 2],
    /// With a sign turned; empty where none has to be.
    turned: [Entries; 2],
    odd: bool,
}

/// The entries that a pair of groups takes at a scale.
struct Best {
    /// For each half its entries, with a sign turned or not, and which of them.
    halves: [(Entries, usize); 2],
    /// The half that turns a sign, if one does.
    turning: Option<usize>,
}

impl Pair {
    #[inline(always)]
    fn take<S: Simd>(&self, simd: S, scale: f32) -> Best {
        let kept = [self.kept[0].at(simd, scale), self.kept[1].at(simd, scale)];
        let mut best = Best { halves: [(self.kept[0], kept[0].0), (self.kept[1], kept[1].0)], turning: None };
        if self.odd {
            let turned = [self.turned[0].at(simd, scale), self.turned[1].at(simd, scale)];
            // The first when both cost the same.
            let half = usize::from(kept[0].1 + turned[1].1 > turned[0].1 + kept[1].1);
            best.halves[half] = (self.turned[half], turned[half].0);
            best.turning = Some(half);
        }
        best
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
    fn best<S: Simd>(&self, simd: S, scale: f32) -> (f32, f32) {
        let mut sum = (0.0, 0.0);
        for pair in self {
            for (entries, k) in pair.take(simd, scale).halves {
                sum = (sum.0 + entries.p[k], sum.1 + entries.q[k]);
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
    near: &NearFours,
    x: &[f32; 256],
    importance: &[f32; 256],
) -> Encoded {
    let mut encoded = Encoded { d: f16::ZERO, codes: [0; 8], entries: [0; 64], signs: [0; 32] };
    let Some(grid) = Grid::<8>::new(simd, shape, x, importance) else {
        return encoded;
    };
    let (eights, _) = x.as_chunks::<8>();
    let (xs, _) = x.as_chunks::<4>();
    let (ws, _) = importance.as_chunks::<4>();
    let mut blocks = [[Pair { kept: [Entries::NONE; 2], turned: [Entries::NONE; 2], odd: false }; 4]; 8];
    for i in 0..32 {
        encoded.signs[i] = signs(simd, &eights[i]);
        let pair = &mut blocks[i / 4][i % 4];
        pair.odd = even && encoded.signs[i].count_ones() % 2 == 1;
        let middle = grid.middle(i / 4);
        for half in 0..2 {
            let target = Magnitudes::new(&xs[2 * i + half], &ws[2 * i + half]);
            pair.kept[half] = near.search(simd, &target, false, middle);
            if pair.odd {
                pair.turned[half] = near.search(simd, &target, true, middle);
            }
        }
    }
    let fitted = fit(simd, shape, &grid, &blocks);
    let mut least_squares = LeastSquares::NEW;
    for i in 0..32 {
        let code = fitted.codes[i / 4];
        encoded.codes[i / 4] = code as u8;
        let scale = fitted.d.to_f32() * shape.steps[code];
        let best = blocks[i / 4][i % 4].take(simd, scale);
        for half in 0..2 {
            let (x, w) = (&xs[2 * i + half], &ws[2 * i + half]);
            let turned = best.turning == Some(half);
            let (entries, k) = &best.halves[half];
            let mut taken =
                Taken { entry: near.entry(entries.entry[*k]), p: entries.p[*k], q: entries.q[*k] };
            if scale > 0.0 {
                taken = taken.or(near.search_at(simd, &Magnitudes::new(x, w), turned, scale), scale);
            }
            least_squares.add(shape.steps[code], &taken);
            encoded.entries[2 * i + half] = taken.entry;
            if turned {
                let a = Target::magnitudes(x, w).a;
                encoded.signs[i] ^= 1 << (4 * half + cheapest(&a, &book.values[usize::from(taken.entry)]));
            }
        }
    }
    encoded.d = least_squares.d(fitted.d);
    encoded
}
