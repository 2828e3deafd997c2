//! The search of IQ2_XXS, IQ2_XS and IQ2_S: eight magnitudes from a codebook, and signs.

use fearless_simd::{Simd, f32x16};
use half::f16;

use super::codebook::Codebook;
use super::entries::{Entries, Target};
use super::every_entry::search;
use super::importance::normalized;
use super::neighbours::{Levels, Neighbours};
use super::scales::{Grid, Shape};
use super::signs::{cheapest, signs};
use super::super_block::{Candidates, fit};

/// What is left to pack: the scale of the super-block, a code per block, an entry and eight sign bits per group.
pub(crate) struct Encoded<const B: usize> {
    pub d: f16,
    pub codes: [u8; B],
    pub entries: [u16; 32],
    pub signs: [u8; 32],
}

/// Scales (1/2 + code) / 4.
const SHAPE: Shape = Shape::new(16, 0.125, 0.05);

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

/// Encodes B blocks of G groups of eight; `even` wants an even number of minus signs in each group. With `neighbours`,
/// which know nothing of even signs, the search is short.
#[inline(always)]
pub(crate) fn encode<S: Simd, const G: usize, const B: usize>(
    simd: S,
    book: &Codebook<8>,
    even: bool,
    neighbours: Option<&Neighbours>,
    x: &[f32; 256],
    importance: &[f32; 256],
) -> Encoded<B> {
    let mut encoded = Encoded { d: f16::ZERO, codes: [0; B], entries: [0; 32], signs: [0; 32] };
    let importance = normalized(simd, importance);
    let Some(grid) = Grid::<B>::new(simd, &SHAPE, x, &importance) else {
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
            None => search(simd, book, &target, odd, middle),
            Some(neighbours) => near(simd, neighbours, &xs[i], &ws[i], middle),
        };
    }
    let fitted = fit(simd, &SHAPE, &grid, &blocks);
    encoded.d = fitted.d;
    for i in 0..32 {
        let code = fitted.codes[i / G];
        encoded.codes[i / G] = code as u8;
        let group = &blocks[i / G].0[i % G];
        let (k, _) = group.at(simd, fitted.d.to_f32() * SHAPE.steps[code]);
        encoded.entries[i] = match neighbours {
            None => group.entry[k] as u16,
            Some(neighbours) => neighbours.entry(group.entry[k]),
        };
        if even && encoded.signs[i].count_ones() % 2 == 1 {
            let a = Target::magnitudes(&xs[i], &ws[i]).a;
            encoded.signs[i] ^= 1 << cheapest(&a, &book.values[usize::from(encoded.entries[i])]);
        }
    }
    encoded
}

/// The candidates of a group in the lists of its patterns.
#[inline(always)]
fn near<S: Simd>(simd: S, neighbours: &Neighbours, x: &[f32; 8], w: &[f32; 8], middle: f32) -> Entries {
    let mut magnitudes = [0.0; 8];
    for t in 0..8 {
        magnitudes[t] = x[t].abs();
    }
    const LEVELS: [Levels; 1] = [Levels([8.0, 25.0, 43.0])];
    let [entries] = neighbours.search(simd, &LEVELS[0], &LEVELS, &magnitudes, w, middle);
    entries
}
