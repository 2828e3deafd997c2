//! Rows of one tensor as f32: read, decoded, multiplied by the block scales, checked.

use std::ops::Range;

use fearless_simd::{Level, dispatch};
use quant_kernels::LARGEST;
use safetensors::Dtype;

use super::{Checkpoint, Tensor, decode};
use crate::error::{Error, Result};

/// The suffix of the tensor that holds an FP8 weight's block scales. Despite its name it is multiplied.
pub const SCALE_SUFFIX: &str = "_scale_inv";

/// A tensor seen as rows of its last dimension.
#[derive(Debug)]
pub struct Matrix<'a> {
    checkpoint: &'a Checkpoint,
    tensor: &'a Tensor,
    scales: Option<Scales>,
}

/// One factor for each block of an FP8 weight; blocks at the edges are partial.
#[derive(Debug)]
struct Scales {
    block: [u64; 2],
    /// Blocks in a row of blocks.
    across: usize,
    factors: Vec<f32>,
}

impl<'a> Matrix<'a> {
    /// The tensor of this name, with its scales if it is FP8.
    ///
    /// # Errors
    /// If it is not there, its dtype is not one of the four, or its scales are missing, misshapen or not finite.
    pub fn open(checkpoint: &'a Checkpoint, name: &str) -> Result<Self> {
        let tensor = checkpoint.tensor(name)?;
        let scales = match tensor.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => None,
            Dtype::F8_E4M3 => Some(Scales::read(checkpoint, tensor)?),
            other => {
                let problem = format!("has dtype {other:?}; F32, F16, BF16 and F8_E4M3 can be read");
                return Err(Error::tensor(&tensor.shard, name, problem));
            }
        };
        Ok(Self { checkpoint, tensor, scales })
    }

    /// The tensor that the rows belong to.
    pub fn tensor(&self) -> &'a Tensor {
        self.tensor
    }

    /// [`load`](Self::load) and [`decode`](Self::decode): reads `rows` into `out` (row after row), with `raw` as scratch for the stored bytes.
    ///
    /// # Errors
    /// If they cannot be read, or hold a value that is not finite or beyond what block formats can hold.
    ///
    /// # Panics
    /// If `out` is not exactly that many rows.
    pub fn read(&self, rows: Range<u64>, raw: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        self.load(rows.clone(), raw)?;
        self.decode(rows, raw, out)
    }

    /// Reads the stored bytes of `rows` into `raw`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        let row_bytes = self.tensor.bytes / self.tensor.rows();
        raw.resize(((rows.end - rows.start) * row_bytes) as usize, 0);
        self.checkpoint.read_at(self.tensor, rows.start * row_bytes, raw)
    }

    /// Tells that the stored bytes of `rows` will not be read again.
    pub fn forget(&self, rows: Range<u64>) {
        let row_bytes = self.tensor.bytes / self.tensor.rows();
        let start = self.tensor.offset;
        let range = start + rows.start * row_bytes..start + rows.end * row_bytes;
        self.checkpoint.source().forget(&self.tensor.shard, range);
    }

    /// Decodes the stored bytes of `rows` into `out`, row after row.
    ///
    /// # Errors
    /// If they hold a value that is not finite or beyond what block formats can hold.
    ///
    /// # Panics
    /// If `raw` or `out` is not exactly that many rows.
    pub fn decode(&self, rows: Range<u64>, raw: &[u8], out: &mut [f32]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let columns = self.tensor.columns();
        // Row by row: all that is done to one is done while it is in the nearest cache.
        let row_bytes = self.tensor.bytes / self.tensor.rows();
        let count = rows.end - rows.start;
        assert_eq!(
            (raw.len() as u64, out.len() as u64),
            (count * row_bytes, count * columns),
            "{count} rows"
        );
        let each = raw.chunks_exact(row_bytes as usize).zip(out.chunks_exact_mut(columns as usize));
        let mut most = 0;
        for (row, (raw, out)) in rows.clone().zip(each) {
            assert!(decode::decode(self.tensor.dtype, raw, out), "`open` lets only known dtypes through");
            if let Some(scales) = &self.scales {
                dispatch!(Level::new(), _simd => scales.apply(row, out));
            }
            most = most.max(dispatch!(Level::new(), _simd => largest(out)));
        }
        if most <= LARGEST.to_bits() {
            return Ok(());
        }
        match out.iter().position(|x| magnitude(*x) > LARGEST.to_bits()) {
            None => Ok(()),
            Some(index) => {
                let (row, column) = (rows.start + index as u64 / columns, index as u64 % columns);
                let problem = format!(
                    "holds {} at row {row}, column {column}; weights are finite and at most {LARGEST} in magnitude",
                    out[index]
                );
                Err(Error::tensor(&self.tensor.shard, &self.tensor.name, problem))
            }
        }
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

impl Scales {
    fn read(checkpoint: &Checkpoint, weight: &Tensor) -> Result<Self> {
        let name = format!("{}{SCALE_SUFFIX}", weight.name);
        let Some(tensor) = checkpoint.get(&name) else {
            let problem = format!("is F8_E4M3, which needs its block scales \"{name}\"; no shard has them");
            return Err(Error::tensor(&weight.shard, &weight.name, problem));
        };
        let block = checkpoint.scale_block()?;
        let expected = vec![weight.rows().div_ceil(block[0]), weight.columns().div_ceil(block[1])];
        if tensor.dtype != Dtype::F32 || tensor.shape != expected {
            let problem = format!(
                "is {:?} {:?}; expected F32 {expected:?}, a scale for each {} x {} block of {:?}",
                tensor.dtype, tensor.shape, block[0], block[1], weight.shape
            );
            return Err(Error::tensor(&tensor.shard, &name, problem));
        }
        let mut raw = vec![0; tensor.bytes as usize];
        checkpoint.read_at(tensor, 0, &mut raw)?;
        let mut factors = vec![0.0; raw.len() / 4];
        decode::decode(Dtype::F32, &raw, &mut factors);
        let across = expected[1] as usize;
        if let Some(index) = factors.iter().position(|x| !x.is_finite()) {
            let problem = format!(
                "holds {} at row {}, column {}; scales are finite",
                factors[index],
                index / across,
                index % across
            );
            return Err(Error::tensor(&tensor.shard, &name, problem));
        }
        Ok(Self { block, across, factors })
    }

    /// Multiplies a row of the weight by its scales.
    #[inline(always)]
    fn apply(&self, row: u64, weights: &mut [f32]) {
        let first = (row / self.block[0]) as usize * self.across;
        let factors = &self.factors[first..first + self.across];
        for (weights, factor) in weights.chunks_mut(self.block[1] as usize).zip(factors) {
            for weight in weights {
                *weight *= factor;
            }
        }
    }
}
