//! The scale of a super-block and the scale codes of its blocks, chosen together.
//!
//! The objective is the importance-weighted squared error with d free, which is the weighted cosine: an error at
//! unit gain. What shrinks the weights is taken back per row, see `block.rs`.

use fearless_simd::{Simd, SimdBase, SimdMask, f32x16};
use half::f16;

/// The candidates of a part of a block, able to say what is best at a scale.
pub(crate) trait Group: Copy {
    /// Largest s P - s^2 Q / 2 at each of sixteen scales.
    fn score<S: Simd>(&self, simd: S, scales: f32x16<S>) -> f32x16<S>;

    /// P and Q of the best at one scale, which is that of this lane.
    fn best(&self, lane: usize, scale: f32) -> (f32, f32);
}

/// The f16 scale of a super-block and the lane that each block took.
pub(crate) struct Fit<const B: usize> {
    pub d: f16,
    pub lanes: [usize; B],
}

/// Chooses d and for each of B blocks one of sixteen scales d * steps[lane].
///
/// `guesses` are scales that the blocks would have alone.
#[inline(always)]
pub(crate) fn fit<S: Simd, G: Group, const G_PER_BLOCK: usize, const B: usize>(
    simd: S,
    blocks: &[[G; G_PER_BLOCK]; B],
    steps: &[f32; 16],
    guesses: &[f32; B],
) -> Fit<B> {
    let lanes = f32x16::from_slice(simd, steps);
    let largest_step = steps[15];
    let mut largest = 0.0_f32;
    for &guess in guesses {
        largest = largest.max(guess);
    }
    let mut best = Fit { d: f16::ZERO, lanes: [0; B] };
    let mut best_score = 0.0;
    for i in 0..TRIES {
        let d = f16::from_f32(largest / largest_step * (FIRST + i as f32 * STEP));
        let (score, codes) = choose(simd, blocks, lanes, d);
        if score > best_score {
            best_score = score;
            best = Fit { d, lanes: codes };
        }
    }
    for _ in 0..REFITS {
        let d = f16::from_f32(refit(blocks, steps, &best));
        let (score, codes) = choose(simd, blocks, lanes, d);
        if score <= best_score {
            break;
        }
        best_score = score;
        best = Fit { d, lanes: codes };
    }
    best
}

const TRIES: usize = 16;
const FIRST: f32 = 0.8;
const STEP: f32 = 0.04;
const REFITS: usize = 3;

/// The best lane of every block at this d, the first of equals, and the sum of their scores.
#[inline(always)]
fn choose<S: Simd, G: Group, const G_PER_BLOCK: usize, const B: usize>(
    simd: S,
    blocks: &[[G; G_PER_BLOCK]; B],
    steps: f32x16<S>,
    d: f16,
) -> (f32, [usize; B]) {
    let scales = steps * d.to_f32();
    let mut total = 0.0;
    let mut codes = [0; B];
    for (block, code) in blocks.iter().zip(&mut codes) {
        let (lane, top) = first_largest(block_score(simd, block, scales));
        total += top;
        *code = lane;
    }
    (total, codes)
}

#[inline(always)]
fn block_score<S: Simd, G: Group, const G_PER_BLOCK: usize>(
    simd: S,
    block: &[G; G_PER_BLOCK],
    scales: f32x16<S>,
) -> f32x16<S> {
    let mut score = block[0].score(simd, scales);
    for group in &block[1..] {
        score += group.score(simd, scales);
    }
    score
}

/// The scale that a block would take alone, out of sixteen.
#[inline(always)]
pub(crate) fn guess<S: Simd, G: Group, const G_PER_BLOCK: usize>(
    simd: S,
    block: &[G; G_PER_BLOCK],
    scales: &[f32; 16],
) -> f32 {
    let (lane, _) = first_largest(block_score(simd, block, f32x16::from_slice(simd, scales)));
    scales[lane]
}

/// Lane and value of the largest, the first of equals.
#[inline(always)]
fn first_largest<S: Simd>(values: f32x16<S>) -> (usize, f32) {
    let top = values.reduce_max();
    let at_top = values.simd_ge(f32x16::splat(values.simd, top)).to_bitmask();
    (at_top.trailing_zeros() as usize % 16, top)
}

/// The d of least squares for the chosen codes and entries.
#[inline(always)]
fn refit<G: Group, const G_PER_BLOCK: usize, const B: usize>(
    blocks: &[[G; G_PER_BLOCK]; B],
    steps: &[f32; 16],
    fit: &Fit<B>,
) -> f32 {
    let (mut xy, mut yy) = (0.0, 0.0);
    for (block, &lane) in blocks.iter().zip(&fit.lanes) {
        let step = steps[lane];
        for group in block {
            let (p, q) = group.best(lane, step * fit.d.to_f32());
            xy += step * p;
            yy += step * step * q;
        }
    }
    if yy > 0.0 { (xy / yy).max(0.0) } else { 0.0 }
}
