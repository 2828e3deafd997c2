//! One file a format: its layout drawn, then the encoder, then the decoder.

mod f32;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;

use fearless_simd::Level;

use crate::Format;
use crate::block::{dequantize_blocks, quantize_rows};

/// Calls a function of a block type's two generics for the format.
macro_rules! for_block {
    ($format:expr, $function:ident($($argument:expr),*)) => {
        match $format {
            Format::F32 => $function::<1, f32::F32>($($argument),*),
            Format::IQ1_S => $function::<256, iq1_s::IQ1_S>($($argument),*),
            Format::IQ1_M => $function::<256, iq1_m::IQ1_M>($($argument),*),
            Format::IQ2_XXS => $function::<256, iq2_xxs::IQ2_XXS>($($argument),*),
            Format::IQ2_XS => $function::<256, iq2_xs::IQ2_XS>($($argument),*),
            Format::IQ2_S => $function::<256, iq2_s::IQ2_S>($($argument),*),
            Format::IQ3_XXS => $function::<256, iq3_xxs::IQ3_XXS>($($argument),*),
            Format::IQ3_S => $function::<256, iq3_s::IQ3_S>($($argument),*),
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
