//! The header of a safetensors shard: JSON of names, dtypes, shapes and byte ranges. Pure: bytes in, tensors out.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Dtype;
use super::pairs::Pairs;
use crate::error::{Error, Result};

/// A longer header is refused, as safetensors itself does.
pub const MAX_HEADER: u64 = 100_000_000;

/// One tensor of a shard, its range checked against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name in the checkpoint: `model.norm.weight`.
    pub name: String,
    /// Element type as stored.
    pub dtype: Dtype,
    /// `[out, in]` for a matrix: the last dimension is contiguous.
    pub shape: Vec<u64>,
    /// File inside the checkpoint.
    pub shard: Arc<str>,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: u64,
}

impl Tensor {
    /// Rows of the matrix: the product of all dimensions but the last.
    pub fn rows(&self) -> u64 {
        self.shape.iter().rev().skip(1).product()
    }

    /// Elements in a row: the last dimension, 1 for a scalar.
    pub fn columns(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// The tensors of a shard of `file_size` bytes whose JSON header is `json`.
///
/// # Errors
/// Names the tensor for: a key given twice, an unknown dtype, a range that does not fit the shape, overlaps
/// another tensor, leaves a gap, or leaves the file.
pub fn parse(shard: &str, json: &[u8], file_size: u64) -> Result<Vec<Tensor>> {
    let entries: Pairs<&RawValue> = serde_json::from_slice(json)
        .map_err(|e| Error::file(shard, format!("the safetensors header is not a JSON object: {e}")))?;
    let shard: Arc<str> = shard.into();
    let data = 8 + json.len() as u64;
    let mut seen = HashSet::with_capacity(entries.0.len());
    if let Some((name, _)) = entries.0.iter().find(|(name, _)| !seen.insert(name.as_str())) {
        return Err(Error::tensor(&shard, name, "is named twice in the header"));
    }
    drop(seen);
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, entry) in entries.0 {
        let fault = |problem: String| Error::tensor(&shard, &name, problem);
        if name == "__metadata__" {
            continue;
        }
        let entry: Entry = serde_json::from_str(entry.get())
            .map_err(|e| fault(format!("needs dtype, shape and data_offsets in the header: {e}")))?;
        let dtype: Dtype =
            entry.dtype.parse().map_err(|()| fault(format!("has the unknown dtype \"{}\"", entry.dtype)))?;
        let [begin, end] = entry.data_offsets;
        let bytes = dtype
            .bytes(&entry.shape)
            .ok_or_else(|| fault(format!("has the shape {:?}, whose size overflows", entry.shape)))?;
        if begin > end || end - begin != bytes {
            return Err(fault(format!(
                "is {dtype:?} {:?}, which takes {bytes} bytes, but its offsets are {begin} to {end}",
                entry.shape
            )));
        }
        let room = file_size.saturating_sub(data);
        if end > room {
            return Err(fault(format!(
                "ends at byte {end} of the data, but the file has {room}: it is cut short"
            )));
        }
        tensors.push(Tensor {
            name,
            dtype,
            shape: entry.shape,
            shard: shard.clone(),
            offset: data + begin,
            bytes,
        });
    }
    tensors.sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
    let mut expected = data;
    for tensor in &tensors {
        if tensor.offset != expected {
            let kind =
                if tensor.offset < expected { "overlaps the tensor before it" } else { "leaves a gap" };
            return Err(Error::tensor(
                &shard,
                &tensor.name,
                format!("{kind}: it begins at byte {} of the file, expected {expected}", tensor.offset),
            ));
        }
        expected += tensor.bytes;
    }
    if expected != file_size {
        return Err(Error::file(&shard, format!("has {file_size} bytes, but its tensors end at {expected}")));
    }
    Ok(tensors)
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}
