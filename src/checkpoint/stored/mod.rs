//! How weights are stored. It is determined once, before names and shapes are used, from what the configuration
//! declares and from the tensors beside the weights. A format that can be read is a file here, a kind of [`Encoding`]
//! and of [`Decoder`]; the others are refused by their name.

mod companions;
mod declared;
mod fields;
mod fp8;

use std::collections::HashMap;

use quant_kernels::Format;
use serde::Serialize;

use super::{Checkpoint, Config, Dtype, Source, Tensor, decode};
use crate::error::{Error, Result, Warning};
use companions::foreign;
pub use companions::left_out;
use declared::{Declared, declared};
pub use fp8::SUFFIXES;
use fp8::{Grain, Scales};

/// Tensors that no model needs and that are left out by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The last part of their names.
    pub tensors: &'static str,
    /// What the tensors are, which is why they are not needed.
    pub reason: &'static str,
    /// How many there are.
    pub count: usize,
}

/// How the weights of the whole checkpoint are stored.
#[derive(Debug)]
pub struct Stored {
    /// Of what an FP8 scale may be for, where the configuration says.
    grains: Vec<Grain>,
    left_out: Vec<LeftOut>,
    warnings: Vec<Warning>,
}

/// How one tensor is stored.
#[derive(Debug)]
pub enum Encoding<'a> {
    /// F32, F16 or BF16.
    Plain,
    /// FP8 with factors.
    Fp8 {
        /// The tensor of the scales.
        scale: &'a Tensor,
        /// Rows and columns that share one.
        block: [u64; 2],
    },
    /// Blocks of a GGUF file, or numbers that it holds.
    Blocks(Format),
}

impl Stored {
    /// A GGUF file, whose tensors say all of it themselves.
    pub fn gguf() -> Self {
        Self { grains: Vec::new(), left_out: Vec::new(), warnings: Vec::new() }
    }

    /// Reads the declarations and compares them with the names of all tensors.
    ///
    /// # Errors
    /// If a declaration contradicts itself, or weights are stored in a format that cannot be read.
    pub fn read(source: &dyn Source, config: &Config, tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let (declared, mut warnings) = declared(source, config)?;
        // The first by name, so that the message does not depend on the order of a hash map.
        let foreign = tensors.values().filter_map(|t| foreign(&t.name).map(|format| (t, format)));
        let foreign = foreign.min_by(|a, b| a.0.name.cmp(&b.0.name));
        let is_plain = |t: &&Tensor| matches!(t.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        let grains = match declared {
            // A declaration that was left after decompressing has no effect.
            Declared::Other(_) if foreign.is_none() && tensors.values().all(|t| is_plain(&t)) => Vec::new(),
            Declared::Other(problem) => return Err(Error::Unsupported(problem)),
            Declared::Fp8(grains, _) => grains,
            Declared::Nothing => Vec::new(),
        };
        if let Some((tensor, format)) = foreign {
            return Err(Error::Unsupported(format!(
                "{}: tensor \"{}\" shows that weights are stored as {format}; F32, F16, BF16 and FP8 can be read",
                tensor.shard, tensor.name
            )));
        }
        let mut found: Vec<LeftOut> = Vec::new();
        for (part, reason) in tensors.keys().filter_map(|name| left_out(name)) {
            match found.iter_mut().find(|entry| entry.tensors == part) {
                Some(entry) => entry.count += 1,
                None => found.push(LeftOut { tensors: part, reason, count: 1 }),
            }
        }
        found.sort_by_key(|entry| entry.tensors);
        warnings.extend(fp8::lone_scales(&grains, tensors));
        Ok(Self { grains, left_out: found, warnings })
    }

    /// Warnings about the declarations.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The tensors that are left out because no model needs them.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// How a tensor is stored.
    ///
    /// # Errors
    /// If it cannot be read: another dtype, or FP8 whose scales are missing, given twice or misshapen.
    pub fn encoding<'a>(&self, checkpoint: &'a Checkpoint, tensor: &Tensor) -> Result<Encoding<'a>> {
        match tensor.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(Encoding::Plain),
            Dtype::F8_E4M3 => {
                let scale = fp8::scale(checkpoint, tensor)?;
                Ok(Encoding::Fp8 { scale, block: fp8::block(&self.grains, tensor, scale)? })
            }
            Dtype::Gguf(format) => Ok(Encoding::Blocks(format)),
            other => Err(Error::Unsupported(format!(
                "{}: tensor \"{}\" has dtype {other:?}; F32, F16, BF16 and F8_E4M3 can be read",
                tensor.shard, tensor.name
            ))),
        }
    }
}

/// Decodes the stored bytes of one tensor.
#[derive(Debug)]
pub enum Decoder {
    /// The numbers are the weights.
    Plain(Dtype),
    /// FP8 codes times their factors.
    Fp8(Scales),
    /// Blocks that say all of their weights.
    Blocks(Format),
}

impl Decoder {
    /// Reads what a tensor needs besides its own bytes.
    ///
    /// # Errors
    /// If its scales cannot be read, or are not finite.
    pub fn open(checkpoint: &Checkpoint, tensor: &Tensor) -> Result<Self> {
        match checkpoint.encoding(tensor)? {
            Encoding::Plain => Ok(Self::Plain(tensor.dtype)),
            Encoding::Fp8 { scale, block } => Scales::read(checkpoint, tensor, scale, block).map(Self::Fp8),
            Encoding::Blocks(format) => Ok(Self::Blocks(format)),
        }
    }

    /// A type whose rows cannot be decoded: they can only be carried over.
    pub fn opaque(&self) -> Option<Format> {
        match self {
            Self::Blocks(format) if !format.is_known() => Some(*format),
            _ => None,
        }
    }

    /// Decodes the stored bytes of one row.
    ///
    /// # Panics
    /// If it is [opaque](Self::opaque), or `raw` or `out` is not exactly one row.
    pub fn row(&self, row: u64, raw: &[u8], out: &mut [f32]) {
        let dtype = match self {
            Self::Blocks(format) => return quant_kernels::dequantize(*format, raw, out),
            Self::Plain(dtype) => *dtype,
            Self::Fp8(_) => Dtype::F8_E4M3,
        };
        assert!(decode::decode(dtype, raw, out), "`open` lets only known dtypes through");
        if let Self::Fp8(scales) = self {
            scales.apply(row, out);
        }
    }
}
