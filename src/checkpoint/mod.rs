//! Stage 1, read: a folder of safetensors shards, its index and configuration, or a GGUF file; and rows of weights as
//! f32.

mod base;
mod config;
mod decode;
mod dtype;
pub(crate) mod fields;
mod fingerprint;
mod gguf;
mod header;
mod index;
mod matrix;
mod memory;
mod pairs;
#[cfg(feature = "remote")]
mod remote;
mod seen;
mod shards;
mod source;
mod stored;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use quant_kernels::Format;

pub use base::BASE;
pub use config::Config;
pub(crate) use config::TEXT;
pub use dtype::Dtype;
pub use fingerprint::{Fingerprint, hex};
pub use header::Tensor;
pub use matrix::{Matrix, Values};
pub use memory::Memory;
pub(crate) use pairs::Pairs;
#[cfg(feature = "remote")]
pub(crate) use remote::{Address, is_bucket, is_repository, other_scheme};
pub use seen::Seen;
use source::refuse_stand_in;
pub use source::{Folder, Source, Wanted, exists, read_file};
use stored::Stored;
pub use stored::{Encoding, LeftOut};

use crate::error::{Error, Result, Warning};
use crate::gguf::Metadata;
use crate::stop;

/// A larger JSON file is refused; R1's index has 8.5 MB, its tokenizer 7.5 MB. Parsed, one takes about eight times its
/// size.
pub(crate) const MAX_JSON: u64 = 64 << 20;

/// A larger file of settings is refused: as a tree of values, which it is parsed to, it takes up to thirty times its
/// size. R1's config.json has 1.7 kB, the largest tokenizer_config.json 1 MB.
const MAX_SETTINGS: u64 = 4 << 20;

/// A larger bias is none of a matrix.
const MAX_BIAS: u64 = 4 << 20;

/// Recommended sampling, and token ids that config.json may lack.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";

/// The usual chat template, in a file of its own.
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The folder of further ones.
pub(crate) const CHAT_TEMPLATES: &str = "additional_chat_templates";

/// ModelOpt's file on how it stored the weights.
pub(crate) const HF_QUANT_CONFIG: &str = "hf_quant_config.json";

/// The one file of an unsharded checkpoint.
const SINGLE: &str = "model.safetensors";

/// A Hugging Face checkpoint or a GGUF file, its headers read and checked; weights are read later, a piece at a time.
#[derive(Debug)]
pub struct Checkpoint {
    source: Box<dyn Source>,
    config: Config,
    /// The keys of a GGUF file.
    metadata: Option<Metadata>,
    tensors: HashMap<String, Tensor>,
    shards: Vec<Shard>,
    /// The file that lists the tensors, for messages.
    listing: String,
    stored: Stored,
}

/// Sorts tensors by name.
fn by_name(tensors: &mut [&Tensor]) {
    // First as the shards have them: names that are compared are then near each other in memory, which takes a third of
    // the time where there are hundreds of thousands.
    tensors.sort_unstable_by(|a, b| {
        (Arc::as_ptr(&a.shard).cast::<u8>(), a.offset).cmp(&(Arc::as_ptr(&b.shard).cast(), b.offset))
    });
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
}

/// One file of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// File inside the checkpoint.
    pub file: String,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// SHA-256 of its JSON header.
    pub header_sha256: String,
}

/// How a remote checkpoint is read.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Ends waiting when it becomes true.
    pub stop: &'static AtomicBool,
    /// Where what was read is kept, if anywhere.
    pub cache: Option<Room>,
}

/// Room on this machine's disk.
#[derive(Clone, Debug)]
pub struct Room {
    /// The folder, which need not be there yet.
    pub folder: PathBuf,
    /// The most that it may have.
    pub bytes: u64,
}

/// What is meant by the name of a folder that is not there.
#[cfg(feature = "remote")]
fn hint(folder: &Path) -> String {
    match folder.to_str().filter(|name| is_repository(name)) {
        Some(name) => format!("; there is no such folder here: a repository of the hub would be hf://{name}"),
        None => String::new(),
    }
}

#[cfg(not(feature = "remote"))]
fn hint(folder: &Path) -> &'static str {
    let remote = ["hf://", "https://", "http://"]
        .iter()
        .any(|scheme| folder.starts_with(scheme.trim_end_matches('/')));
    if remote { "; this quantpress was built without the feature remote" } else { "" }
}

impl Checkpoint {
    /// Opens a folder of safetensors, or a GGUF file, of a split any of its files; or, with the feature `remote`,
    /// `hf://org/name@revision`, a repository of the Hugging Face hub, and `https://host/path/`, a web server's folder.
    ///
    /// # Errors
    /// As [`Checkpoint::open_folder`] and [`Checkpoint::open_gguf`]; if a remote place does not answer.
    pub fn open_path(path: &Path) -> Result<Self> {
        Self::open_with(path, Reach { stop: stop::never(), cache: None })
    }

    /// The same; reading from a remote place, which may take patience, ends when the user wishes it.
    ///
    /// # Errors
    /// As [`Checkpoint::open_path`], [`Error::Interrupted`], and if the cache's folder cannot be used.
    pub fn open_with(path: &Path, reach: Reach) -> Result<Self> {
        #[cfg(feature = "remote")]
        if let Some((address, file)) = Address::of(path)? {
            let source = remote::open(&address, reach)?;
            return match file {
                Some(file) => Self::of_gguf(gguf::find_in(source, &file)?),
                None => Self::open(source),
            };
        }
        let _ = reach;
        if path.is_file() { Self::open_gguf(path) } else { Self::open_folder(path) }
    }

    /// Opens a GGUF file; of a split any of its files, all of which must be there.
    ///
    /// # Errors
    /// If it is no GGUF file or damaged, or a part is missing or belongs to another model.
    pub fn open_gguf(path: &Path) -> Result<Self> {
        Self::of_gguf(gguf::find(path)?)
    }

    fn of_gguf(found: gguf::Found) -> Result<Self> {
        let gguf::Found { source, tensors, shards, listing, metadata } = found;
        let config = Config::empty();
        Ok(Self {
            source,
            config,
            metadata: Some(metadata),
            tensors,
            shards,
            listing,
            stored: Stored::gguf(),
        })
    }

    /// Opens a local folder.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_folder(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::Argument(format!(
                "{}: expected a checkpoint's folder with config.json and safetensors shards, or a GGUF file{}",
                folder.display(),
                hint(folder)
            )));
        }
        Self::open(Box::new(Folder::new(folder)))
    }

    /// Reads config, index and the header of every shard, and finds out how the weights are stored.
    ///
    /// # Errors
    /// Names file, tensor, expected and found for whatever is missing, damaged or contradictory, and the format of
    /// weights that cannot be read.
    pub fn open(source: Box<dyn Source>) -> Result<Self> {
        let config = Config::parse(&read_file(&*source, "config.json", MAX_SETTINGS)?)?.of_text();
        let shards::Found { mut tensors, shards, listing } = shards::find(&*source)?;
        let stored = Stored::read(&*source, &config, &listing, &mut tensors)?;
        tracing::debug!(shards = shards.len(), tensors = tensors.len(), %listing, "checkpoint");
        Ok(Self { source, config, metadata: None, tensors, shards, listing, stored })
    }

    /// The keys of a GGUF file, None of a folder.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// config.json, of a model that also sees images the part about its text model; empty where the checkpoint is a
    /// GGUF file.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Another JSON file of settings, if the checkpoint has it.
    ///
    /// # Errors
    /// If it is there and no JSON object.
    pub fn optional_config(&self, file: &str) -> Result<Option<Config>> {
        match exists(self.source(), file)? {
            true => Config::parse_as(file, &read_file(self.source(), file, MAX_SETTINGS)?).map(Some),
            false => Ok(None),
        }
    }

    /// Where the files come from.
    pub fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// The tensor of this name, if the checkpoint has it.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// If the checkpoint does not have it.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.get(name).ok_or_else(|| {
            // Names usually differ by a prefix too many or too few.
            let alike = |other: &&str| {
                let longer = |a: &str, b: &str| a.strip_suffix(b).is_some_and(|rest| rest.ends_with('.'));
                longer(other, name) || longer(name, other)
            };
            let nearest = self.tensors.keys().map(String::as_str).filter(alike).min();
            let nearest = nearest.map_or(String::new(), |other| format!("; the nearest name is \"{other}\""));
            let problem = format!("is needed by the architecture, but is not in the checkpoint{nearest}");
            Error::tensor(&self.listing, name, problem)
        })
    }

    /// The file that lists the checkpoint's tensors: its index, or the first file of weights.
    pub fn listing(&self) -> &str {
        &self.listing
    }

    /// How a tensor is stored.
    ///
    /// # Errors
    /// If it cannot be read: another dtype, or FP8 whose scales are missing, given twice or misshapen.
    pub fn encoding(&self, tensor: &Tensor) -> Result<Encoding<'_>> {
        self.stored.encoding(self, tensor)
    }

    /// Tensors that no model needs, which are left out by name.
    pub fn left_out(&self) -> &[LeftOut] {
        self.stored.left_out()
    }

    /// Warnings about the declarations of how weights are stored.
    pub fn warnings(&self) -> &[Warning] {
        self.stored.warnings()
    }

    /// Whether two tensors seem to hold the same numbers: dtype, shape and a sample of the bytes are the same.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn look_alike(&self, first: &Tensor, second: &Tensor) -> Result<bool> {
        const SAMPLES: u64 = 64;
        const SAMPLE: u64 = 4096;
        if first.dtype != second.dtype || first.shape != second.shape {
            return Ok(false);
        }
        let size = SAMPLE.min(first.bytes);
        let (mut a, mut b) = (vec![0; size as usize], vec![0; size as usize]);
        for sample in 0..SAMPLES {
            let offset = ((first.bytes - size) as u128 * u128::from(sample) / u128::from(SAMPLES - 1)) as u64;
            self.read_at(first, offset, &mut a)?;
            self.read_at(second, offset, &mut b)?;
            if a != b {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether no model needs a tensor of this name.
    pub fn is_left_out(&self, name: &str) -> bool {
        stored::left_out(name).is_some()
    }

    /// Whether a tensor is read with the weight that it is beside: of scales, zero points and such.
    pub fn is_companion(&self, name: &str) -> bool {
        let is_fp8 = |weight: &Tensor| stored::is_fp8(weight.dtype);
        self.stored.is_companion(name) || self.weight_of_scale(name).is_some_and(is_fp8)
    }

    /// The weight that a tensor of this name would hold the scales of, if it is there.
    pub fn weight_of_scale(&self, name: &str) -> Option<&Tensor> {
        stored::weight_of_scale(name).and_then(|weight| self.get(&weight))
    }

    /// The type of GGUF whose blocks hold the same codes as a tensor that is not of one of its types.
    pub fn regrouped(&self, tensor: &Tensor) -> Option<Format> {
        match self.encoding(tensor) {
            Ok(Encoding::Packed(packed)) => packed.regrouped(tensor),
            _ => None,
        }
    }

    /// Whether a tensor is the bias that GPTQ's libraries give every matrix that they pack, which adds nothing if the model
    /// has none there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is_bias_of_zeros(&self, tensor: &Tensor) -> Result<bool> {
        let weight = tensor.name.strip_suffix(".bias").map(|module| format!("{module}.weight"));
        let weight = weight.and_then(|name| self.get(&name));
        let is_packed = weight.is_some_and(|weight| self.stored.is_across(&weight.name));
        if !is_packed || tensor.bytes > MAX_BIAS {
            return Ok(false);
        }
        let mut bytes = vec![0; tensor.bytes as usize];
        self.read_at(tensor, 0, &mut bytes)?;
        Ok(bytes.iter().all(|&byte| byte == 0))
    }

    /// What all weights of a tensor are multiplied by, beside the factors that its [regrouped](Self::regrouped) blocks
    /// have.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn factor(&self, tensor: &Tensor) -> Result<f32> {
        match self.encoding(tensor)? {
            Encoding::Packed(packed) => packed.factor(self),
            _ => Ok(1.0),
        }
    }

    /// Bytes of a row when it is loaded.
    pub fn row_bytes(&self, tensor: &Tensor) -> u64 {
        match self.encoding(tensor) {
            Ok(Encoding::Packed(packed)) => packed.row_bytes(tensor),
            _ => tensor.bytes / tensor.rows().max(1),
        }
    }

    /// Every tensor, in no particular order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }

    /// The files of weights, by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The scales of a tensor, if the checkpoint has them.
    pub fn scales(&self, tensor: &Tensor) -> Option<&Tensor> {
        match self.encoding(tensor) {
            Ok(Encoding::Fp8 { scale, .. }) => Some(scale),
            Ok(Encoding::Packed(packed)) => self.get(packed.scale()),
            _ => None,
        }
    }

    /// Fills `buffer` with the tensor's bytes from `offset` on.
    ///
    /// # Errors
    /// If the shard cannot be read, or became shorter since its header was.
    pub fn read_at(&self, tensor: &Tensor, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset + buffer.len() as u64;
        self.source
            .read_at(&tensor.shard, tensor.offset + offset, buffer)
            .map_err(|e| self.unread(tensor, end, e))
    }

    /// The bytes of many pieces of tensors, each given by its offset there and its length.
    ///
    /// # Errors
    /// As [`Checkpoint::read_at`].
    pub fn read_all(&self, pieces: &[(&Tensor, u64, u64)]) -> Result<Vec<Vec<u8>>> {
        let wanted = |&(tensor, offset, length): &(&Tensor, u64, u64)| Wanted {
            file: tensor.shard.to_string(),
            offset: tensor.offset + offset,
            bytes: vec![0; length as usize],
        };
        let mut wanted: Vec<Wanted> = pieces.iter().map(wanted).collect();
        self.source.read_all(&mut wanted).map_err(|(index, e)| {
            let (tensor, offset, length) = pieces[index];
            self.unread(tensor, offset + length, e)
        })?;
        Ok(wanted.into_iter().map(|piece| piece.bytes).collect())
    }

    /// The error of a read that would have ended at byte `end` of a tensor.
    fn unread(&self, tensor: &Tensor, end: u64, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let end = tensor.offset + end;
            Error::tensor(&tensor.shard, &tensor.name, format!("the file ends before its byte {end}"))
        } else {
            Error::io("read", self.source.path(&tensor.shard), error)
        }
    }
}
