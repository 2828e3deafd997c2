//! Feedback in formats whose weights have levels of their own: the nearest level to the weight as the feedback left it.

use fearless_simd::Simd;

use super::{Feed, LANES};
use crate::codes::ScalarBlock;

#[inline(always)]
pub(crate) fn feed<const N: usize, B: ScalarBlock<N>, S: Simd>(
    simd: S,
    block: &mut B,
    weights: &mut Feed<'_>,
) {
    let top = f32::from(B::TOP);
    if B::LISTED {
        let mut table = vec![[0.0; N]; usize::from(B::TOP) + 1];
        for level in 0..=B::TOP {
            decode_at(simd, block, level, &mut table[usize::from(level)]);
        }
        each(simd, weights, |i, weight| {
            let distance = |level: &u8| (table[usize::from(*level)][i] - weight).abs();
            let best = (0..=B::TOP).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
            block.set_level(i, best);
            table[usize::from(best)][i]
        });
    } else {
        let (mut low, mut high) = ([0.0; N], [0.0; N]);
        decode_at(simd, block, 0, &mut low);
        decode_at(simd, block, B::TOP, &mut high);
        each(simd, weights, |i, weight| {
            let step = (high[i] - low[i]) / top;
            let level = if step == 0.0 { 0.0 } else { ((weight - low[i]) / step).round_ties_even() };
            let level = level.clamp(0.0, top);
            block.set_level(i, level as u8);
            low[i] + level * step
        });
    }
}

/// What each weight is at a level: so the scales of a block come in as the decoder sees them, whatever the format.
#[inline(always)]
fn decode_at<const N: usize, B: ScalarBlock<N>, S: Simd>(
    simd: S,
    block: &mut B,
    level: u8,
    y: &mut [f32; N],
) {
    for i in 0..N {
        block.set_level(i, level);
    }
    block.dequantize(simd, y);
}

/// Rounds the weights one after the other, each moved by all before it. Those of the same vector are moved at once, all
/// others when the vector is done.
#[inline(always)]
fn each<S: Simd>(simd: S, weights: &mut Feed<'_>, mut rounded: impl FnMut(usize, f32) -> f32) {
    let vectors = weights.moved.len() / LANES;
    for vector in 0..vectors {
        let own = vector * LANES..(vector + 1) * LANES;
        for i in own.clone() {
            weights.errors[i] = weights.moved[i] - rounded(i, weights.moved[i]);
            weights.spread(simd, i..i + 1, vector..vector + 1);
        }
        weights.spread(simd, own, vector + 1..vectors);
    }
}
