//! The search of IQ1_S and IQ1_M: eight values of -1, 0 and 1 from a codebook, all moved up or down by an eighth.

use fearless_simd::{Simd, SimdBase, f32x16};
use half::f16;

use super::entries::{Entries, LeastSquares, Taken};
use super::neighbours::{IQ1, Levels};
use super::scales::{Grid, Shape, times};
use super::super_block::{Candidates, fit};

/// What is left to pack: the scale of the super-block, a code per block, an entry and a shift (1 is down) per group.
pub(crate) struct Encoded<const B: usize> {
    pub d: f16,
    pub codes: [u8; B],
    pub entries: [u16; 32],
    pub down: [u8; 32],
}

/// Scales d (1 + 2 code); a block's usual scale, over its root mean square.
const SHAPE: Shape = Shape::new(8, 1.0, TYPICAL);

/// The root mean square of the codebook is 0.77, four values of ten being zeros: 1 / 1.30. See [`Shape::typical`].
const TYPICAL: f32 = 1.2;

/// Scales at which entries are sought, over a block's middle one. Each serves both shifts and keeps one entry for each.
/// IQ1_S had two until commit 923a029; more find no less, since the last choice at the final scale makes up for
/// it: half of the entries that were kept before took nothing from the error and a fifth of the time (commit a3da1a4).
const RUNGS: [f32; 3] = [0.75, 1.0, 1.35];

/// The groups of a block, each with the entries that are shifted up and those that are shifted down, of which the first L are
/// in use. With ONE the block chooses the shift (IQ1_S), or else each group does (IQ1_M).
struct Block<const G: usize, const ONE: bool, const L: usize>([[Entries; 2]; G]);

impl<const G: usize, const ONE: bool, const L: usize> Candidates for Block<G, ONE, L> {
    #[inline(always)]
    fn score<S: Simd>(&self, simd: S, scales: f32x16<S>) -> f32x16<S> {
        let half = scales * 0.5;
        let mut sums = [f32x16::splat(simd, 0.0); 2];
        for group in &self.0 {
            let both = [group[0].scores_of::<S, L>(simd, half), group[1].scores_of::<S, L>(simd, half)];
            if ONE {
                sums = [sums[0] + both[0], sums[1] + both[1]];
            } else {
                sums[0] += both[0].max(both[1]);
            }
        }
        if ONE { sums[0].max(sums[1]) * scales } else { sums[0] * scales }
    }

    #[inline(always)]
    fn best<S: Simd>(&self, simd: S, scale: f32) -> (f32, f32) {
        let mut sum = (0.0, 0.0);
        for (group, (down, k)) in self.0.iter().zip(self.take(simd, scale)) {
            sum = (sum.0 + group[down].p[k], sum.1 + group[down].q[k]);
        }
        sum
    }
}

impl<const G: usize, const ONE: bool, const L: usize> Block<G, ONE, L> {
    /// For each group whether it is shifted down: 1, or up: 0, also when both are as good; and which of its entries.
    #[inline(always)]
    fn take<S: Simd>(&self, simd: S, scale: f32) -> [(usize, usize); G] {
        let mut best = [[0; 2]; G];
        let mut gains = [0.0; G];
        let mut sum = 0.0;
        for g in 0..G {
            let (up, up_score) = self.0[g][0].at(simd, scale);
            let (down, down_score) = self.0[g][1].at(simd, scale);
            best[g] = [up, down];
            gains[g] = down_score - up_score;
            sum += gains[g];
        }
        let mut taken = [(0, 0); G];
        for g in 0..G {
            let down = usize::from(if ONE { sum } else { gains[g] } > 0.0);
            taken[g] = (down, best[g][down]);
        }
        taken
    }
}

/// Encodes eight blocks of 32 weights with a shift each.
#[inline(always)]
pub(crate) fn encode_shifted_blocks<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Encoded<8> {
    encode::<S, true, 4, 8, 3>(simd, &RUNGS, x, importance)
}

/// Encodes sixteen blocks of 16 weights, each eight with a shift.
#[inline(always)]
pub(crate) fn encode_shifted_groups<S: Simd>(
    simd: S,
    x: &[f32; 256],
    importance: &[f32; 256],
) -> Encoded<16> {
    encode::<S, false, 2, 16, 3>(simd, &RUNGS, x, importance)
}

/// The same, of which only the scales matter: entries are sought at the middle scale alone, and not again.
#[inline(always)]
pub(crate) fn scale_shifted_blocks<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Encoded<8> {
    encode::<S, true, 4, 8, 1>(simd, &[1.0], x, importance)
}

/// Encodes B blocks of G groups of eight; with ONE all groups of a block have the same shift. Entries are sought at L scales,
/// and at the final one if these are several.
#[inline(always)]
fn encode<S: Simd, const ONE: bool, const G: usize, const B: usize, const L: usize>(
    simd: S,
    rungs: &[f32; L],
    x: &[f32; 256],
    importance: &[f32; 256],
) -> Encoded<B> {
    let mut encoded = Encoded { d: f16::ZERO, codes: [0; B], entries: [0; 32], down: [0; 32] };
    let Some(grid) = Grid::<B>::new(simd, &SHAPE, x, importance) else {
        return encoded;
    };
    let (xs, _) = x.as_chunks::<8>();
    let (ws, _) = importance.as_chunks::<8>();
    let mut blocks = [const { Block::<G, ONE, L>([[Entries::NONE; 2]; G]) }; B];
    for i in 0..32 {
        let middle = grid.middle(i / G);
        blocks[i / G].0[i % G] = IQ1.search(simd, &ROUNDING, &LEVELS, &xs[i], &ws[i], &times(rungs, middle));
    }
    let fitted = fit(simd, &SHAPE, &grid, &blocks);
    let mut least_squares = LeastSquares::NEW;
    for b in 0..B {
        encoded.codes[b] = fitted.codes[b] as u8;
        let scale = fitted.d.to_f32() * SHAPE.steps[fitted.codes[b]];
        for (g, (down, k)) in blocks[b].take(simd, scale).into_iter().enumerate() {
            encoded.down[b * G + g] = down as u8;
            let i = b * G + g;
            let group = &blocks[b].0[g][down];
            let mut taken = Taken { entry: IQ1.entry(group.entry[k]), p: group.p[k], q: group.q[k] };
            if L > 1 {
                let last = IQ1.search_at(simd, &LEVELS[down], &xs[i], &ws[i], scale);
                taken = taken.or(last, scale);
            }
            least_squares.add(SHAPE.steps[fitted.codes[b]], &taken);
            encoded.entries[i] = taken.entry;
        }
    }
    encoded.d = least_squares.d(fitted.d);
    encoded
}

/// The entries near to weights that are rounded to these serve both shifts.
pub(crate) const ROUNDING: Levels = Levels([-1.0, 0.0, 1.0]);

/// The values with the shift up, and down.
pub(crate) const LEVELS: [Levels; 2] = [Levels([-0.875, 0.125, 1.125]), Levels([-1.125, -0.125, 0.875])];

/// Values moved by an eighth and scaled.
#[inline(always)]
pub(crate) fn shifted(values: &[f32; 8], down: bool, scale: f32) -> [f32; 8] {
    let shift = if down { -0.125 } else { 0.125 };
    let mut y = [0.0; 8];
    for t in 0..8 {
        y[t] = scale * (values[t] + shift);
    }
    y
}
