//! A GGUF file, whole or split, as a checkpoint: its tensors under their own names, with the types that they have
//! there.

use std::collections::HashMap;
#[cfg(feature = "remote")]
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use super::{Dtype, Folder, Shard, Source, Tensor, hex};
use crate::error::{Error, Result};
use crate::gguf::{Contents, Metadata, Parts};

/// The model's files and tensors, from their headers.
pub struct Found {
    /// The folder that the files are in.
    pub source: Box<dyn Source>,
    /// The tensors by name.
    pub tensors: HashMap<String, Tensor>,
    /// The files of the model, in order.
    pub shards: Vec<Shard>,
    /// The file that was named.
    pub listing: String,
    /// The keys of the first file, in its order.
    pub metadata: Metadata,
}

/// Reads the headers of all files of the model.
///
/// # Errors
/// If one is damaged, is missing, or belongs to another model.
pub fn find(path: &Path) -> Result<Found> {
    let parts = Parts::read(path)?;
    let source = Box::new(Folder::of_file(path));
    let mut heads = Vec::new();
    for part in parts.files {
        let name = part.path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            Error::Argument(format!("{}: the names of source files must be UTF-8", part.path.display()))
        })?;
        heads.push((name.into(), part.contents));
    }
    found(source, heads, path.display().to_string())
}

/// The same of a model in another place, by the name of one of its files there.
///
/// # Errors
/// As [`find`].
#[cfg(feature = "remote")]
pub fn find_in(source: Box<dyn Source>, file: &str) -> Result<Found> {
    let (place, inside) = (source.path(file), |path: &Path| {
        // Names of the place's files, from those in messages.
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        file.rsplit_once('/').map_or(name.to_owned(), |(folder, _)| format!("{folder}/{name}"))
    });
    let read = |path: &Path| {
        let name = inside(path);
        let size = source.size(&name).map_err(|e| Error::io("read", path, e))?;
        let bytes = Bytes { source: &*source, file: &name, at: 0, size };
        Contents::of(path, &mut BufReader::with_capacity(HEADER, bytes), size)
    };
    let heads = Parts::heads(&place, read)?;
    let heads = heads.into_iter().map(|(path, contents)| (inside(&path).into(), contents)).collect();
    let listing = place.display().to_string();
    found(source, heads, listing)
}

/// Bytes of a header that are asked for at once in another place: most have fewer.
#[cfg(feature = "remote")]
const HEADER: usize = 4 << 20;

/// A file of a source, read from its beginning.
#[cfg(feature = "remote")]
struct Bytes<'a> {
    source: &'a dyn Source,
    file: &'a str,
    at: u64,
    size: u64,
}

#[cfg(feature = "remote")]
impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = (self.size - self.at).min(buffer.len() as u64) as usize;
        self.source.read_at(self.file, self.at, &mut buffer[..bytes])?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}

/// The tensors of files whose headers were read.
fn found(source: Box<dyn Source>, heads: Vec<(Arc<str>, Contents)>, listing: String) -> Result<Found> {
    let (mut tensors, mut shards) = (HashMap::new(), Vec::new());
    for (shard, contents) in &heads {
        for entry in &contents.tensors {
            // The last dimension is the contiguous one here, as in safetensors.
            let shape = entry.shape.iter().rev().copied().collect();
            let tensor = Tensor {
                name: entry.name.clone(),
                dtype: Dtype::Gguf(entry.format),
                shape,
                shard: Arc::clone(shard),
                offset: entry.offset,
                bytes: entry.bytes,
            };
            tensors.insert(entry.name.clone(), tensor);
        }
        let mut header = vec![0; contents.data.min(contents.file_size) as usize];
        source.read_at(shard, 0, &mut header).map_err(|e| Error::io("read", source.path(shard), e))?;
        let file = shard.to_string();
        shards.push(Shard { file, bytes: contents.file_size, header_sha256: hex(&header) });
    }
    let metadata = heads.into_iter().next().map(|(_, contents)| contents.metadata).unwrap_or_default();
    Ok(Found { source, tensors, shards, listing, metadata })
}
