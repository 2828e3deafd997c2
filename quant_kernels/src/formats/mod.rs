//! One file a format: its layout drawn, then the encoder, then the decoder.

mod bf16;
mod bits;
mod f16;
mod f32;
pub(crate) mod iq1_m;
pub(crate) mod iq1_s;
pub(crate) mod iq2_s;
pub(crate) mod iq2_xs;
pub(crate) mod iq2_xxs;
pub(crate) mod iq3_s;
pub(crate) mod iq3_xxs;
pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;
mod mxfp4;
mod nvfp4;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
mod q8_0;
mod six_bits;
mod tq1_0;
mod tq2_0;

use fearless_simd::{Level, dispatch};

use crate::Format;
use crate::block::{Block, Wanted, dequantize_blocks, quantize_rows};
use crate::feedback::Side;

/// Calls a function of a block type's two generics for the format.
macro_rules! for_block {
    ($format:expr, $function:ident($($argument:expr),*)) => {
        match $format {
            Format::F32 => $function::<1, f32::F32>($($argument),*),
            Format::F16 => $function::<1, f16::F16>($($argument),*),
            Format::BF16 => $function::<1, bf16::BF16>($($argument),*),
            Format::Q8_0 => $function::<32, q8_0::Q8_0>($($argument),*),
            Format::Q4_0 => $function::<32, q4_0::Q4_0>($($argument),*),
            Format::Q4_1 => $function::<32, q4_1::Q4_1>($($argument),*),
            Format::Q5_0 => $function::<32, q5_0::Q5_0>($($argument),*),
            Format::Q5_1 => $function::<32, q5_1::Q5_1>($($argument),*),
            Format::Q2_K => $function::<256, q2_k::Q2_K>($($argument),*),
            Format::Q3_K => $function::<256, q3_k::Q3_K>($($argument),*),
            Format::Q4_K => $function::<256, q4_k::Q4_K>($($argument),*),
            Format::Q5_K => $function::<256, q5_k::Q5_K>($($argument),*),
            Format::Q6_K => $function::<256, q6_k::Q6_K>($($argument),*),
            Format::IQ4_NL => $function::<32, iq4_nl::IQ4_NL>($($argument),*),
            Format::IQ4_XS => $function::<256, iq4_xs::IQ4_XS>($($argument),*),
            Format::TQ1_0 => $function::<256, tq1_0::TQ1_0>($($argument),*),
            Format::TQ2_0 => $function::<256, tq2_0::TQ2_0>($($argument),*),
            Format::MXFP4 => $function::<32, mxfp4::MXFP4>($($argument),*),
            Format::IQ1_S => $function::<256, iq1_s::IQ1_S>($($argument),*),
            Format::IQ1_M => $function::<256, iq1_m::IQ1_M>($($argument),*),
            Format::IQ2_XXS => $function::<256, iq2_xxs::IQ2_XXS>($($argument),*),
            Format::IQ2_XS => $function::<256, iq2_xs::IQ2_XS>($($argument),*),
            Format::IQ2_S => $function::<256, iq2_s::IQ2_S>($($argument),*),
            Format::IQ3_XXS => $function::<256, iq3_xxs::IQ3_XXS>($($argument),*),
            Format::IQ3_S => $function::<256, iq3_s::IQ3_S>($($argument),*),
            carried => unreachable!("blocks of {carried} are only carried over"),
        }
    };
}

pub(crate) fn quantize(
    level: Level,
    format: Format,
    wanted: Wanted,
    rows: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) {
    for_block!(format, quantize_rows(level, wanted, rows, columns, importance, blocks))
}

pub(crate) fn dequantize(level: Level, format: Format, blocks: &[u8], weights: &mut [f32]) {
    if format == Format::NVFP4 {
        return nvfp4::dequantize(blocks, weights);
    }
    for_block!(format, dequantize_blocks(level, blocks, weights))
}

/// Multiplies the scales of whole blocks by a factor.
pub(crate) fn rescale(format: Format, blocks: &mut [u8], factor: f32) {
    fn rescale<const N: usize, B: Block<N>>(blocks: &mut [u8], factor: f32) {
        for block in bytemuck::cast_slice_mut::<u8, B>(blocks) {
            *block = block.scaled(factor);
        }
    }
    for_block!(format, rescale(blocks, factor))
}

/// How many weights share a code that feedback chooses anew.
pub(crate) fn group(format: Format) -> Option<usize> {
    fn group<const N: usize, B: Block<N>>() -> Option<usize> {
        B::GROUP
    }
    for_block!(format, group())
}

/// Chooses the codes of one block of each of at most sixteen rows anew, with error feedback.
pub(crate) fn feed(level: Level, format: Format, blocks: &mut [u8], rows: &mut Side<'_>) {
    fn feed<const N: usize, B: Block<N>>(level: Level, blocks: &mut [u8], rows: &mut Side<'_>) {
        let blocks: &mut [B] = bytemuck::cast_slice_mut(blocks);
        dispatch!(level, simd => B::feed(simd, blocks, rows));
    }
    for_block!(format, feed(level, blocks, rows))
}

/// The first of these blocks that says that it is no number.
pub(crate) fn first_nan(format: Format, blocks: &[u8]) -> Option<usize> {
    fn first_nan<const N: usize, B: Block<N>>(blocks: &[u8]) -> Option<usize> {
        bytemuck::cast_slice::<u8, B>(blocks).iter().position(B::is_nan)
    }
    for_block!(format, first_nan(blocks))
}
