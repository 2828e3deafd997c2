//! One file a format: its layout drawn, then the encoder, then the decoder.

mod f32;

use fearless_simd::Level;

use crate::Format;
use crate::block::{dequantize_blocks, quantize_rows};

/// Calls a function of a block type's two generics for the format.
macro_rules! for_block {
    ($format:expr, $function:ident($($argument:expr),*)) => {
        match $format {
            Format::F32 => $function::<1, f32::F32>($($argument),*),
            other => unimplemented!("{other}"),
        }
    };
}

pub(crate) fn quantize(
    level: Level,
    format: Format,
    rows: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) {
    for_block!(format, quantize_rows(level, rows, columns, importance, blocks))
}

pub(crate) fn dequantize(level: Level, format: Format, blocks: &[u8], weights: &mut [f32]) {
    for_block!(format, dequantize_blocks(level, blocks, weights))
}
