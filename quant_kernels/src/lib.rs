//! Encoders and decoders for GGUF's block formats: rows of f32 weights in, blocks out, and back.
//!
//! The crate knows blocks and rows and no files. The same weights give the same bytes on every CPU.
//!
//! ```
//! use quant_kernels::{Format, dequantize, quantize};
//!
//! // Two rows of 256 weights, and how much an error in each column costs.
//! let rows: Vec<f32> = (0..512).map(|i| (0.37 * i as f32).sin()).collect();
//! let importance: Vec<f32> = (0..256).map(|column| 1.0 + (column % 3) as f32).collect();
//!
//! let format: Format = "q4_k".parse()?;
//! let mut blocks = vec![0; 2 * format.row_bytes(256) as usize];
//! quantize(format, &rows, 256, Some(&importance), &mut blocks);
//! assert_eq!(blocks.len(), 2 * 144, "4.5 bits per weight");
//!
//! let mut decoded = vec![0.0; rows.len()];
//! dequantize(format, &blocks, &mut decoded);
//! assert!(rows.iter().zip(&decoded).all(|(x, y)| (x - y).abs() < 0.1));
//! # Ok::<(), quant_kernels::UnknownFormat>(())
//! ```

#![allow(clippy::needless_range_loop, reason = "the loops of a format index several fields at once")]

mod block;
mod codes;
mod feedback;
mod finite;
mod format;
#[allow(clippy::needless_range_loop, reason = "by index, code reads as the layout is drawn")]
mod formats;
mod scale;
mod search;

use block::Wanted;
pub use fearless_simd::Level;
pub use feedback::{Feed, feed, feed_at, feeds, group, rescale};
pub use finite::first_not_finite;
pub use format::{ErrorCeilings, Format, UnknownFormat};

/// The largest magnitude of a weight that every format can hold: the largest finite f16.
pub const LARGEST: f32 = 65504.0;

/// Encodes rows of `columns` weights into `blocks`, row after row.
///
/// `importance` has one entry per column, shared by all rows: how much a squared error there costs (mean squared
/// activation of the layer's input). None means all columns alike.
///
/// # Panics
/// If the lengths do not agree: `rows` whole rows, a row whole blocks, `blocks` their bytes.
pub fn quantize(format: Format, rows: &[f32], columns: usize, importance: Option<&[f32]>, blocks: &mut [u8]) {
    quantize_at(Level::new(), format, rows, columns, importance, blocks);
}

/// [`quantize`] at a chosen SIMD level: the same bytes on each, at another speed.
pub fn quantize_at(
    level: Level,
    format: Format,
    rows: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) {
    encode(level, format, Wanted::Whole, rows, columns, importance, blocks);
}

/// Encodes rows as [`quantize`] does, for [`feed`] to choose the codes again: the scales are the same or nearly, and found
/// faster where that is most of the work. In formats whose codes are not chosen again ([`feeds`]) it is the same.
///
/// # Panics
/// As [`quantize`].
pub fn prepare(format: Format, rows: &[f32], columns: usize, importance: Option<&[f32]>, blocks: &mut [u8]) {
    prepare_at(Level::new(), format, rows, columns, importance, blocks);
}

/// [`prepare`] at a chosen SIMD level.
pub fn prepare_at(
    level: Level,
    format: Format,
    rows: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) {
    encode(level, format, Wanted::Scales, rows, columns, importance, blocks);
}

fn encode(
    level: Level,
    format: Format,
    wanted: Wanted,
    rows: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) {
    let row_bytes = format.row_bytes(columns as u64) as usize;
    assert!(columns > 0 && rows.len().is_multiple_of(columns), "{} weights in rows of {columns}", rows.len());
    assert_eq!(
        blocks.len(),
        rows.len() / columns * row_bytes,
        "bytes for {} weights in {format}",
        rows.len()
    );
    assert!(importance.is_none_or(|w| w.len() == columns), "importances for {columns} columns");
    formats::quantize(level, format, wanted, rows, columns, importance, blocks);
}

/// Decodes blocks into the weights that a reader of GGUF sees, equal to ggml's to the bit.
///
/// # Panics
/// If `blocks` are not the bytes of `weights.len()` weights.
pub fn dequantize(format: Format, blocks: &[u8], weights: &mut [f32]) {
    dequantize_at(Level::new(), format, blocks, weights);
}

/// [`dequantize`] at a chosen SIMD level.
pub fn dequantize_at(level: Level, format: Format, blocks: &[u8], weights: &mut [f32]) {
    let bytes = format.row_bytes(weights.len() as u64) as usize;
    assert_eq!(blocks.len(), bytes, "bytes for {} weights in {format}", weights.len());
    formats::dequantize(level, format, blocks, weights);
}
