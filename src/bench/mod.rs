//! Speed and error of the encoders on given rows: for users (`quantpress bench`), and to estimate how long work takes.

mod noise;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quant_kernels::{Format, Level, dequantize, quantize, quantize_at};
use rayon::prelude::*;
use serde::Serialize;

pub use noise::noise;

use crate::error::{Error, Result};
use crate::threads;

/// DeepSeek-R1 in the default recipe: its weights by type, as `plan` sums them up (tests/r1.rs).
pub const R1: [(Format, u64); 7] = [
    (Format::IQ1_S, 631_360_192_512),
    (Format::IQ2_XXS, 22_548_578_304),
    (Format::Q4_K, 11_857_559_552),
    (Format::Q5_K, 1_702_887_424),
    (Format::Q6_K, 2_938_044_416),
    (Format::Q8_0, 511_705_088),
    (Format::F32, 107_451_904),
];

/// Rows of weights and the importances of their columns.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Row after row.
    pub weights: &'a [f32],
    /// Weights in a row.
    pub columns: usize,
    /// One for each column, or none.
    pub importance: Option<&'a [f32]>,
}

/// Error and speed of an encoder.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The type that was measured.
    #[serde(rename = "type")]
    pub format: String,
    /// Bits per weight.
    pub bits_per_weight: f64,
    /// Threads that encoded.
    pub threads: usize,
    /// Million weights encoded a second, all threads together.
    pub mw_per_s: f64,
    /// Gigabytes of f32 decoded a second by one thread.
    pub decode_gb_per_s: f64,
    /// sum(w (x - y)^2) / sum(w x^2).
    pub nmse: f64,
    /// sum(w x y) / sum(w x^2).
    pub gain: f64,
    /// 1 / cos^2 - 1 with the weighted cosine: the error if the gain were 1.
    pub unit_gain_error: f64,
}

/// Encodes the rows in this type on `threads` threads again and again for at least `patience`, and gives the median
/// speed, the errors, and the blocks.
///
/// # Errors
/// If rows do not divide into blocks, threads cannot be started, or the answers are wrong: then nothing is timed.
pub fn measure(
    format: Format,
    rows: Rows,
    threads: usize,
    patience: Duration,
) -> Result<(Measured, Vec<u8>)> {
    measure_unless(format, rows, threads, patience, &AtomicBool::new(false))
}

/// The same, unless the user says `stop` meanwhile.
///
/// # Errors
/// As [`measure`], and if the user stops it.
pub fn measure_unless(
    format: Format,
    rows: Rows,
    threads: usize,
    patience: Duration,
    stop: &AtomicBool,
) -> Result<(Measured, Vec<u8>)> {
    let Rows { weights, columns, importance } = rows;
    if columns == 0
        || !format.fits(columns as u64)
        || weights.is_empty()
        || !weights.len().is_multiple_of(columns)
    {
        let problem = format!(
            "{} weights in rows of {columns} do not divide into rows of {format} blocks",
            weights.len()
        );
        return Err(Error::Argument(problem));
    }
    let row_bytes = format.row_bytes(columns as u64) as usize;
    let mut blocks = vec![0; weights.len() / columns * row_bytes];
    let mut decoded = vec![0.0; weights.len()];
    quantize(format, weights, columns, importance, &mut blocks);
    dequantize(format, &blocks, &mut decoded);
    check(format, rows, &blocks, &decoded)?;

    // A few pieces for each thread, so that none waits long for the last.
    let piece = (weights.len() / columns).div_ceil(4 * threads);
    let encoding = threads::on(threads, || {
        median(patience, stop, || {
            if threads == 1 {
                quantize(format, weights, columns, importance, &mut blocks);
            } else {
                let pieces =
                    blocks.par_chunks_mut(piece * row_bytes).zip(weights.par_chunks(piece * columns));
                pieces.for_each(|(blocks, weights)| quantize(format, weights, columns, importance, blocks));
            }
        })
    })?;
    let decoding = median(patience / 4, stop, || dequantize(format, &blocks, &mut decoded));
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }

    let [xx, xy, yy] = sums(rows, &decoded);
    let measured = Measured {
        format: format.to_string(),
        bits_per_weight: format.bits_per_weight(),
        threads,
        mw_per_s: weights.len() as f64 / encoding / 1e6,
        decode_gb_per_s: weights.len() as f64 * 4.0 / decoding / 1e9,
        nmse: (xx - 2.0 * xy + yy) / xx,
        gain: xy / xx,
        unit_gain_error: xx * yy / (xy * xy) - 1.0,
    };
    Ok((measured, blocks))
}

/// Answers are right if they are finite, point in the direction of the weights, and the first row's blocks are the same
/// at the CPU's lowest SIMD level.
fn check(format: Format, rows: Rows, blocks: &[u8], decoded: &[f32]) -> Result<()> {
    let Rows { weights, columns, importance } = rows;
    let mut lowest = vec![0; format.row_bytes(columns as u64) as usize];
    quantize_at(Level::baseline(), format, &weights[..columns], columns, importance, &mut lowest);
    if lowest != blocks[..lowest.len()] {
        let problem = format!(
            "{format} gives other bytes at this CPU's SIMD level than at the lowest; please report it"
        );
        return Err(Error::Unsupported(problem));
    }
    let [xx, xy, yy] = sums(rows, decoded);
    if decoded.iter().all(|y| y.is_finite()) && xy * xy > 0.3 * xx * yy {
        return Ok(());
    }
    let problem = "the rows do not come back: all zero, or too small for 16-bit scales";
    Err(Error::Argument(format!("{format}: {problem}")))
}

/// sum(w x x), sum(w x y), sum(w y y).
fn sums(rows: Rows, decoded: &[f32]) -> [f64; 3] {
    let mut sums = [0.0; 3];
    for (i, (&x, &y)) in rows.weights.iter().zip(decoded).enumerate() {
        let w = rows.importance.map_or(1.0, |w| f64::from(w[i % rows.columns]));
        let (x, y) = (f64::from(x), f64::from(y));
        sums = [sums[0] + w * x * x, sums[1] + w * x * y, sums[2] + w * y * y];
    }
    sums
}

/// The median time of a run in seconds, of at least three runs and as many as `patience` has room for, fewer if it
/// shall stop.
fn median(patience: Duration, stop: &AtomicBool, mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut times = Vec::new();
    let goes_on = |runs| (runs < 3 || begin.elapsed() < patience) && !stop.load(Ordering::Relaxed);
    while times.is_empty() || goes_on(times.len()) {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
