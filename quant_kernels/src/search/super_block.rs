//! The scale of a super-block and the scale codes of its blocks, chosen together from candidates.
//!
//! The objective is the importance-weighted squared error with d free, which is the weighted cosine: an error at
//! unit gain. What shrinks the weights is taken back per row, see `block.rs`.
//!
//! Each block is scored on a geometric grid of scales that all blocks share. With d on the same grid a code is an
//! offset into a block's scores, so that sixteen d are tried at once, the lanes, with all their codes. The best few
//! are scored exactly; at the best of those, d is refitted by least squares and the codes are chosen again.

use fearless_simd::{Simd, SimdBase, SimdMask, f32x16};
use half::f16;

use super::scales::{Grid, POINTS, POWERS, Shape};

/// A block's candidates, able to say what is best at a scale.
pub(crate) trait Candidates {
    /// Largest s P - s^2 Q / 2 at each of sixteen scales s.
    fn score<S: Simd>(&self, simd: S, scales: f32x16<S>) -> f32x16<S>;

    /// P and Q of the best at one scale.
    fn best<S: Simd>(&self, simd: S, scale: f32) -> (f32, f32);
}

/// The f16 scale of a super-block and the scale code of each block.
pub(crate) struct Fit<const B: usize> {
    pub d: f16,
    pub codes: [usize; B],
}

/// How many d of the grid are scored again, exactly, since the grid is about as coarse as neighbouring d differ in
/// score.
const PROBES: usize = 2;
/// How often, at most, d is refitted by least squares and the codes are chosen again.
const REFITS: usize = 1;

/// Chooses d and for each block its code.
#[inline(always)]
pub(crate) fn fit<S: Simd, C: Candidates, const B: usize>(
    simd: S,
    shape: &Shape,
    grid: &Grid<B>,
    blocks: &[C; B],
) -> Fit<B> {
    let (mut d, mut codes, mut score) = (f16::ZERO, [0; B], 0.0);
    for probe in rough(simd, shape, grid, blocks) {
        let probe = f16::from_f32(probe);
        let (probe_codes, probe_score) = choose(simd, shape, blocks, probe);
        if probe_score > score {
            (d, codes, score) = (probe, probe_codes, probe_score);
        }
    }
    for _ in 0..REFITS {
        let next = f16::from_f32(least_squares(simd, shape, blocks, d, &codes));
        if next == d {
            break;
        }
        let (next_codes, next_score) = choose(simd, shape, blocks, next);
        if next_score <= score {
            break;
        }
        (d, codes, score) = (next, next_codes, next_score);
    }
    Fit { d, codes }
}

/// The best d of sixteen on the grid, the best first.
#[inline(always)]
fn rough<S: Simd, C: Candidates, const B: usize>(
    simd: S,
    shape: &Shape,
    grid: &Grid<B>,
    blocks: &[C; B],
) -> [f32; PROBES] {
    let mut tables = [[0.0; POINTS + 32]; B];
    let mut largest = 0;
    for b in 0..B {
        let point = score_points(simd, grid, b, &blocks[b], &mut tables[b]);
        largest = largest.max(grid.start[b] + point);
    }
    let lowest = largest - BELOW_LARGEST;
    let mut total = f32x16::splat(simd, 0.0);
    for b in 0..B {
        let mut best = f32x16::splat(simd, 0.0);
        for code in 0..shape.codes {
            if let Some(start) = grid.window(b, lowest as isize - shape.offsets[code] as isize) {
                best = best.max(f32x16::from_slice(simd, &tables[b][start..start + 16]));
            }
        }
        total += best;
    }
    let mut totals = total.to_array();
    let mut probes = [0.0; PROBES];
    for probe in &mut probes {
        let (lane, _) = first_largest(f32x16::load_array_ref(simd, &totals));
        totals[lane] = f32::MIN;
        let power = POWERS[(lowest + lane).min(POWERS.len() - 1)];
        *probe = grid.largest * power / shape.steps[shape.codes - 1];
    }
    probes
}

/// The first of the sixteen d gives the largest code to a scale that is this many points below the largest that a block
/// would take alone.
const BELOW_LARGEST: usize = 6;

/// Scores at all points of a block, sixteen places from the front; the result is the point of the best.
#[inline(always)]
fn score_points<S: Simd, C: Candidates, const B: usize>(
    simd: S,
    grid: &Grid<B>,
    b: usize,
    block: &C,
    table: &mut [f32; POINTS + 32],
) -> usize {
    let (mut best, mut top) = (0, f32::NEG_INFINITY);
    for start in (0..POINTS).step_by(16) {
        let scales = f32x16::from_slice(simd, &POWERS[grid.start[b] + start..][..16]) * grid.largest;
        let score = block.score(simd, scales);
        score.store_slice(&mut table[16 + start..][..16]);
        let (lane, here) = first_largest(score);
        if here > top {
            (best, top) = (start + lane, here);
        }
    }
    best
}

/// The best code of every block at this d, the first of equals, and the sum of their scores.
#[inline(always)]
fn choose<S: Simd, C: Candidates, const B: usize>(
    simd: S,
    shape: &Shape,
    blocks: &[C; B],
    d: f16,
) -> ([usize; B], f32) {
    let scales = f32x16::from_slice(simd, &shape.steps) * d.to_f32();
    let mut codes = [0; B];
    let mut total = 0.0;
    for b in 0..B {
        let (lane, top) = first_largest(blocks[b].score(simd, scales));
        codes[b] = lane;
        total += top;
    }
    (codes, total)
}

/// The d of least squares for the chosen codes and their entries.
#[inline(always)]
fn least_squares<S: Simd, C: Candidates, const B: usize>(
    simd: S,
    shape: &Shape,
    blocks: &[C; B],
    d: f16,
    codes: &[usize; B],
) -> f32 {
    let (mut xy, mut yy) = (0.0, 0.0);
    for b in 0..B {
        let step = shape.steps[codes[b]];
        let (p, q) = blocks[b].best(simd, d.to_f32() * step);
        xy += step * p;
        yy += step * step * q;
    }
    if xy > 0.0 && yy > 0.0 { xy / yy } else { 0.0 }
}

/// Lane and value of the largest, the first of equals.
#[inline(always)]
pub(crate) fn first_largest<S: Simd>(values: f32x16<S>) -> (usize, f32) {
    let top = values.reduce_max();
    let at_top = values.simd_ge(f32x16::splat(values.simd, top)).to_bitmask();
    (at_top.trailing_zeros() as usize % 16, top)
}
