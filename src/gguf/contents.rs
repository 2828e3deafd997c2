//! What is in a GGUF file: read by an independent library, then its tensors checked: no gaps, no overlaps, nothing past the end.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use gguf_rs::{ByteOrder, GGUFContainer};
use quant_kernels::Format;
use serde_json::Value;

use crate::error::{Error, Result};

/// Metadata and tensors of a file.
#[derive(Debug)]
pub struct Contents {
    /// GGUF version.
    pub version: String,
    /// Keys and values; arrays are whole.
    pub metadata: BTreeMap<String, Value>,
    /// In file order.
    pub tensors: Vec<Entry>,
    /// Bytes of the whole file.
    pub file_size: u64,
}

/// One tensor of a file.
#[derive(Debug)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Type.
    pub format: Format,
    /// Row length first.
    pub shape: Vec<u64>,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Bytes of data, without padding.
    pub bytes: u64,
}

impl Entry {
    /// Weights in the tensor.
    pub fn weights(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl Contents {
    /// Reads the header of the file.
    ///
    /// # Errors
    /// If it is no GGUF file, holds a type that is not known, or its tensors do not follow one another to its end.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let fault = |problem: String| Error::Gguf { file: path.display().to_string(), problem };
        let file = File::open(path).map_err(io)?;
        let file_size = file.metadata().map_err(io)?.len();
        // No header is longer than its file, whatever lengths it claims.
        let mut reader = BufReader::new(file.take(file_size));
        let mut magic = [0; 4];
        let begins = reader.read_exact(&mut magic).is_ok();
        if !begins || &magic != b"GGUF" {
            return Err(fault("does not begin with \"GGUF\"".into()));
        }
        let model = GGUFContainer::new(ByteOrder::LE, Box::new(reader), u64::MAX)
            .decode()
            .map_err(|e| fault(format!("the header cannot be read: {e}")))?;

        let mut tensors = Vec::with_capacity(model.tensors().len());
        let mut seen = HashSet::new();
        let mut expected = model.data_offset();
        for tensor in model.tensors() {
            let fault = |problem: String| fault(format!("tensor \"{}\" {problem}", tensor.name));
            if !seen.insert(&tensor.name) {
                return Err(fault("is there twice".into()));
            }
            let format = Format::from_id(tensor.kind)
                .ok_or_else(|| fault(format!("has type id {}, which is not known", tensor.kind)))?;
            let columns = tensor.shape.first().copied().unwrap_or(1);
            if !format.fits(columns) {
                let problem = format!("has rows of {columns} weights, which do not fill blocks of {format}");
                return Err(fault(problem));
            }
            let rows = tensor.shape.iter().skip(1).try_fold(1u64, |n, &dim| n.checked_mul(dim));
            let size = rows.and_then(|rows| format.row_bytes(columns).checked_mul(rows));
            let offset = model.data_offset().checked_add(tensor.offset);
            let (Some(bytes), Some(offset)) = (size, offset) else {
                return Err(fault(format!("has shape {:?} at {}: too large", tensor.shape, tensor.offset)));
            };
            if offset != expected {
                return Err(fault(format!("begins at byte {offset}; expected {expected}")));
            }
            let end = offset.checked_add(bytes).filter(|&end| end <= file_size);
            let end = end.ok_or_else(|| {
                fault(format!(
                    "takes {bytes} bytes from byte {offset}, but the file has {file_size}: it is cut short"
                ))
            })?;
            expected = end.next_multiple_of(model.alignment());
            tensors.push(Entry {
                name: tensor.name.clone(),
                format,
                shape: tensor.shape.clone(),
                offset,
                bytes,
            });
        }
        Ok(Self { version: model.get_version(), metadata: model.metadata().clone(), tensors, file_size })
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Entry> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}
