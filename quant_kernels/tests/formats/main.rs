//! What every format promises, tested over all of them.

mod decoding;
mod digests;
mod error;
mod finite;
mod hostile;
mod levels;
mod prepared;
mod properties;
mod rows;
mod ternary;
mod zeros;

use quant_kernels::{Format, Level, dequantize, quantize};

use rows::Random;

/// The SIMD levels of this CPU.
///
/// Not the scalar one: where there is a better baseline it is behind a feature of fearless_simd, which takes this
/// crate's build from 25 s to 100 s.
fn levels() -> Vec<(&'static str, Level)> {
    let best = Level::new();
    let levels = std::iter::once(("best", best));
    #[cfg(target_arch = "x86_64")]
    let levels = levels
        .chain(best.as_sse2().map(|token| ("SSE2", Level::Sse2(token))))
        .chain(best.as_sse4_2().map(|token| ("SSE4.2", Level::Sse4_2(token))))
        .chain(best.as_avx2().map(|token| ("AVX2", Level::Avx2(token))))
        .chain(best.as_avx512().map(|token| ("AVX-512", Level::Avx512(token))));
    levels.collect()
}

/// The blocks of rows at this level.
fn encode(level: Level, format: Format, rows: &[f32], columns: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut blocks = vec![0; rows.len() / columns * format.row_bytes(columns as u64) as usize];
    quant_kernels::quantize_at(level, format, rows, columns, importance, &mut blocks);
    blocks
}

/// The blocks of rows at this level, for feedback to choose their codes.
fn prepare(level: Level, format: Format, rows: &[f32], columns: usize, importance: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0; rows.len() / columns * format.row_bytes(columns as u64) as usize];
    quant_kernels::prepare_at(level, format, rows, columns, Some(importance), &mut blocks);
    blocks
}

/// The weights that come back.
fn round_trip(format: Format, rows: &[f32], columns: usize, importance: Option<&[f32]>) -> Vec<f32> {
    let mut blocks = vec![0; rows.len() / columns * format.row_bytes(columns as u64) as usize];
    quantize(format, rows, columns, importance, &mut blocks);
    let mut weights = vec![0.0; rows.len()];
    dequantize(format, &blocks, &mut weights);
    weights
}
