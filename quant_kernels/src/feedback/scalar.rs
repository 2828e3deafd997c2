//! Feedback in formats whose weights have levels of their own: the nearest level to the weight as the feedback left it.

use fearless_simd::{Select, Simd, SimdBase, SimdFloat, f32x16};

use super::{LANES, Side};
use crate::codes::ScalarBlock;

/// Columns of which each moves those right of it at once; all others are moved when these are done.
const STRETCH: usize = 16;

#[inline(always)]
pub(crate) fn feed<const N: usize, B: ScalarBlock<N>, S: Simd>(
    simd: S,
    blocks: &mut [B],
    rows: &mut Side<'_>,
) {
    if let Some(list) = B::LIST {
        let one = list.iter().position(|&value| value == 1).expect("a list has the unit");
        let units = values_at(simd, blocks, one as u8);
        each(simd, blocks, rows, |i, weight| {
            let unit = f32x16::load_array_ref(simd, &units[i]);
            let (mut best, mut value) = (f32x16::splat(simd, 0.0), unit * f32::from(list[0]));
            let mut least = (value - weight).abs();
            for level in 1..list.len() {
                let other = unit * f32::from(list[level]);
                let distance = (other - weight).abs();
                let nearer = distance.simd_lt(least);
                best = nearer.select(f32x16::splat(simd, level as f32), best);
                value = nearer.select(other, value);
                least = nearer.select(distance, least);
            }
            (best, value)
        });
    } else {
        let (low, high) = (values_at(simd, blocks, 0), values_at(simd, blocks, B::TOP));
        let zero = f32x16::splat(simd, 0.0);
        let top = f32x16::splat(simd, f32::from(B::TOP));
        each(simd, blocks, rows, |i, weight| {
            let low = f32x16::load_array_ref(simd, &low[i]);
            let step = (f32x16::load_array_ref(simd, &high[i]) - low) / top;
            let level = ((weight - low) / step).round_ties_even();
            let level = step.simd_eq(zero).select(zero, level.max(zero).min(top));
            (level, low + level * step)
        });
    }
}

/// What each weight of the rows is at a level: so the scales of a block come in as the decoder sees them, whatever the
/// format.
#[inline(always)]
fn values_at<const N: usize, B: ScalarBlock<N>, S: Simd>(
    simd: S,
    blocks: &mut [B],
    level: u8,
) -> Vec<[f32; LANES]> {
    let mut values = vec![[0.0; LANES]; N];
    for (row, block) in blocks.iter_mut().enumerate() {
        for i in 0..N {
            block.set_level(i, level);
        }
        let mut decoded = [0.0; N];
        block.dequantize(simd, &mut decoded);
        for (values, decoded) in values.iter_mut().zip(decoded) {
            values[row] = decoded;
        }
    }
    values
}

/// Rounds the weights one after the other, each moved by all before it: `rounded` says level and value.
#[inline(always)]
fn each<const N: usize, B: ScalarBlock<N>, S: Simd>(
    simd: S,
    blocks: &mut [B],
    rows: &mut Side<'_>,
    rounded: impl Fn(usize, f32x16<S>) -> (f32x16<S>, f32x16<S>),
) {
    for start in (0..N).step_by(STRETCH) {
        for i in start..start + STRETCH {
            let (levels, values) = rounded(i, f32x16::load_array_ref(simd, &rows.moved[i]));
            let mut of_rows = [0.0; LANES];
            levels.store_array(&mut of_rows);
            for (block, level) in blocks.iter_mut().zip(of_rows) {
                block.set_level(i, level as u8);
            }
            rows.note(simd, i, i, values);
            rows.spread::<S, 1>(simd, i, i + 1..start + STRETCH);
        }
        rows.spread::<S, STRETCH>(simd, start, start + STRETCH..N);
    }
}
