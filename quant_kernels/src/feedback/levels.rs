//! Formats in which each weight has a level of its own: the level nearest to the moved weight is taken.

use fearless_simd::{Level, Simd, dispatch};

use super::{Feed, LANES};
use crate::{Format, dequantize};

/// The highest level, counted from zero; None for formats without levels of single weights.
pub(super) fn top(format: Format) -> Option<usize> {
    Some(match format {
        Format::Q2_K => 3,
        Format::Q3_K => 7,
        Format::Q4_0 | Format::Q4_1 | Format::Q4_K | Format::IQ4_NL | Format::IQ4_XS => 15,
        Format::Q5_0 | Format::Q5_1 | Format::Q5_K => 31,
        Format::Q6_K => 63,
        Format::Q8_0 => 254,
        _ => return None,
    })
}

/// The formats' lists of levels are even but for these two's.
fn listed(format: Format) -> bool {
    matches!(format, Format::IQ4_NL | Format::IQ4_XS)
}

pub(super) fn feed(level: Level, format: Format, top: usize, block: &mut [u8], weights: &mut Feed<'_>) {
    dispatch!(level, simd => feed_at(simd, format, top, block, weights));
}

#[inline(always)]
fn feed_at<S: Simd>(simd: S, format: Format, top: usize, block: &mut [u8], weights: &mut Feed<'_>) {
    let n = weights.moved.len();
    // The decoded value of each weight at its lowest level and at the highest (or at all levels). So the scales are
    // those of the decoder, whatever the format.
    let decoded_at = |block: &mut [u8], level: usize| {
        (0..n).for_each(|i| set(format, block, i, level));
        let mut y = [0.0; 256];
        dequantize(format, block, &mut y[..n]);
        y
    };
    if listed(format) {
        let table: Vec<[f32; 256]> = (0..=top).map(|level| decoded_at(block, level)).collect();
        each(simd, weights, |i, weight| {
            let distance = |level: &usize| (table[*level][i] - weight).abs();
            let best = (0..=top).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
            set(format, block, i, best);
            table[best][i]
        });
    } else {
        let (low, high) = (decoded_at(block, 0), decoded_at(block, top));
        each(simd, weights, |i, weight| {
            let step = (high[i] - low[i]) / top as f32;
            let level = if step == 0.0 { 0.0 } else { ((weight - low[i]) / step).round_ties_even() };
            let level = level.clamp(0.0, top as f32);
            set(format, block, i, level as usize);
            low[i] + level * step
        });
    }
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

/// Gives a weight its level.
fn set(format: Format, block: &mut [u8], i: usize, level: usize) {
    let level = level as u8;
    let mut bits = |byte: usize, shift: usize, width: usize, value: u8| {
        let mask = ((1u16 << width) - 1) as u8;
        block[byte] = block[byte] & !(mask << shift) | (value & mask) << shift;
    };
    // Place of a weight among those of a super-block: half, quarter of the half, weight of the quarter.
    let (half, quarter, l) = (i / 128, i / 32 % 4, i % 32);
    match format {
        Format::Q8_0 => bits(2 + i, 0, 8, level.wrapping_sub(127)),
        Format::Q4_0 | Format::IQ4_NL => bits(2 + i % 16, i / 16 * 4, 4, level),
        Format::Q4_1 => bits(4 + i % 16, i / 16 * 4, 4, level),
        Format::Q5_0 => {
            bits(6 + i % 16, i / 16 * 4, 4, level);
            bits(2 + i / 8, i % 8, 1, level >> 4);
        }
        Format::Q5_1 => {
            bits(8 + i % 16, i / 16 * 4, 4, level);
            bits(4 + i / 8, i % 8, 1, level >> 4);
        }
        Format::Q2_K => bits(16 + 32 * half + l, 2 * quarter, 2, level),
        Format::Q3_K => {
            bits(32 + 32 * half + l, 2 * quarter, 2, level);
            bits(l, i / 32, 1, level >> 2);
        }
        Format::Q4_K => bits(16 + 32 * (i / 64) + l, i / 32 % 2 * 4, 4, level),
        Format::Q5_K => {
            bits(48 + 32 * (i / 64) + l, i / 32 % 2 * 4, 4, level);
            bits(16 + l, i / 32, 1, level >> 4);
        }
        Format::Q6_K => {
            bits(64 * half + 32 * (quarter % 2) + l, quarter / 2 * 4, 4, level);
            bits(128 + 32 * half + l, 2 * quarter, 2, level >> 4);
        }
        Format::IQ4_XS => bits(8 + 16 * (i / 32) + i % 16, i % 32 / 16 * 4, 4, level),
        _ => unreachable!("{format} has no levels of single weights"),
    }
}
