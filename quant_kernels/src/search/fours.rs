//! The search of IQ3_XXS and IQ3_S: four magnitudes from a codebook, and signs.

use fearless_simd::{Simd, SimdBase, f32x16};
use half::f16;

use super::codebook::Codebook;
use super::entries::{Entries, Target};
use super::every_entry::{search, search_both};
use super::importance::normalized;
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

/// What a pair takes at a scale.
struct Taken {
    /// For each half its entries, with a sign turned or not, and which of them.
    halves: [(Entries, usize); 2],
    /// The half that turns a sign, if one does.
    turning: Option<usize>,
}

impl Pair {
    #[inline(always)]
    fn take<S: Simd>(&self, simd: S, scale: f32) -> Taken {
        let kept = [self.kept[0].at(simd, scale), self.kept[1].at(simd, scale)];
        let mut taken =
            Taken { halves: [(self.kept[0], kept[0].0), (self.kept[1], kept[1].0)], turning: None };
        if self.odd {
            let turned = [self.turned[0].at(simd, scale), self.turned[1].at(simd, scale)];
            // The first when both cost the same.
            let half = usize::from(kept[0].1 + turned[1].1 > turned[0].1 + kept[1].1);
            taken.halves[half] = (self.turned[half], turned[half].0);
            taken.turning = Some(half);
        }
        taken
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
    near: Option<&NearFours>,
    x: &[f32; 256],
    importance: &[f32; 256],
) -> Encoded {
    let mut encoded = Encoded { d: f16::ZERO, codes: [0; 8], entries: [0; 64], signs: [0; 32] };
    let importance = normalized(simd, importance);
    let Some(grid) = Grid::<8>::new(simd, shape, x, &importance) else {
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
            let target = Target::magnitudes(&xs[2 * i + half], &ws[2 * i + half]);
            if let Some(near) = near {
                let target = Magnitudes::new(&xs[2 * i + half], &ws[2 * i + half]);
                pair.kept[half] = near.search(simd, &target, false, middle);
                if pair.odd {
                    pair.turned[half] = near.search(simd, &target, true, middle);
                }
            } else if pair.odd {
                [pair.kept[half], pair.turned[half]] = search_both(simd, book, &target, middle);
            } else {
                pair.kept[half] = search(simd, book, &target, false, middle);
            }
        }
    }
    let fitted = fit(simd, shape, &grid, &blocks);
    encoded.d = fitted.d;
    let (mut xy, mut yy) = (0.0, 0.0);
    for i in 0..32 {
        let code = fitted.codes[i / 4];
        encoded.codes[i / 4] = code as u8;
        let scale = fitted.d.to_f32() * shape.steps[code];
        let taken = blocks[i / 4][i % 4].take(simd, scale);
        for half in 0..2 {
            let (entries, k) = &taken.halves[half];
            let (mut p, mut q) = (entries.p[*k], entries.q[*k]);
            encoded.entries[2 * i + half] = match near {
                None => entries.entry[*k] as u16,
                Some(near) => {
                    let (entry, p2, q2) = near.search_at(
                        simd,
                        &Magnitudes::new(&xs[2 * i + half], &ws[2 * i + half]),
                        taken.turning == Some(half),
                        scale,
                    );
                    if p2 - 0.5 * scale * q2 > p - 0.5 * scale * q {
                        p = p2;
                        q = q2;
                        entry
                    } else {
                        near.entry(entries.entry[*k])
                    }
                }
            };
            let step = shape.steps[code];
            xy += step * p;
            yy += step * step * q;
        }
        if let Some(half) = taken.turning {
            let quarter = 2 * i + half;
            let a = Target::magnitudes(&xs[quarter], &ws[quarter]).a;
            let t = cheapest(&a, &book.values[usize::from(encoded.entries[quarter])]);
            encoded.signs[i] ^= 1 << (4 * half + t);
        }
    }
    if xy > 0.0 && yy > 0.0 {
        encoded.d = f16::from_f32(xy / yy);
    }
    encoded
}
