//! Writing an importance matrix, an entry at a time: R1's takes a gigabyte.

use std::path::{Path, PathBuf};

use quant_kernels::Format;

use crate::disk::{self, Replacement};
use crate::error::{Error, Result};
use crate::gguf::{self, Metadata, TensorInfo, Value};

/// The file's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Sums and counts as tensors.
    Gguf,
    /// The older one; it has no counts for each expert.
    Dat,
}

/// The sizes of one tensor's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the tensor.
    pub name: String,
    /// Values of a count: the columns, of all heads where the tensor has some.
    pub values: usize,
    /// Matrices with a count of their own: the experts, else one.
    pub matrices: usize,
}

/// The texts and chunks that the matrix was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Chunks of text.
    pub chunks: u32,
    /// Tokens in a chunk.
    pub context: u32,
}

/// An unfinished file.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    output: Replacement,
    layout: Layout,
    chunks: u32,
    entries: Vec<Entry>,
    /// First byte of each entry: in GGUF of its sums and of its counts, in the legacy layout of its name.
    places: Vec<[u64; 2]>,
}

impl Writer {
    /// Creates a file for these entries.
    ///
    /// # Errors
    /// If the system cannot, or there is no room.
    pub fn create(path: &Path, layout: Layout, origin: &Origin, entries: Vec<Entry>) -> Result<Self> {
        let Frame { pieces, places, size } = match layout {
            Layout::Gguf => gguf_frame(origin, &entries),
            Layout::Dat => dat_frame(origin, &entries),
        };
        let output = Replacement::create(path).map_err(|e| Error::io("create", path, e))?;
        let reserved = disk::reserve(output.file(), size).and_then(|_| output.file().set_len(size));
        reserved.map_err(|e| Error::io("reserve space for", path, e))?;
        let writer = Self { path: path.to_owned(), output, layout, chunks: origin.chunks, entries, places };
        pieces.iter().try_for_each(|(offset, bytes)| writer.write_at(*offset, bytes))?;
        Ok(writer)
    }

    /// Writes the sums of squares and the counts of the entry at this place of the list.
    ///
    /// # Errors
    /// If the system cannot.
    ///
    /// # Panics
    /// If there are not as many as the entry says.
    pub fn put(&self, place: usize, sums: &[f32], counts: &[f32]) -> Result<()> {
        let entry = &self.entries[place];
        assert_eq!(sums.len(), entry.values * entry.matrices, "sums of {}", entry.name);
        assert_eq!(counts.len(), entry.matrices, "counts of {}", entry.name);
        let [first, second] = self.places[place];
        match self.layout {
            Layout::Gguf => {
                self.write_at(first, &little_endian(sums.iter().copied()))?;
                self.write_at(second, &little_endian(counts.iter().copied()))
            }
            Layout::Dat => {
                // Means times calls; an expert without a token has 1 for each call.
                let calls = self.chunks as f32;
                let values = sums.chunks_exact(entry.values).zip(counts).flat_map(|(sums, &count)| {
                    sums.iter().map(move |sum| if count > 0.0 { sum / count * calls } else { calls })
                });
                self.write_at(first, &little_endian(values))
            }
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        disk::write_all_at(self.output.file(), offset, bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// The whole file, before it has its name.
    ///
    /// # Errors
    /// If it cannot be read back.
    pub fn sha256(&self) -> Result<String> {
        disk::sha256(self.output.file()).map_err(|e| Error::io("read", &self.path, e))
    }

    /// Gives the file its name, in place of a file that is there, if it may `replace` one.
    ///
    /// # Errors
    /// If the system cannot, or a file is there that may not be replaced.
    pub fn finish(self, replace: bool) -> Result<()> {
        self.output.finish(replace).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists(self.path.clone()),
            _ => Error::io("write", &self.path, e),
        })
    }
}

/// All of a file but the values.
struct Frame {
    /// Bytes and where they go.
    pieces: Vec<(u64, Vec<u8>)>,
    places: Vec<[u64; 2]>,
    size: u64,
}

fn gguf_frame(origin: &Origin, entries: &[Entry]) -> Frame {
    let mut metadata = Metadata::default();
    metadata.set("general.type", "imatrix".into());
    metadata.set("imatrix.datasets", Value::Strings(origin.datasets.clone()));
    metadata.set("imatrix.chunk_count", Value::U32(origin.chunks));
    metadata.set("imatrix.chunk_size", Value::U32(origin.context));
    let tensors: Vec<TensorInfo> = entries
        .iter()
        .flat_map(|entry| {
            let info = |kind: &str, columns: usize| {
                let mut shape = vec![columns as u64];
                if entry.matrices > 1 {
                    shape.push(entry.matrices as u64);
                }
                TensorInfo { name: format!("{}.{kind}", entry.name), shape, format: Format::F32 }
            };
            [info("in_sum2", entry.values), info("counts", 1)]
        })
        .collect();
    let layout = gguf::Layout::new(&metadata, &tensors);
    let places = layout.offsets.as_chunks().0.to_vec();
    Frame { pieces: vec![(0, layout.header)], places, size: layout.file_size }
}

fn dat_frame(origin: &Origin, entries: &[Entry]) -> Frame {
    let mut pieces = vec![(0, (entries.len() as i32).to_le_bytes().to_vec())];
    let mut places = Vec::with_capacity(entries.len());
    let mut size = 4;
    for entry in entries {
        let values = entry.values * entry.matrices;
        let mut header = (entry.name.len() as i32).to_le_bytes().to_vec();
        header.extend(entry.name.as_bytes());
        header.extend((origin.chunks as i32).to_le_bytes());
        header.extend((values as i32).to_le_bytes());
        let first = size + header.len() as u64;
        pieces.push((size, header));
        places.push([first; 2]);
        size = first + 4 * values as u64;
    }
    let dataset = origin.datasets.first().map_or("", String::as_str);
    let mut tail = (origin.chunks as i32).to_le_bytes().to_vec();
    tail.extend((dataset.len() as i32).to_le_bytes());
    tail.extend(dataset.as_bytes());
    pieces.push((size, tail));
    let size = pieces.iter().map(|(offset, bytes)| offset + bytes.len() as u64).max().unwrap_or(size);
    Frame { pieces, places, size }
}

fn little_endian(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}
