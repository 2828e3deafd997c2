//! The tensors of a model as matrices: rows of a store, found by the name of the tensor in GGUF.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use dense_kernels::Dense;
use quant_kernels::Format;
use rayon::iter::IndexedParallelIterator;
use rayon::slice::ParallelSliceMut;

use super::{TensorPlan, scales};
use crate::checkpoint::Values;
use crate::error::{Error, Result};
use crate::progress::{More, Told};
use crate::store::{Buffers, Rows, Store};
use crate::threads;

/// Weights that a thread decodes at a time.
const PIECE: usize = 1 << 20;

/// Tensors, and the store that their slices are in.
#[derive(Clone)]
pub struct Weights<'a> {
    store: &'a dyn Store,
    tensors: Cow<'a, [TensorPlan]>,
    /// Places of the tensors, by name.
    places: HashMap<String, usize>,
    /// Places of the factors that a file has beside blocks, by those of the tensors.
    factors: HashMap<usize, usize>,
    stop: Option<&'a AtomicBool>,
    told: Option<Told<'a>>,
}

/// The stored matrix of a slice, and what its weights are multiplied by.
struct Opened<'a> {
    rows: Box<dyn Rows + 'a>,
    factor: f32,
}

impl<'a> Weights<'a> {
    /// The tensors of a plan in the store that it was made for, or [as they are written](TensorPlan::as_written) in the
    /// store of the file.
    pub fn new(store: &'a dyn Store, tensors: impl Into<Cow<'a, [TensorPlan]>>) -> Self {
        let tensors = tensors.into();
        let places: HashMap<String, usize> =
            tensors.iter().enumerate().map(|(place, tensor)| (tensor.name.clone(), place)).collect();
        let factors = scales::of_file(&tensors, &places);
        Self { store, tensors, places, factors, stop: None, told: None }
    }

    /// Nothing is read any more once `stop` is true; reading is then [`Error::Interrupted`].
    #[must_use]
    pub fn until(self, stop: &'a AtomicBool) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// Tells of weights that are read, and how many their tensor has.
    #[must_use]
    pub fn telling(self, told: Told<'a>) -> Self {
        Self { told: Some(told), ..self }
    }

    /// The tensors of the model, in the plan's order.
    pub fn tensors(&self) -> &[TensorPlan] {
        &self.tensors
    }

    /// The place of a tensor among them.
    pub fn place(&self, tensor: &str) -> Option<usize> {
        self.places.get(tensor).copied()
    }

    /// The tensor of this name.
    pub fn find(&self, tensor: &str) -> Option<&TensorPlan> {
        self.place(tensor).map(|place| &self.tensors[place])
    }

    /// Fills `out` with rows of one slice (expert or head).
    ///
    /// # Errors
    /// If the tensor is not there, the rows cannot be read, or they hold a value that is no weight.
    pub fn read(&self, tensor: &str, slice: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let tensor = self.get(tensor)?;
        self.read_from(&self.open(tensor, slice)?, tensor, slice, rows, out)
    }

    /// Some single rows of a slice, in the order of the list.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn rows(&self, tensor: &str, slice: usize, rows: &[u64]) -> Result<Dense> {
        let tensor = self.get(tensor)?;
        let Opened { rows: matrix, factor } = self.open(tensor, slice)?;
        let mut out = Dense::to_fill(rows.len(), tensor.columns() as usize);
        let (values, mut buffers) = (values(tensor), Buffers::default());
        tensor.slices[slice].read_some(&*matrix, rows, values, &mut buffers, out.values_mut())?;
        multiply(out.values_mut(), factor);
        Ok(out)
    }

    /// One slice as a matrix of `[rows, columns]`, decoded on all threads of the pool.
    ///
    /// # Errors
    /// As [`read`](Self::read), and if it has another shape.
    pub fn matrix(&self, tensor: &str, slice: usize, [height, width]: [usize; 2]) -> Result<Dense> {
        self.check(tensor, slice, [height, width])?;
        self.band(tensor, slice, 0..height)
    }

    /// Some rows of a slice, decoded on all threads of the pool.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn band(&self, tensor: &str, slice: usize, rows: Range<usize>) -> Result<Dense> {
        let tensor = self.get(tensor)?;
        let opened = self.open(tensor, slice)?;
        let (height, width) = (rows.len(), tensor.columns() as usize);
        let mut band = Dense::to_fill(height, width);
        let step = (PIECE / width).clamp(1, height.max(1)) as u64;
        let step = tensor.slices[slice].step(step, height.max(1) as u64) as usize;
        let pieces = band.values_mut().par_chunks_mut(step * width).enumerate();
        threads::try_map("read", pieces, |(piece, out)| {
            let first = rows.start + piece * step;
            self.read_from(&opened, tensor, slice, first..first + out.len() / width, out)
        })?;
        Ok(band)
    }

    /// A vector of this length.
    ///
    /// # Errors
    /// Those of [`matrix`](Self::matrix).
    pub fn vector(&self, tensor: &str, length: usize) -> Result<Dense> {
        self.matrix(tensor, 0, [1, length])
    }

    /// Makes sure that the tensor has this slice, of `[rows, columns]`.
    ///
    /// # Errors
    /// If it has not.
    pub fn check(&self, tensor: &str, slice: usize, [rows, columns]: [usize; 2]) -> Result<()> {
        let found = self.get(tensor)?;
        let (c, r, slices) = (found.columns() as usize, found.rows() as usize, found.slices.len());
        if (r, c) == (rows, columns) && slice < slices {
            return Ok(());
        }
        let problem =
            format!("is {slices} x {r} x {c}; expected {rows} x {columns}, at least {} times", slice + 1);
        Err(self.store.fault(tensor, problem))
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// If it is not there.
    pub fn get(&self, tensor: &str) -> Result<&TensorPlan> {
        self.find(tensor).ok_or_else(|| self.store.fault(tensor, "is not there".to_owned()))
    }

    /// The stored matrix of a slice.
    fn open(&self, tensor: &TensorPlan, slice: usize) -> Result<Opened<'_>> {
        self.go_on()?;
        let rows = self.store.open(&tensor.slices[slice].tensor)?;
        let place = self.place(&tensor.name).and_then(|place| self.factors.get(&place));
        let factor = place.map_or(Ok(1.0), |place| self.factor(&self.tensors[*place], slice))?;
        Ok(Opened { rows, factor })
    }

    /// The factor of a slice: that of all, or its own.
    fn factor(&self, factors: &TensorPlan, slice: usize) -> Result<f32> {
        let mut all = vec![0.0; factors.columns() as usize];
        let (of, mut buffers) = (&factors.slices[0], Buffers::default());
        of.read(&*self.store.open(&of.tensor)?, 0..1, Values::Finite, &mut buffers, &mut all)?;
        Ok(if all.len() == 1 { all[0] } else { all[slice] })
    }

    fn go_on(&self) -> Result<()> {
        match self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(Error::Interrupted),
            _ => Ok(()),
        }
    }

    fn read_from(
        &self,
        matrix: &Opened,
        tensor: &TensorPlan,
        slice: usize,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        self.go_on()?;
        let rows = rows.start as u64..rows.end as u64;
        tensor.slices[slice].read(&*matrix.rows, rows, values(tensor), &mut Buffers::default(), out)?;
        multiply(out, matrix.factor);
        if let Some(told) = self.told {
            let (done, stored) = (out.len() as u64, matrix.rows.stored());
            let bytes = done * stored.row_bytes / stored.columns.max(1);
            told(More { of: &tensor.name, done, all: tensor.weights(), bytes });
        }
        Ok(())
    }
}

fn multiply(weights: &mut [f32], factor: f32) {
    if factor != 1.0 {
        weights.iter_mut().for_each(|weight| *weight *= factor);
    }
}

/// The values that the weights of a tensor may have.
fn values(tensor: &TensorPlan) -> Values {
    if tensor.is_fixed() { tensor.values(Format::F32) } else { Values::Bounded }
}
