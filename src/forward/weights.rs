//! Where the pass gets its weights: rows of a checkpoint, or of a finished GGUF file.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use dense_kernels::Dense;
use quant_kernels::Format;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::shape::Shape;
use crate::checkpoint::{Checkpoint, Matrix, Values};
use crate::error::{Error, Result};
use crate::gguf::{Entry, Part, Parts};
use crate::model::Model;

/// Weights that a thread decodes at a time.
const PIECE: usize = 1 << 20;

/// Rows of tensors by their GGUF name.
pub trait Weights: Sync {
    /// Row length, rows of a slice, slices; None if the model has no such tensor.
    fn extent(&self, tensor: &str) -> Option<[usize; 3]>;

    /// Fills `out` with rows of one slice (expert or head).
    ///
    /// # Errors
    /// If they cannot be read, or hold a value that is no weight.
    fn read(&self, tensor: &str, slice: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// The error of a tensor that is missing or misshapen.
    fn fault(&self, tensor: &str, problem: String) -> Error;

    /// Rows of a slice.
    ///
    /// # Errors
    /// If the tensor is not there.
    fn rows(&self, tensor: &str) -> Result<usize> {
        self.extent(tensor)
            .map(|[_, rows, _]| rows)
            .ok_or_else(|| self.fault(tensor, "is not there".to_owned()))
    }

    /// Makes sure that the tensor has this slice, of these rows and columns.
    ///
    /// # Errors
    /// If it has not.
    fn check(&self, tensor: &str, slice: usize, [rows, columns]: [usize; 2]) -> Result<()> {
        match self.extent(tensor) {
            None => Err(self.fault(tensor, "is not there".to_owned())),
            Some([c, r, slices]) if (r, c) == (rows, columns) && slice < slices => Ok(()),
            Some([c, r, slices]) => Err(self.fault(
                tensor,
                format!("is {slices} x {r} x {c}; expected {rows} x {columns}, at least {} times", slice + 1),
            )),
        }
    }

    /// One slice as a matrix of these rows and columns, decoded on all threads.
    ///
    /// # Errors
    /// Those of `read`, and another shape.
    fn matrix(&self, tensor: &str, slice: usize, [height, width]: [usize; 2]) -> Result<Dense> {
        self.check(tensor, slice, [height, width])?;
        let mut matrix = Dense::zeros(height, width);
        let step = (PIECE / width).clamp(1, height.max(1));
        matrix.values_mut().par_chunks_mut(step * width).enumerate().try_for_each(|(piece, out)| {
            let first = piece * step;
            self.read(tensor, slice, first..first + out.len() / width, out)
        })?;
        Ok(matrix)
    }

    /// A vector of this length.
    ///
    /// # Errors
    /// Those of [`matrix`](Self::matrix).
    fn vector(&self, tensor: &str, length: usize) -> Result<Dense> {
        self.matrix(tensor, 0, [1, length])
    }
}

/// The weights of a planned model, decoded from the shards.
#[derive(Debug)]
pub struct FromCheckpoint<'a> {
    checkpoint: &'a Checkpoint,
    model: &'a Model,
    places: HashMap<&'a str, usize>,
}

impl<'a> FromCheckpoint<'a> {
    /// All tensors of the plan.
    pub fn new(checkpoint: &'a Checkpoint, model: &'a Model) -> Self {
        let places = model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect();
        Self { checkpoint, model, places }
    }
}

impl Weights for FromCheckpoint<'_> {
    fn extent(&self, tensor: &str) -> Option<[usize; 3]> {
        let tensor = &self.model.tensors[*self.places.get(tensor)?];
        Some([tensor.columns() as usize, tensor.rows() as usize, tensor.slices.len()])
    }

    fn read(&self, tensor: &str, slice: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let tensor = &self.model.tensors[self.places[tensor]];
        let slice = &tensor.slices[slice];
        let values = if tensor.is_fixed() { Values::Any } else { Values::Bounded };
        let matrix = Matrix::open(self.checkpoint, &slice.tensor)?;
        let mut raw = Vec::new();
        if !slice.transposed {
            let window = slice.rows.start + rows.start as u64..slice.rows.start + rows.end as u64;
            return matrix.read(window, &mut raw, out, values);
        }
        let (columns, width) = (tensor.columns() as usize, tensor.rows() as usize);
        let mut window = vec![0.0; columns * width];
        matrix.read(slice.rows.clone(), &mut raw, &mut window, values)?;
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            for (column, out) in out.iter_mut().enumerate() {
                *out = window[column * width + row];
            }
        }
        Ok(())
    }

    fn fault(&self, tensor: &str, problem: String) -> Error {
        Error::Unsupported(format!("the plan's tensor \"{tensor}\" {problem}"))
    }
}

/// The weights of a GGUF file, whole or split, as its readers decode them.
#[derive(Debug)]
pub struct FromGguf {
    parts: Parts,
    /// File and place in it of each tensor.
    places: HashMap<String, (usize, usize)>,
}

impl FromGguf {
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

    /// The model's sizes.
    ///
    /// # Errors
    /// Those of [`Shape::of_file`].
    pub fn shape(&self) -> Result<Shape> {
        let Part { path, contents, .. } = &self.parts.files[0];
        Shape::of_file(&path.display().to_string(), contents)
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

impl Weights for FromGguf {
    fn extent(&self, tensor: &str) -> Option<[usize; 3]> {
        let (_, entry) = self.entry(tensor)?;
        Some([entry.columns(), entry.rows(), entry.slices()].map(|n| n as usize))
    }

    fn read(&self, tensor: &str, slice: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (part, entry) =
            self.entry(tensor).ok_or_else(|| self.fault(tensor, "is not there".to_owned()))?;
        let row_bytes = entry.format.row_bytes(entry.columns());
        let first = slice as u64 * entry.rows() + rows.start as u64;
        let mut blocks = vec![0; (rows.len() as u64 * row_bytes) as usize];
        part.read_at(entry.offset + first * row_bytes, &mut blocks)?;
        quant_kernels::dequantize(entry.format, &blocks, out);
        // A router's bias may shut an expert out.
        let allowed = |x: f32| x.is_finite() || (entry.format == Format::F32 && x == f32::NEG_INFINITY);
        match out.iter().position(|&x| !allowed(x)) {
            None => Ok(()),
            Some(index) => {
                let columns = entry.columns() as usize;
                let (row, column) = (first as usize + index / columns, index % columns);
                Err(self.fault(tensor, format!("holds {} at row {row}, column {column}", out[index])))
            }
        }
    }

    fn fault(&self, tensor: &str, problem: String) -> Error {
        let part = self.entry(tensor).map_or(&self.parts.files[0], |(part, _)| part);
        part.fault(format!("tensor \"{tensor}\" {problem}"))
    }
}
