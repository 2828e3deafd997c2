//! The contents of a GGUF file: the header is read, then its tensors are checked: no gaps, no overlaps, nothing past
//! the end.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use quant_kernels::Format;

use super::layout::{ALIGNMENT, MAX_NAME};
use super::reader::{Fault, Header};
use super::value::Field;
use super::{Metadata, Value};
use crate::error::{Error, Result};
use crate::whole;

/// Readers support tensors of up to so many dimensions.
const MAX_DIMENSIONS: u32 = 4;

/// More are refused: R1 has 60 keys and 1086 tensors.
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;

/// A coarser alignment is refused; llama.cpp writes 32.
const MAX_ALIGNMENT: u64 = 1 << 16;

/// Metadata and tensors of a file.
#[derive(Debug)]
pub struct Contents {
    /// GGUF version: 2 or 3, which differ in nothing that is read here.
    pub version: u32,
    /// Keys and values in file order; arrays are whole.
    pub metadata: Metadata,
    /// In file order.
    pub tensors: Vec<Entry>,
    /// First byte of the tensors' data.
    pub data: u64,
    /// Where the last tensor ends, with its padding, which some writers leave out.
    pub end: u64,
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

    /// Weights in a row (ne0).
    pub fn columns(&self) -> u64 {
        self.shape[0]
    }

    /// Rows of a slice (ne1).
    pub fn rows(&self) -> u64 {
        self.shape.get(1).copied().unwrap_or(1)
    }

    /// Experts or heads (ne2, ne3).
    pub fn slices(&self) -> u64 {
        self.shape.iter().skip(2).product()
    }
}

impl Contents {
    /// Reads the header of the file.
    ///
    /// # Errors
    /// If it is no GGUF file, holds a type that is not known, or its tensors do not follow one another to its end.
    pub fn read(path: &Path) -> Result<Self> {
        Self::open(path).map(|(contents, _)| contents)
    }

    /// As [`read`](Self::read), with the open file, so that later reads are of the same file even if its name is
    /// given to another.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn open(path: &Path) -> Result<(Self, File)> {
        let fault = |problem| Error::Gguf { file: path.display().to_string(), problem };
        let file = whole::open(path, fault)?;
        let size = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        let contents = Self::of(path, &mut BufReader::with_capacity(1 << 16, &file), size)?;
        Ok((contents, file))
    }

    /// The header of a file of so many bytes, which `input` reads from its beginning; `path` is its name in messages.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn of(path: &Path, input: &mut dyn Read, file_size: u64) -> Result<Self> {
        Self::parse(input, file_size).map_err(|fault| match fault {
            Fault::Format(problem) => Error::Gguf { file: path.display().to_string(), problem },
            Fault::Io(e) => Error::io("read", path, e),
        })
    }

    fn parse(input: &mut dyn Read, file_size: u64) -> Result<Self, Fault> {
        let mut header = Header::new(input, file_size);
        if header.bytes().ok() != Some(*b"GGUF") {
            return Err(Fault::because("does not begin with \"GGUF\""));
        }
        let start = |fault: Fault| fault.of("its start");
        let version = u32::read(&mut header).map_err(start)?;
        if ![2, 3].contains(&version) {
            let big_endian = if version.swap_bytes() < 16 { ", or big-endian" } else { "" };
            return Err(Fault::because(format!("is GGUF version {version}{big_endian}; expected 2 or 3")));
        }
        let tensors = u64::read(&mut header).map_err(start)?;
        let keys = u64::read(&mut header).map_err(start)?;
        if keys > MAX_KEYS || tensors > MAX_TENSORS {
            let problem = format!(
                "the header says {keys} keys and {tensors} tensors; up to {MAX_KEYS} and {MAX_TENSORS} are read"
            );
            return Err(Fault::because(problem));
        }

        let (mut metadata, mut names) = (Metadata::default(), HashSet::new());
        for number in 0..keys {
            let key =
                String::read(&mut header).map_err(|fault| fault.of(&format!("key {number} of {keys}")))?;
            let value =
                Value::read(&mut header).map_err(|fault| fault.of(&format!("the value of \"{key}\"")))?;
            if !names.insert(key.clone()) {
                return Err(Fault::because(format!("the key \"{key}\" is there twice")));
            }
            metadata.push(key, value);
        }
        let alignment = alignment(&metadata)?;

        let mut infos = Vec::new();
        for number in 0..tensors {
            let info =
                Info::read(&mut header).map_err(|fault| fault.of(&format!("tensor {number} of {tensors}")));
            infos.push(info?);
        }
        let data = header.at().next_multiple_of(alignment);
        let mut seen = HashSet::new();
        let mut expected = data;
        let mut entries = Vec::with_capacity(infos.len());
        for info in infos {
            let fault = |problem: String| Fault::because(format!("tensor \"{}\" {problem}", info.name));
            if !seen.insert(info.name.clone()) {
                return Err(fault("is there twice".into()));
            }
            let entry = info.placed(data, file_size).map_err(fault)?;
            if entry.offset != expected {
                return Err(fault(format!("begins at byte {}; expected {expected}", entry.offset)));
            }
            // No overflow: the end lies in the file, and no file is that long.
            expected = (entry.offset + entry.bytes).next_multiple_of(alignment);
            entries.push(entry);
        }
        Ok(Self { version, metadata, tensors: entries, data, end: expected, file_size })
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Entry> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// The alignment: all data begin at multiples of it.
fn alignment(metadata: &Metadata) -> Result<u64, Fault> {
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(&Value::U32(n)) if n.is_power_of_two() && u64::from(n) <= MAX_ALIGNMENT => Ok(n.into()),
        Some(other) => Err(Fault::because(format!(
            "general.alignment is {other:?}; expected a power of two up to {MAX_ALIGNMENT}, as U32"
        ))),
    }
}

/// A tensor as the header describes it.
struct Info {
    name: String,
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl Info {
    fn read(header: &mut Header) -> Result<Self, Fault> {
        let name = String::read(header)?;
        if name.len() > MAX_NAME {
            return Err(Fault::because(format!(
                "has a name of {} bytes; up to {MAX_NAME} are read",
                name.len()
            )));
        }
        let dimensions = u32::read(header)?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            let problem = format!("(\"{name}\") has {dimensions} dimensions; expected 1 to {MAX_DIMENSIONS}");
            return Err(Fault::because(problem));
        }
        let shape = (0..dimensions).map(|_| u64::read(header)).collect::<Result<_, _>>()?;
        Ok(Self { name, shape, kind: u32::read(header)?, offset: u64::read(header)? })
    }

    /// The tensor with its size, which must lie inside of the file.
    fn placed(&self, data: u64, file_size: u64) -> Result<Entry, String> {
        let format = Format::from_id(self.kind)
            .ok_or_else(|| format!("has type id {}, which is not known", self.kind))?;
        if self.shape.contains(&0) {
            return Err(format!("has the shape {:?}: without weights", self.shape));
        }
        let columns = self.shape[0];
        if !format.fits(columns) {
            return Err(format!("has rows of {columns} weights, which do not fill blocks of {format}"));
        }
        // By blocks, since bytes of a row could overflow before they are compared with anything.
        let blocks =
            self.shape[1..].iter().try_fold(columns / format.block_len() as u64, |n, &d| n.checked_mul(d));
        let bytes = blocks.and_then(|blocks| blocks.checked_mul(format.block_bytes() as u64));
        let offset = data.checked_add(self.offset);
        let (Some(bytes), Some(offset)) = (bytes, offset) else {
            return Err(format!("has shape {:?} at {}: too large", self.shape, self.offset));
        };
        if offset.checked_add(bytes).is_none_or(|end| end > file_size) {
            return Err(format!(
                "takes {bytes} bytes from byte {offset}, but the file has {file_size}: it is cut short"
            ));
        }
        Ok(Entry { name: self.name.clone(), format, shape: self.shape.clone(), offset, bytes })
    }
}
