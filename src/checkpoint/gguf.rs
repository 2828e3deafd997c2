//! A GGUF file, whole or split, as a checkpoint: its tensors under their own names, with the types that they have
//! there.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{Dtype, Folder, Shard, Source, Tensor, hex};
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Parts};

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
    let source = Folder::of_file(path);
    let mut tensors = HashMap::new();
    let mut shards = Vec::new();
    for part in &parts.files {
        let name = part.path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            Error::Argument(format!("{}: the names of source files must be UTF-8", part.path.display()))
        })?;
        let shard: Arc<str> = name.into();
        for entry in &part.contents.tensors {
            // The last dimension is the contiguous one here, as in safetensors.
            let shape = entry.shape.iter().rev().copied().collect();
            let tensor = Tensor {
                name: entry.name.clone(),
                dtype: Dtype::Gguf(entry.format),
                shape,
                shard: Arc::clone(&shard),
                offset: entry.offset,
                bytes: entry.bytes,
            };
            tensors.insert(entry.name.clone(), tensor);
        }
        let mut header = vec![0; part.contents.data.min(part.contents.file_size) as usize];
        source.read_at(name, 0, &mut header).map_err(|e| Error::io("read", &part.path, e))?;
        shards.push(Shard {
            file: name.to_owned(),
            bytes: part.contents.file_size,
            header_sha256: hex(&header),
        });
    }
    let metadata = parts.metadata().clone();
    Ok(Found { source: Box::new(source), tensors, shards, listing: path.display().to_string(), metadata })
}
