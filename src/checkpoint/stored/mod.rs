//! How weights are stored. It is determined once, before names and shapes are used, from what the configuration
//! declares and from the tensors beside the weights. A format that can be read is a file here, a kind of [`Encoding`]
//! and of [`Decoder`]; the others are refused by their name.

mod across;
mod bitnet;
mod bitsandbytes;
mod codes;
mod companions;
mod compressed;
mod declared;
mod factors;
mod fields;
mod fp8;
mod gather;
mod gptq;
mod integers;
mod packed;
mod quarters;
mod small_floats;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use quant_kernels::Format;
use serde::Serialize;

use super::{Checkpoint, Config, Dtype, Source, Tensor, decode};
use crate::error::{Error, Result, Warning};
use companions::{codes_of, foreign};
pub use companions::{left_out, weight_of_scale};
use declared::{Declared, Kind, Said, declared};
pub use fp8::is_fp8;
use fp8::{Grain, Scales};
use gather::Gathered;
use packed::{Codes, Packed};

/// Tensors that no model needs and that are left out by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The last part of their names, or the first ones.
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
    /// Weights that several tensors make, by name.
    packed: HashMap<String, Packed>,
    /// The tensors beside their codes.
    companions: HashSet<String>,
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
    /// Codes with factors in other tensors.
    Packed(&'a Packed),
}

impl Stored {
    /// A GGUF file, whose tensors say all of it themselves.
    pub fn gguf() -> Self {
        Self {
            grains: Vec::new(),
            packed: HashMap::new(),
            companions: HashSet::new(),
            left_out: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Reads the declarations, and puts weights together that are stored in several tensors; these then have the names
    /// and shapes that a model knows. `listing` names all tensors, for messages.
    ///
    /// # Errors
    /// If a declaration contradicts itself, or weights are stored in a format that cannot be read.
    pub fn read(
        source: &dyn Source,
        config: &Config,
        listing: &str,
        tensors: &mut HashMap<String, Tensor>,
    ) -> Result<Self> {
        let (declared, mut warnings) = declared(source, config)?;
        let is_plain = |t: &Tensor| matches!(t.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        let said = match declared {
            // A declaration that was left after decompressing has no effect.
            Declared::Other(problem)
                if tensors.values().all(|tensor| is_plain(tensor) && foreign(&tensor.name).is_none()) =>
            {
                let problem =
                    format!("{problem}; no tensor here is quantized, and all are taken as they are");
                warnings.push(Warning::new(Error::Unsupported(problem)));
                Said::default()
            }
            Declared::Other(problem) => return Err(Error::Unsupported(problem)),
            Declared::Said(said) => said,
            Declared::Nothing => Said::default(),
        };
        let Gathered { packed, companions } = gather::gather(&said, source, listing, tensors)?;
        let shown: HashSet<Kind> = packed
            .values()
            .filter_map(Packed::kind)
            .chain(tensors.values().filter(|tensor| is_fp8(tensor.dtype)).map(|_| Kind::Fp8))
            .collect();
        let is_shown = |kind: &Kind| match kind {
            Kind::Tensor | Kind::Row | Kind::Block | Kind::Fp8 => shown.contains(&Kind::Fp8),
            Kind::Other => true,
            kind => shown.contains(kind),
        };
        if !shown.is_empty()
            && !said.kinds.is_empty()
            && !said.kinds.iter().any(is_shown)
            && said.across.is_none()
        {
            let problem = format!(
                "config.json: quantization_config declares {}, and no tensor is stored so; what the tensors show counts",
                said.kinds[0]
            );
            warnings.push(Warning::new(Error::Unsupported(problem)));
        }
        if said.across.is_some() && !packed.values().any(Packed::is_across) {
            let problem = "config.json: quantization_config declares GPTQ or AWQ, and no tensor is stored so; what the \
                           tensors show counts";
            warnings.push(Warning::new(Error::Unsupported(problem.to_owned())));
        }
        let grains = said.grains;
        // The first by name, so that the message does not depend on the order of a hash map.
        let lone = tensors.values().filter(|tensor| !companions.contains(&tensor.name));
        let lone = lone.filter_map(|tensor| foreign(&tensor.name).map(|format| (tensor, format)));
        if let Some((tensor, format)) = lone.min_by(|a, b| a.0.name.cmp(&b.0.name)) {
            if let Some(codes) = codes_of(&tensor.name).filter(|codes| !tensors.contains_key(codes)) {
                let problem = format!("is of {format}, whose codes \"{codes}\" {listing} does not name");
                return Err(Error::tensor(&tensor.shard, &tensor.name, problem));
            }
            return Err(Error::Unsupported(format!(
                "{}: tensor \"{}\" shows that weights are stored as {format}, of which what is there cannot be read",
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
        Ok(Self { grains, packed, companions, left_out: found, warnings })
    }

    /// Whether a weight is stored as GPTQ and AWQ do.
    pub fn is_across(&self, name: &str) -> bool {
        self.packed.get(name).is_some_and(Packed::is_across)
    }

    /// Whether a tensor is a part of a weight that several make.
    pub fn is_companion(&self, name: &str) -> bool {
        self.companions.contains(name)
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
    pub fn encoding<'a>(&'a self, checkpoint: &'a Checkpoint, tensor: &Tensor) -> Result<Encoding<'a>> {
        if let Some(packed) = self.packed.get(&tensor.name) {
            return Ok(Encoding::Packed(packed));
        }
        match tensor.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(Encoding::Plain),
            dtype if is_fp8(dtype) => {
                let scale = fp8::scale(checkpoint, tensor)?;
                Ok(Encoding::Fp8 { scale, block: fp8::block(&self.grains, tensor, scale)? })
            }
            Dtype::Gguf(format) => Ok(Encoding::Blocks(format)),
            other => Err(Error::Unsupported(format!(
                "{}: tensor \"{}\" has dtype {other:?}, and nothing beside it says how to read that; F32, F16, BF16 and FP8 say it themselves",
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
    Fp8(Dtype, Scales),
    /// Blocks that say all of their weights.
    Blocks(Format),
    /// Codes with factors in other tensors.
    Packed(Box<Codes>),
}

impl Decoder {
    /// Reads what a tensor needs besides its own bytes.
    ///
    /// # Errors
    /// If its scales cannot be read, or are not finite.
    pub fn open(checkpoint: &Checkpoint, tensor: &Tensor) -> Result<Self> {
        match checkpoint.encoding(tensor)? {
            Encoding::Plain => Ok(Self::Plain(tensor.dtype)),
            Encoding::Fp8 { scale, block } => {
                Scales::read(checkpoint, tensor, scale, block).map(|scales| Self::Fp8(tensor.dtype, scales))
            }
            Encoding::Blocks(format) => Ok(Self::Blocks(format)),
            Encoding::Packed(packed) => {
                Codes::open(checkpoint, tensor, packed).map(|codes| Self::Packed(Box::new(codes)))
            }
        }
    }

    /// A type whose rows cannot be decoded: they can only be carried over.
    pub fn opaque(&self) -> Option<Format> {
        match self {
            Self::Blocks(format) if !format.is_decoded() => Some(*format),
            _ => None,
        }
    }

    /// The bytes of rows among those of all rows, as they are loaded.
    pub fn span(&self, tensor: &Tensor, rows: &Range<u64>) -> Range<u64> {
        match self {
            Self::Packed(codes) => codes.span(rows),
            _ => {
                let row_bytes = tensor.bytes / tensor.rows();
                rows.start * row_bytes..rows.end * row_bytes
            }
        }
    }

    /// What decodes rows that do not lie together in the stored tensor.
    pub fn scattered(&self) -> Option<&Codes> {
        match self {
            Self::Packed(codes) if !codes.is_straight() => Some(codes),
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
            Self::Packed(codes) => return codes.row(row, raw, out),
            Self::Plain(dtype) | Self::Fp8(dtype, _) => *dtype,
        };
        assert!(decode::decode(dtype, raw, out), "`open` lets only known dtypes through");
        if let Self::Fp8(_, scales) = self {
            scales.apply(row, out);
        }
    }

    /// Puts the stored codes of a row into blocks of another type, bit for bit; false if a factor has no place there.
    ///
    /// # Panics
    /// If the type does not hold the same codes, or `raw` or `blocks` is not exactly one row.
    pub fn regroup(&self, format: Format, row: u64, raw: &[u8], blocks: &mut [u8]) -> bool {
        match self {
            Self::Packed(codes) => codes.regroup(format, row, raw, blocks),
            _ => panic!("only packed codes are put into blocks of {format}"),
        }
    }
}
