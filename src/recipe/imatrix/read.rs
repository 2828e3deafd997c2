//! Reading an importance matrix of either layout. Values are read where they lie, since R1's take a gigabyte.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use memmap2::Mmap;
use quant_kernels::Format;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::gguf::{Contents, Value};
use crate::whole;

/// Mean squared activations by tensor, slice (expert or head) and column.
#[derive(Debug)]
pub struct Imatrix {
    name: String,
    file: Mmap,
    entries: HashMap<String, Entry>,
    /// Chunks of text it was made from, where the file says.
    pub chunks: Option<u32>,
    sha256: OnceLock<String>,
}

/// Where the values of one tensor lie.
#[derive(Debug)]
struct Entry {
    /// Bytes of the sums: little-endian f32.
    sums: Range<usize>,
    /// The divisor of the sums: one number for all, or one for each slice.
    counts: Counts,
}

#[derive(Debug)]
enum Counts {
    /// Legacy: calls of the layer; 0 means that nothing was divided.
    Calls(u32),
    /// GGUF: bytes of f32 token counts, one for each matrix.
    Tokens(Range<usize>),
}

impl Imatrix {
    /// Opens a file of either layout.
    ///
    /// # Errors
    /// If it is neither, or ends inside of an entry.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let fault = |problem| Error::Imatrix { file: name.clone(), tensor: None, problem };
        let file = map(&whole::open(path, fault)?).map_err(|e| Error::io("read", path, e))?;
        let (entries, chunks) = if file.starts_with(b"GGUF") {
            gguf(&name, path)?
        } else {
            Legacy { file: &file, at: 0 }.read(&name)?
        };
        Ok(Self { name, file, entries, chunks, sha256: OnceLock::new() })
    }

    /// Number of tensors that it has values for.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// SHA-256 of the file, read for it once.
    pub fn fingerprint(&self) -> String {
        let digest = || Sha256::digest(&self.file[..]).iter().map(|byte| format!("{byte:02x}")).collect();
        self.sha256.get_or_init(digest).clone()
    }

    /// The error of a matrix without a single tensor of the model.
    pub fn foreign(&self) -> Error {
        let problem = format!("none of its {} tensors is in this model", self.entries.len());
        Error::Imatrix { file: self.name.clone(), tensor: None, problem }
    }

    /// The sums and counts of a tensor as a GGUF file has them.
    pub fn sums(&self, tensor: &str) -> Option<[Vec<f32>; 2]> {
        let entry = self.entries.get(tensor)?;
        match &entry.counts {
            Counts::Tokens(counts) => Some([self.numbers(&entry.sums), self.numbers(counts)]),
            Counts::Calls(_) => None,
        }
    }

    /// Names of the tensors that there are values for, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Whether there are values for the tensor.
    pub fn has(&self, tensor: &str) -> bool {
        self.entries.contains_key(tensor)
    }

    /// The importances of one slice of a tensor, None where calibration never reached it.
    ///
    /// # Errors
    /// If the entry has not `columns` values for each of `slices`, or one is not finite or negative.
    pub fn slice(
        &self,
        tensor: &str,
        slice: usize,
        columns: usize,
        slices: usize,
    ) -> Result<Option<Vec<f32>>> {
        let Some(entry) = self.entries.get(tensor) else { return Ok(None) };
        let fault = |problem| self.fault(tensor, problem);
        let found = entry.sums.len() / 4;
        // One row for all heads, as older versions of llama-imatrix wrote it.
        let shared = found == columns;
        if found != columns * slices && !shared {
            return Err(fault(format!("has {found} values; expected {columns} columns x {slices} slices")));
        }
        let count = match &entry.counts {
            Counts::Calls(0) => 1.0,
            Counts::Calls(calls) => *calls as f32,
            Counts::Tokens(range) => {
                let counts = self.numbers(range);
                match counts.len() {
                    1 => counts[0],
                    n if n == slices => counts[slice],
                    n => return Err(fault(format!("has {n} counts; expected 1 or {slices}"))),
                }
            }
        };
        if !(count.is_finite() && count >= 0.0) {
            return Err(fault(format!("slice {slice} has the count {count}; expected 0 or more")));
        }
        if count == 0.0 {
            return Ok(None);
        }
        let start = entry.sums.start + if shared { 0 } else { slice * columns * 4 };
        let mut values = self.numbers(&(start..start + columns * 4));
        for (column, value) in values.iter_mut().enumerate() {
            *value /= count;
            if !(value.is_finite() && *value >= 0.0) {
                return Err(fault(format!("slice {slice}, column {column} is {value}; expected 0 or more")));
            }
        }
        // llama-imatrix stores exactly 1 in the legacy layout for an expert without a token. And no input is always
        // zero in every column: such values were never measured, or have been lost.
        let ones = matches!(entry.counts, Counts::Calls(_)) && slices > 1 && values.iter().all(|&v| v == 1.0);
        let unseen = ones || values.iter().all(|&v| v == 0.0);
        Ok((!unseen).then_some(values))
    }

    /// Whether a tensor of several slices has one row of values for all of them.
    pub fn is_shared(&self, tensor: &str, columns: usize, slices: usize) -> bool {
        slices > 1 && self.entries.get(tensor).is_some_and(|entry| entry.sums.len() / 4 == columns)
    }

    /// Whether a slice is said to be measured, and all of its values are zero.
    pub fn is_zero(&self, tensor: &str, slice: usize, columns: usize) -> bool {
        let Some(entry) = self.entries.get(tensor) else { return false };
        let counted = match &entry.counts {
            Counts::Calls(_) => true,
            Counts::Tokens(range) => {
                let counts = self.numbers(range);
                counts.get(if counts.len() == 1 { 0 } else { slice }).is_some_and(|&count| count > 0.0)
            }
        };
        let first = if entry.sums.len() / 4 == columns { 0 } else { slice };
        let start = entry.sums.start + first * columns * 4;
        counted && self.numbers(&(start..start + columns * 4)).iter().all(|&value| value == 0.0)
    }

    /// An error that is to be let pass.
    pub fn fault(&self, tensor: &str, problem: String) -> Error {
        Error::Imatrix { file: self.name.clone(), tensor: Some(tensor.to_owned()), problem }
    }

    /// How many tokens reached each slice of a tensor, where the file says; the legacy layout does not.
    pub fn tokens(&self, tensor: &str, slices: usize) -> Option<Vec<f32>> {
        match &self.entries.get(tensor)?.counts {
            Counts::Tokens(range) => Some(self.numbers(range)).filter(|counts| counts.len() == slices),
            Counts::Calls(_) => None,
        }
    }

    /// How many tokens reached one slice of a tensor, where the file says.
    pub fn tokens_of(&self, tensor: &str, slice: usize) -> Option<f32> {
        match &self.entries.get(tensor)?.counts {
            Counts::Tokens(range) => {
                let counts = self.numbers(range);
                counts.get(if counts.len() == 1 { 0 } else { slice }).copied()
            }
            Counts::Calls(_) => None,
        }
    }

    fn numbers(&self, bytes: &Range<usize>) -> Vec<f32> {
        self.file[bytes.clone()].as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is only read, as bytes, for which any value is valid. Should another program shorten the file
    // meanwhile, the system ends this one; nothing is written under the final name then.
    unsafe { Mmap::map(file) }
}

type Entries = (HashMap<String, Entry>, Option<u32>);

fn gguf(name: &str, path: &Path) -> Result<Entries> {
    let contents = Contents::read(path)?;
    let fault = |tensor: &str, problem: &str| Error::Imatrix {
        file: name.to_owned(),
        tensor: Some(tensor.to_owned()),
        problem: problem.to_owned(),
    };
    let kind = contents.metadata.get("general.type");
    if kind.and_then(Value::as_str) != Some("imatrix") {
        let found = match kind.map(Value::as_str) {
            Some(Some(kind)) => format!("is \"{kind}\""),
            Some(None) => "is no text".to_owned(),
            None => "is not there".to_owned(),
        };
        let problem = format!("general.type {found}; expected \"imatrix\"");
        return Err(Error::Imatrix { file: name.to_owned(), tensor: None, problem });
    }
    let mut entries = HashMap::new();
    for sums in &contents.tensors {
        let Some(tensor) = sums.name.strip_suffix(".in_sum2") else { continue };
        let counts = contents
            .tensor(&format!("{tensor}.counts"))
            .ok_or_else(|| fault(tensor, "has sums (in_sum2), but no counts"))?;
        if sums.format != Format::F32 || counts.format != Format::F32 {
            return Err(fault(tensor, "has sums or counts that are not F32"));
        }
        let range = |entry: &crate::gguf::Entry| entry.offset as usize..(entry.offset + entry.bytes) as usize;
        entries.insert(tensor.to_owned(), Entry { sums: range(sums), counts: Counts::Tokens(range(counts)) });
    }
    let chunks = contents.metadata.get("imatrix.chunk_count").and_then(Value::as_u64);
    Ok((entries, chunks.map(|n| n as u32)))
}

/// The legacy layout, read from front to back.
struct Legacy<'a> {
    file: &'a [u8],
    at: usize,
}

impl Legacy<'_> {
    fn read(mut self, name: &str) -> Result<Entries> {
        let fault = |at: usize, problem: &str| Error::Imatrix {
            file: name.to_owned(),
            tensor: None,
            problem: format!("byte {at}: {problem}; expected an importance matrix, .dat or GGUF"),
        };
        let cut = |at| fault(at, "the file ends inside of an entry");
        let number = self.number().ok_or_else(|| cut(0))?;
        let mut entries = HashMap::new();
        for _ in 0..number {
            let at = self.at;
            let length = self.number().ok_or_else(|| cut(at))?;
            let tensor = self.take(length).ok_or_else(|| cut(at))?;
            let tensor = String::from_utf8(self.file[tensor].to_vec())
                .map_err(|_| fault(at, "a name is not UTF-8"))?;
            let calls = self.number().ok_or_else(|| cut(at))?;
            let values = self.number().ok_or_else(|| cut(at))?;
            let sums = values.checked_mul(4).and_then(|bytes| self.take(bytes)).ok_or_else(|| cut(at))?;
            let calls = u32::try_from(calls).map_err(|_| fault(at, "more calls than fit 32 bits"))?;
            if entries.insert(tensor.clone(), Entry { sums, counts: Counts::Calls(calls) }).is_some() {
                return Err(fault(at, &format!("the tensor \"{tensor}\" is there twice")));
            }
        }
        if number == 0 {
            return Err(fault(0, "there are no entries"));
        }
        let chunks = self.number().map(|n| n as u32);
        Ok((entries, chunks))
    }

    /// A little-endian i32 that is not negative.
    fn number(&mut self) -> Option<usize> {
        let range = self.take(4)?;
        let bytes = self.file[range].try_into().ok()?;
        usize::try_from(i32::from_le_bytes(bytes)).ok()
    }

    fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        let range = self.at..self.at.checked_add(bytes)?;
        self.at = range.end;
        (range.end <= self.file.len()).then_some(range)
    }
}
