//! The store of a GGUF file, whole or split: blocks of any type, as its readers decode them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use quant_kernels::Format;

use super::{Rows, Store, Stored};
use crate::checkpoint::Values;
use crate::error::{Error, Result};
use crate::gguf::{Entry, Part, Parts};

/// The tensors of a model's files, by name. Slices follow one another: row `r` of slice `s` is row `s * ne1 + r`.
#[derive(Debug)]
pub struct GgufStore {
    parts: Parts,
    /// File and place in it of each tensor.
    places: HashMap<String, (usize, usize)>,
}

impl GgufStore {
    /// Reads the headers of the file, or of all files of its split.
    ///
    /// # Errors
    /// Those of [`Parts::read`].
    pub fn open(path: &Path) -> Result<Self> {
        let parts = Parts::read(path)?;
        let place = |file: usize, part: &Part| {
            let names = part.contents.tensors.iter().map(|tensor| tensor.name.clone());
            names.enumerate().map(|(place, name)| (name, (file, place))).collect::<Vec<_>>()
        };
        let places = parts.files.iter().enumerate().flat_map(|(file, part)| place(file, part)).collect();
        Ok(Self { parts, places })
    }

    /// The files.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    fn entry(&self, tensor: &str) -> Option<(&Part, &Entry)> {
        let &(file, place) = self.places.get(tensor)?;
        let part = &self.parts.files[file];
        Some((part, &part.contents.tensors[place]))
    }
}

impl Store for GgufStore {
    fn find(&self, matrix: &str) -> Option<Stored> {
        self.entry(matrix).map(|(part, entry)| describe(part, entry))
    }

    fn open(&self, matrix: &str) -> Result<Box<dyn Rows + '_>> {
        let Some((part, entry)) = self.entry(matrix) else {
            return Err(self.fault(matrix, "is not there".to_owned()));
        };
        Ok(Box::new(Opened { part, entry, stored: describe(part, entry) }))
    }

    fn fault(&self, matrix: &str, problem: String) -> Error {
        let part = self.entry(matrix).map_or(&self.parts.files[0], |(part, _)| part);
        part.fault(format!("tensor \"{matrix}\" {problem}"))
    }
}

fn describe(part: &Part, entry: &Entry) -> Stored {
    Stored {
        file: part.path.to_string_lossy().into(),
        offset: entry.offset,
        rows: entry.rows() * entry.slices(),
        columns: entry.columns(),
        row_bytes: entry.format.row_bytes(entry.columns()),
        beside: None,
    }
}

/// One tensor.
struct Opened<'a> {
    part: &'a Part,
    entry: &'a Entry,
    stored: Stored,
}

impl Rows for Opened<'_> {
    fn stored(&self) -> &Stored {
        &self.stored
    }

    fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        let row_bytes = self.stored.row_bytes;
        raw.resize(((rows.end - rows.start) * row_bytes) as usize, 0);
        self.part.read_at(self.entry.offset + rows.start * row_bytes, raw)
    }

    fn decode(&self, rows: Range<u64>, raw: &[u8], out: &mut [f32], _: Values) -> Result<()> {
        quant_kernels::dequantize(self.entry.format, raw, out);
        // A router's bias may shut an expert out. Other types hold no infinities but by a damaged scale.
        let allowed = |x: f32| x.is_finite() || (self.entry.format == Format::F32 && x == f32::NEG_INFINITY);
        match out.iter().position(|&x| !allowed(x)) {
            None => Ok(()),
            Some(index) => {
                let (row, column) =
                    (rows.start + index as u64 / self.stored.columns, index as u64 % self.stored.columns);
                let problem = format!("holds {} at row {row}, column {column}", out[index]);
                Err(self.part.fault(format!("tensor \"{}\" {problem}", self.entry.name)))
            }
        }
    }
}
