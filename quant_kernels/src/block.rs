//! What a block format is: N weights to a fixed number of bytes, and back.

use bytemuck::Pod;
use fearless_simd::{Level, Simd, dispatch};

/// One block of a format: `N` weights in `size_of::<Self>()` bytes.
///
/// Everything below `quantize` is `#[inline(always)]`, or it is compiled for the oldest CPU.
pub(crate) trait Block<const N: usize>: Pod {
    /// The block that stands for `x`. Weights are finite and within [`LARGEST`](crate::LARGEST); the largest
    /// importance is 1 and none is less than [`LEAST`].
    fn quantize<S: Simd>(simd: S, x: &[f32; N], importance: &[f32; N]) -> Self;

    /// The weights that a reader of GGUF sees, equal to ggml's to the bit.
    fn dequantize<S: Simd>(&self, simd: S, y: &mut [f32; N]);
}

/// The least importance relative to the block's largest: with zeros, scales could be
/// undefined, and with much less, differences of sums lose their digits.
pub(crate) const LEAST: f32 = 1e-5;

/// Importances of a block relative to the largest of them, so that sums neither overflow nor vanish.
fn relative<const N: usize>(importance: &[f32; N]) -> [f32; N] {
    let largest = importance.iter().fold(0.0f32, |largest, &w| largest.max(w));
    importance.map(|w| if largest > 0.0 { (w / largest).max(LEAST) } else { 1.0 })
}

/// Encodes rows of `columns` weights, each with the same importances (of one row), at this SIMD level.
pub(crate) fn quantize_rows<const N: usize, B: Block<N>>(
    level: Level,
    rows: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(blocks);
    let importance: Vec<[f32; N]> = match importance {
        Some(importance) => importance.as_chunks::<N>().0.iter().map(relative).collect(),
        None => vec![[1.0; N]; columns / N],
    };
    for (row, blocks) in rows.chunks_exact(columns).zip(blocks.chunks_exact_mut(columns / N)) {
        let (x, _) = row.as_chunks::<N>();
        dispatch!(level, simd => quantize_row(simd, x, &importance, blocks));
    }
}

#[inline(always)]
fn quantize_row<const N: usize, B: Block<N>, S: Simd>(
    simd: S,
    x: &[[f32; N]],
    importance: &[[f32; N]],
    blocks: &mut [B],
) {
    for ((block, x), importance) in blocks.iter_mut().zip(x).zip(importance) {
        *block = B::quantize(simd, x, importance);
    }
}

/// Decodes whole blocks at this SIMD level.
pub(crate) fn dequantize_blocks<const N: usize, B: Block<N>>(
    level: Level,
    blocks: &[u8],
    weights: &mut [f32],
) {
    let blocks: &[B] = bytemuck::cast_slice(blocks);
    let (weights, _) = weights.as_chunks_mut::<N>();
    dispatch!(level, simd => {
        for (block, weights) in blocks.iter().zip(weights) {
            block.dequantize(simd, weights);
        }
    });
}
