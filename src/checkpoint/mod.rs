//! Stage 1, read: a folder of safetensors shards, its index and configuration, and rows of weights as f32.

mod config;
mod decode;
mod fingerprint;
mod header;
mod index;
mod matrix;
mod memory;
mod pairs;
mod source;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

pub use config::Config;
pub use fingerprint::{Fingerprint, hex};
pub use header::Tensor;
pub use matrix::{Matrix, SCALE_SUFFIX};
pub use memory::Memory;
pub(crate) use pairs::Pairs;
pub use source::{Folder, Source, exists, read_file};

use crate::error::{Error, Result};

/// A larger JSON file is refused; R1's index has 8.5 MB, its tokenizer 7.5 MB. Parsed, one takes about eight times its
/// size.
pub(crate) const MAX_JSON: u64 = 64 << 20;

/// A larger file of settings is refused: as a tree of values, which it is parsed to, it takes up to thirty times its
/// size. R1's config.json has 1.7 kB, the largest tokenizer_config.json 1 MB.
const MAX_SETTINGS: u64 = 4 << 20;

/// Recommended sampling, and token ids that config.json may lack.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";

/// The one file of an unsharded checkpoint.
const SINGLE: &str = "model.safetensors";

/// A Hugging Face checkpoint, its headers read and checked; weights are read later, a piece at a time.
#[derive(Debug)]
pub struct Checkpoint {
    source: Box<dyn Source>,
    config: Config,
    tensors: HashMap<String, Tensor>,
    shards: Vec<Shard>,
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

impl Checkpoint {
    /// Opens a local folder.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_folder(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::Argument(format!(
                "{}: expected a checkpoint's folder with config.json and safetensors shards",
                folder.display()
            )));
        }
        Self::open(Box::new(Folder::new(folder)))
    }

    /// Reads config, index and the header of every shard.
    ///
    /// # Errors
    /// Names file, tensor, expected and found for whatever is missing, damaged or contradictory.
    pub fn open(source: Box<dyn Source>) -> Result<Self> {
        let config = Config::parse(&read_file(&*source, "config.json", MAX_SETTINGS)?)?;
        let (tensors, shards) = if exists(&*source, index::INDEX)? {
            indexed(&*source)?
        } else if exists(&*source, SINGLE)? {
            let (shard, tensors) = read_shard(&*source, SINGLE)?;
            (tensors.into_iter().map(|t| (t.name.clone(), t)).collect(), vec![shard])
        } else {
            let problem =
                format!("is not there, nor is {SINGLE}: the folder holds no safetensors checkpoint");
            return Err(Error::file(index::INDEX, problem));
        };
        Ok(Self { source, config, tensors, shards })
    }

    /// config.json.
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
            Error::tensor(index::INDEX, name, "is needed by the architecture, but no shard has it")
        })
    }

    /// Every tensor, in no particular order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }

    /// The files of weights, by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The block scales of an FP8 tensor, if the checkpoint has them.
    pub fn scales(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.get(&format!("{}{SCALE_SUFFIX}", tensor.name))
    }

    /// Fills `buffer` with the tensor's bytes from `offset` on.
    ///
    /// # Errors
    /// If the shard cannot be read, or became shorter since its header was.
    pub fn read_at(&self, tensor: &Tensor, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.source.read_at(&tensor.shard, tensor.offset + offset, buffer).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                let end = tensor.offset + offset + buffer.len() as u64;
                Error::tensor(&tensor.shard, &tensor.name, format!("the file ends before its byte {end}"))
            } else {
                Error::io("read", self.source.path(&tensor.shard), e)
            }
        })
    }

    /// Rows and columns of an FP8 block that shares one scale, from config.json's `quantization_config`.
    ///
    /// # Errors
    /// If it is not there or not two positive numbers.
    pub fn scale_block(&self) -> Result<[u64; 2]> {
        let config = self.config.object("quantization_config")?;
        let method: String = config.get("quant_method")?;
        if method != "fp8" {
            return Err(Error::Unsupported(format!(
                "config.json: quantization_config.quant_method is \"{method}\"; \"fp8\" can be read"
            )));
        }
        let kind: Option<String> = config.find("fmt")?;
        if kind.as_deref().is_some_and(|kind| kind != "e4m3") {
            let problem = format!("config.json: quantization_config.fmt is {kind:?}; e4m3 can be read");
            return Err(Error::Unsupported(problem));
        }
        let block: [u64; 2] = config.get("weight_block_size")?;
        if block.contains(&0) {
            return Err(Error::file(
                "config.json",
                format!("weight_block_size is {block:?}; expected two sizes"),
            ));
        }
        Ok(block)
    }
}

/// The tensors that the index lists, each found in the shard it names.
fn indexed(source: &dyn Source) -> Result<(HashMap<String, Tensor>, Vec<Shard>)> {
    let shards = index::parse(&read_file(source, index::INDEX, MAX_JSON)?)?;
    let files: BTreeSet<&String> = shards.values().collect();
    let mut tensors = HashMap::with_capacity(shards.len());
    let mut read = Vec::with_capacity(files.len());
    for file in files {
        let (shard, found) = read_shard(source, file)?;
        read.push(shard);
        for tensor in found {
            // What another shard also holds, or no index lists, is not part of the model.
            if shards.get(&tensor.name) == Some(file) {
                tensors.insert(tensor.name.clone(), tensor);
            }
        }
    }
    let absent: BTreeMap<_, _> = shards.iter().filter(|(name, _)| !tensors.contains_key(*name)).collect();
    match absent.first_key_value() {
        None => Ok((tensors, read)),
        Some((name, shard)) => {
            let more = if absent.len() > 1 {
                format!(" ({} more like it)", absent.len() - 1)
            } else {
                String::new()
            };
            Err(Error::tensor(
                index::INDEX,
                name,
                format!("is said to be in {shard}, which does not have it{more}"),
            ))
        }
    }
}

/// Reads and checks the header of one shard.
fn read_shard(source: &dyn Source, shard: &str) -> Result<(Shard, Vec<Tensor>)> {
    let io = |e| Error::io("read", source.path(shard), e);
    let size = source.size(shard).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::file(shard, "is listed in the index, but is not there"),
        _ => io(e),
    })?;
    if size < 8 {
        return Err(Error::file(shard, format!("has {size} bytes; a safetensors header alone takes 8")));
    }
    let mut length = [0; 8];
    source.read_at(shard, 0, &mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    if length > header::MAX_HEADER || length > size - 8 {
        let problem = format!("says its header has {length} bytes, but {} follow", size - 8);
        return Err(Error::file(shard, problem));
    }
    let mut json = vec![0; length as usize];
    source.read_at(shard, 8, &mut json).map_err(io)?;
    let tensors = header::parse(shard, &json, size)?;
    Ok((Shard { file: shard.to_owned(), bytes: size, header_sha256: hex(&json) }, tensors))
}
