//! Rows of one tensor as f32: read, decoded, checked.

use std::ops::Range;

use fearless_simd::{Level, dispatch};
use quant_kernels::{Format, LARGEST};

use super::stored::Decoder;
use super::{Checkpoint, Tensor};
use crate::error::{Error, Result};

/// Which numbers a weight may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Finite and at most 65504 in magnitude, the largest f16: scales of blocks are f16.
    Bounded,
    /// Every finite number.
    Finite,
    /// These, and -inf, by which a router's bias shuts an expert out.
    Any,
}

impl Values {
    fn allow(self, x: f32) -> bool {
        match self {
            Self::Bounded => x.abs() <= LARGEST,
            Self::Finite => x.is_finite(),
            Self::Any => x.is_finite() || x == f32::NEG_INFINITY,
        }
    }
}

/// A tensor as rows of its last dimension.
#[derive(Debug)]
pub struct Matrix<'a> {
    checkpoint: &'a Checkpoint,
    tensor: &'a Tensor,
    decoder: Decoder,
}

impl<'a> Matrix<'a> {
    /// The tensor of this name, with its scales if it has some.
    ///
    /// # Errors
    /// If it is not there, cannot be decoded, or its scales are missing, misshapen or not finite.
    pub fn open(checkpoint: &'a Checkpoint, name: &str) -> Result<Self> {
        let tensor = checkpoint.tensor(name)?;
        Ok(Self { checkpoint, tensor, decoder: Decoder::open(checkpoint, tensor)? })
    }

    /// The tensor that the rows belong to.
    pub fn tensor(&self) -> &'a Tensor {
        self.tensor
    }

    /// [`load`](Self::load) and [`decode`](Self::decode): reads `rows` into `out` (row after row), with `raw` as
    /// scratch for the stored bytes.
    ///
    /// # Errors
    /// If they cannot be read, or hold a value that is not allowed.
    ///
    /// # Panics
    /// If `out` is not exactly that many rows.
    pub fn read(&self, rows: Range<u64>, raw: &mut Vec<u8>, out: &mut [f32], values: Values) -> Result<()> {
        self.load(rows.clone(), raw)?;
        self.decode(rows, raw, out, values)
    }

    /// Reads the stored bytes of `rows` into `raw`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        let span = self.decoder.span(self.tensor, &rows);
        raw.resize((span.end - span.start) as usize, 0);
        match self.decoder.scattered() {
            Some(codes) => codes.load(self.checkpoint, self.tensor, rows, raw),
            None => self.checkpoint.read_at(self.tensor, span.start, raw),
        }
    }

    /// Tells that the stored bytes of `rows` will not be read again.
    pub fn forget(&self, rows: Range<u64>) {
        // Bytes of rows that do not lie together have those of others between them.
        if self.decoder.scattered().is_some() {
            return;
        }
        let (start, span) = (self.tensor.offset, self.decoder.span(self.tensor, &rows));
        let range = start + span.start..start + span.end;
        self.checkpoint.source().forget(&self.tensor.shard, range);
    }

    /// Decodes the stored bytes of `rows` into `out`, row after row.
    ///
    /// # Errors
    /// If they hold a value that is not allowed.
    ///
    /// # Panics
    /// If `raw` or `out` is not exactly that many rows.
    pub fn decode(&self, rows: Range<u64>, raw: &[u8], out: &mut [f32], values: Values) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if let Some(format) = self.decoder.opaque() {
            let problem = format!("has type {format}, which cannot be decoded, only carried over as it is");
            return Err(Error::tensor(&self.tensor.shard, &self.tensor.name, problem));
        }
        let columns = self.tensor.columns();
        // Row by row: all that is done to one is done while it is in the nearest cache.
        let span = self.decoder.span(self.tensor, &rows);
        let count = rows.end - rows.start;
        assert_eq!(
            (raw.len() as u64, out.len() as u64),
            (span.end - span.start, count * columns),
            "{count} rows"
        );
        let mut most = 0;
        for (row, out) in rows.clone().zip(out.chunks_exact_mut(columns as usize)) {
            let bytes = self.decoder.span(self.tensor, &(row..row + 1));
            let raw = &raw[(bytes.start - span.start) as usize..(bytes.end - span.start) as usize];
            self.decoder.row(row, raw, out);
            most = most.max(dispatch!(Level::new(), _simd => largest(out)));
        }
        if most <= LARGEST.to_bits() {
            return Ok(());
        }
        match out.iter().position(|&x| !values.allow(x)) {
            None => Ok(()),
            Some(index) => {
                let (row, column) = (rows.start + index as u64 / columns, index as u64 % columns);
                let allowed = match values {
                    Values::Bounded => format!("weights are finite and at most {LARGEST} in magnitude"),
                    Values::Finite => "expected a finite number".to_owned(),
                    Values::Any => "expected a finite number or -inf".to_owned(),
                };
                let problem = format!("holds {} at row {row}, column {column}; {allowed}", out[index]);
                Err(Error::tensor(&self.tensor.shard, &self.tensor.name, problem))
            }
        }
    }
}

impl Matrix<'_> {
    /// Puts the stored codes of `rows` into blocks of a type that holds them as they are; rows whose factors have no
    /// place there are given back by their numbers, and their blocks are of no use.
    ///
    /// # Panics
    /// If the type does not hold the same codes, or `raw` or `blocks` is not exactly that many rows.
    pub fn regroup(&self, format: Format, rows: Range<u64>, raw: &[u8], blocks: &mut [u8]) -> Vec<u64> {
        let span = self.decoder.span(self.tensor, &rows);
        let row_bytes = format.row_bytes(self.tensor.columns()) as usize;
        let each = rows.zip(blocks.chunks_exact_mut(row_bytes));
        let lost = each.filter_map(|(row, blocks)| {
            let bytes = self.decoder.span(self.tensor, &(row..row + 1));
            let raw = &raw[(bytes.start - span.start) as usize..(bytes.end - span.start) as usize];
            (!self.decoder.regroup(format, row, raw, blocks)).then_some(row)
        });
        lost.collect()
    }
}

/// Magnitudes order as these bits do, with infinity and NaN above all numbers.
#[inline(always)]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// The largest magnitude.
#[inline(always)]
fn largest(weights: &[f32]) -> u32 {
    weights.iter().fold(0, |largest, &x| largest.max(magnitude(x)))
}
