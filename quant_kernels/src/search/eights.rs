//! The search of IQ2_XXS, IQ2_XS and IQ2_S: eight magnitudes from a codebook, and signs.

use fearless_simd::{Simd, f32x16};
use half::f16;

use super::codebook::Codebook;
use super::entries::{Entries, LeastSquares, Taken, Target};
use super::every_entry::search;
use super::neighbours::{Levels, Neighbours};
use super::scales::{Grid, Shape, times};
use super::signs::{cheapest, signs};
use super::super_block::{Candidates, fit};

/// What is left to pack: the scale of the super-block, a code per block, an entry and eight sign bits per group.
pub(crate) struct Encoded<const B: usize> {
    pub d: f16,
    pub codes: [u8; B],
    pub entries: [u16; 32],
    pub signs: [u8; 32],
}

/// Scales d (1/2 + code) / 4; a block's usual scale, over its root mean square.
const SHAPE: Shape = Shape::new(16, 0.125, TYPICAL);

/// The root mean squares of the codebooks are 23.1, 24.2 and 24.4: 1 / 0.043 to 1 / 0.041. See [`Shape::typical`].
const TYPICAL: f32 = 0.042;

/// The groups of a block.
struct Block<const G: usize>([Entries; G]);

impl<const G: usize> Candidates for Block<G> {
    #[inline(always)]
    fn score<S: Simd>(&self, simd: S, scales: f32x16<S>) -> f32x16<S> {
        let half = scales * 0.5;
        let mut sum = self.0[0].scores(simd, half);
        for group in &self.0[1..] {
            sum += group.scores(simd, half);
        }
        sum * scales
    }

    #[inline(always)]
    fn best<S: Simd>(&self, simd: S, scale: f32) -> (f32, f32) {
        let mut sum = (0.0, 0.0);
        for group in &self.0 {
            let (k, _) = group.at(simd, scale);
            sum = (sum.0 + group.p[k], sum.1 + group.q[k]);
        }
        sum
    }
}

/// Encodes B blocks of G groups of eight; `even` wants an even number of minus signs in each group. Entries are sought at the
/// rungs of the ladder from FROM to TO; with `neighbours`, which know nothing of even signs, by a short search at their own.
#[inline(always)]
pub(crate) fn encode<S: Simd, const G: usize, const B: usize, const FROM: usize, const TO: usize>(
    simd: S,
    book: &Codebook<8>,
    even: bool,
    neighbours: Option<&Neighbours>,
    x: &[f32; 256],
    importance: &[f32; 256],
) -> Encoded<B> {
    let mut encoded = Encoded { d: f16::ZERO, codes: [0; B], entries: [0; 32], signs: [0; 32] };
    let Some(grid) = Grid::<B>::new(simd, &SHAPE, x, importance) else {
        return encoded;
    };
    let (xs, _) = x.as_chunks::<8>();
    let (ws, _) = importance.as_chunks::<8>();
    let mut blocks = [const { Block([Entries::NONE; G]) }; B];
    for i in 0..32 {
        encoded.signs[i] = signs(simd, &xs[i]);
        let odd = even && encoded.signs[i].count_ones() % 2 == 1;
        let target = Target::magnitudes(&xs[i], &ws[i]);
        let middle = grid.middle(i / G);
        blocks[i / G].0[i % G] = match neighbours {
            None => search::<S, 8, FROM, TO>(simd, book, &target, odd, middle),
            Some(neighbours) => neighbours.search(
                simd,
                &LEVELS[0],
                &LEVELS,
                &magnitudes(&xs[i]),
                &ws[i],
                &times(&RUNGS, middle),
            )[0],
        };
    }
    let fitted = fit(simd, &SHAPE, &grid, &blocks);
    let mut least_squares = LeastSquares::NEW;
    for i in 0..32 {
        let code = fitted.codes[i / G];
        encoded.codes[i / G] = code as u8;
        let scale = fitted.d.to_f32() * SHAPE.steps[code];
        let group = &blocks[i / G].0[i % G];
        let (k, _) = group.at(simd, scale);
        let mut taken = Taken { entry: group.entry[k] as u16, p: group.p[k], q: group.q[k] };
        let target = Target::magnitudes(&xs[i], &ws[i]);
        if let Some(neighbours) = neighbours {
            taken.entry = neighbours.entry(group.entry[k]);
            let last = neighbours.search_at(simd, &LEVELS[0], &magnitudes(&xs[i]), &ws[i], scale);
            taken = taken.or(last, scale);
        }
        least_squares.add(SHAPE.steps[code], &taken);
        encoded.entries[i] = taken.entry;
        if even && encoded.signs[i].count_ones() % 2 == 1 {
            encoded.signs[i] ^= 1 << cheapest(&target.a, &book.values[usize::from(taken.entry)]);
        }
    }
    encoded.d = least_squares.d(fitted.d);
    encoded
}

/// Scales at which patterns are rounded, over a block's middle one: about a third apart, the ladder's width in all.
/// Each list of neighbours serves two scales, a bit below and above. The excess error with these is in `exhaustive.rs`.
const RUNGS: [f32; 4] = [0.65, 0.87, 1.15, 1.6];

/// The magnitudes of IQ2_S, the only one of the three that is searched by neighbours.
pub(crate) const LEVELS: [Levels; 1] = [Levels([8.0, 25.0, 43.0])];

#[inline(always)]
pub(crate) fn magnitudes(x: &[f32; 8]) -> [f32; 8] {
    let mut magnitudes = [0.0; 8];
    for t in 0..8 {
        magnitudes[t] = x[t].abs();
    }
    magnitudes
}
