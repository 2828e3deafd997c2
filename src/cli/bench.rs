//! `quantpress bench`: speed and error of the encoders on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use quant_kernels::Format;
use serde_json::json;

use super::outputs::{Existing, Files};
use super::threads::{thread_count, threads};
use super::{interrupt, print};
use crate::bench::{Measured, R1, Rows, measure_unless, noise};
use crate::disk;
use crate::error::Error;
use crate::recipe::format;
use crate::report::{about, counted};
use crate::whole;

/// Larger files of rows are refused: they are held in memory.
const MAX_FILE: u64 = 8 << 30;

/// Measure the encoders on this machine: speed, error, and how long DeepSeek-R1 would take
#[derive(Debug, Args)]
pub struct Bench {
    /// Only these types, separated by commas [default: all]
    #[arg(long = "type", value_name = "TYPES", value_delimiter = ',', value_parser = format)]
    types: Vec<Format>,

    /// Rows of weights: raw little-endian f32, row after row [default: Gaussian noise]
    #[arg(long, value_name = "FILE", requires = "cols")]
    rows: Option<PathBuf>,

    /// Weights in a row of FILE
    #[arg(long, value_name = "N", requires = "rows")]
    cols: Option<usize>,

    /// Importances of the columns: raw little-endian f32
    #[arg(long, value_name = "FILE", requires = "rows")]
    importance: Option<PathBuf>,

    /// Threads [default: one, then all]
    #[arg(short, long, value_parser = thread_count(), env = "QUANTPRESS_THREADS", hide_env_values = true)]
    threads: Option<u16>,

    /// Write the encoded blocks, row after row; with one type
    #[arg(long, value_name = "FILE", requires = "types")]
    blocks: Option<PathBuf>,

    /// Replace the file of --blocks if it is there
    #[arg(long, requires = "blocks")]
    force: bool,

    /// Seconds for each measurement
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,

    /// A JSON object a line
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        interrupt::flag();
        if self.blocks.is_some() && self.types.len() != 1 {
            return Err(Error::Argument("--blocks wants exactly one type in --type".into()).into());
        }
        if !(0.0..=3600.0).contains(&self.seconds) {
            return Err(Error::Argument(format!("--seconds is {}; expected 0 to 3600", self.seconds)).into());
        }
        let mut files = Files::default();
        files.read("--rows", &self.rows);
        files.read("--importance", &self.importance);
        files.write("--blocks", self.blocks.as_deref(), &[".part"], Existing::Refused);
        files.check(self.force)?;
        let (weights, importance, columns) = self.data()?;
        let rows = Rows { weights: &weights, columns, importance: importance.as_deref() };
        let all = threads(None);
        let counts = match self.threads {
            Some(threads) => vec![usize::from(threads)],
            None if all == 1 => vec![1],
            None => vec![1, all],
        };
        let fitting = || Format::all().filter(|format| format.fits(columns as u64));
        let types: Vec<Format> = if self.types.is_empty() { fitting().collect() } else { self.types.clone() };
        if !self.json {
            print(format_args!(
                "{:<8} {:>7} {:>7} {:>9} {:>9} {:>12} {:>8} {:>12}",
                "type", "bpw", "threads", "Mw/s", "decode", "nmse", "gain", "unit"
            ))?;
        }
        let patience = Duration::from_secs_f64(self.seconds);
        let mut rates = Vec::new();
        for format in types {
            for &threads in &counts {
                let (measured, blocks) = measure_unless(format, rows, threads, patience, interrupt::flag())?;
                self.show(&measured)?;
                rates.push((format, threads, measured.mw_per_s));
                if let Some(path) = &self.blocks {
                    disk::write_whole(path, &blocks).map_err(|e| Error::io("write", path, e))?;
                }
            }
        }
        counts.iter().try_for_each(|&threads| self.r1(threads, &rates))
    }

    fn show(&self, m: &Measured) -> Result<()> {
        if self.json {
            return print(serde_json::to_string(m)?);
        }
        print(format_args!(
            "{:<8} {:>7.4} {:>7} {:>9.1} {:>4.1} GB/s {:>12.4e} {:>8.4} {:>12.4e}",
            m.format,
            m.bits_per_weight,
            m.threads,
            m.mw_per_s,
            m.decode_gb_per_s,
            m.nmse,
            m.gain,
            m.unit_gain_error
        ))
    }

    /// The time for R1, if all of its types were measured.
    fn r1(&self, threads: usize, rates: &[(Format, usize, f64)]) -> Result<()> {
        let seconds = R1.iter().map(|&(format, weights)| {
            let rate = rates.iter().find(|rate| (rate.0, rate.1) == (format, threads))?;
            Some(weights as f64 / (rate.2 * 1e6))
        });
        let Some(seconds) = seconds.sum::<Option<f64>>() else { return Ok(()) };
        if self.json {
            return print(
                json!({"model": "DeepSeek-R1 in ud-iq1_s", "threads": threads, "seconds": seconds}),
            );
        }
        print(format_args!(
            "DeepSeek-R1 in ud-iq1_s: {} with {}, if the disk keeps up",
            about(seconds),
            counted(threads, "thread")
        ))
    }

    /// Weights, importances, columns.
    fn data(&self) -> Result<(Vec<f32>, Option<Vec<f32>>, usize)> {
        let (Some(path), Some(columns)) = (&self.rows, self.cols) else {
            let (rows, columns) = (64, 7168);
            let (weights, importance) = noise(rows, columns);
            return Ok((weights, Some(importance), columns));
        };
        let weights = read(path)?;
        let limit = quant_kernels::LARGEST;
        if let Some(index) = weights.iter().position(|x| x.is_nan() || x.abs() > limit) {
            let problem =
                format!("{}: weight {index} is {}; expected at most {limit}", path.display(), weights[index]);
            return Err(Error::Argument(problem).into());
        }
        let importance = self.importance.as_deref().map(read).transpose()?;
        if let (Some(importance), Some(path)) = (&importance, &self.importance) {
            let sound = importance.len() == columns && importance.iter().all(|w| w.is_finite() && *w >= 0.0);
            if !sound {
                let problem = format!("{}: expected {columns} finite numbers, none negative", path.display());
                return Err(Error::Argument(problem).into());
            }
        }
        Ok((weights, importance, columns))
    }
}

fn read(path: &Path) -> Result<Vec<f32>> {
    let fault = |problem| Error::Argument(format!("{}: {problem}", path.display()));
    let bytes = whole::read(path, MAX_FILE, fault)?;
    let (numbers, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        let problem = format!("{}: {} bytes are no whole number of f32", path.display(), bytes.len());
        return Err(Error::Argument(problem).into());
    }
    Ok(numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}
