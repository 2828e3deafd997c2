//! Reads slices from the checkpoint, quantizes them with feedback or without, and writes them.

use std::ops::Range;

use dense_kernels::Dense;
use quant_kernels::Format;
use rayon::iter::IndexedParallelIterator;
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::ledger::Ledger;
use crate::covariance::{Coupling, Known, MeanSquares, Metric, Taker, Watcher, encode, encode_coupled};
use crate::error::Result;
use crate::model::{TensorPlan, Weights};
use crate::pipeline::Job;
use crate::recipe::{Importances, Measured, Plan};
use crate::threads;

/// Rows that a thread encodes at a time, where they do not depend on one another.
const ROWS: usize = 64;

/// Reads and quantizes.
pub struct Press<'a> {
    /// The plan of the file.
    pub plan: &'a Plan,
    /// Importances: for the tensors that are quantized without feedback, and beside the covariances of the others.
    pub importances: &'a Importances<'a>,
    /// The weights that are quantized.
    pub original: Weights<'a>,
    /// Bytes of weights, or of covariances, that may be worked on at the same time.
    pub memory: u64,
}

/// Rows of a slice that are quantized together.
struct Band<'a> {
    tensor: usize,
    slice: usize,
    rows: Range<u64>,
    /// Of the inputs, where errors are fed back.
    metrics: &'a [Metric],
}

impl<'a> Press<'a> {
    /// For a job, with so many bytes to work in.
    pub fn new(job: &Job<'a>, memory: u64) -> Self {
        let original = Weights::new(job.store, &job.plan.model.tensors[..]);
        Self { plan: job.plan, importances: job.importances, original, memory }
    }

    /// A watcher of the tensors that `shown` picks, which quantizes into `ledger` every slice whose inputs it has collected.
    ///
    /// # Errors
    /// If their weights cannot be read.
    pub fn watcher<'b, 'c>(
        &'b self,
        ledger: &'b Ledger<'c>,
        shown: impl Fn(&TensorPlan) -> bool,
    ) -> Result<Watcher<'b, Pressing<'b, 'c>>>
    where
        'a: 'b,
    {
        let pressing = Pressing { press: self, ledger };
        Watcher::new(&self.plan.model.tensors, &self.original, pressing, self.memory, shown)
    }

    /// Quantizes with feedback those of the slices that are not written yet.
    pub fn with_feedback(&self, ledger: &Ledger, slices: &[Known]) -> Result<()> {
        let mut bands = Vec::new();
        let mut coupled = Vec::new();
        for &Known { tensor, slice, metrics, coupling, .. } in slices {
            let open = self.open_bands(ledger, tensor, slice, metrics);
            match coupling {
                Some(coupling) if !open.is_empty() => coupled.push((open, coupling)),
                _ => bands.extend(open),
            }
        }
        let bytes = |(bands, _): &(Vec<Band>, &Coupling)| {
            let tensor = &self.plan.model.tensors[bands[0].tensor];
            tensor.rows() * tensor.columns() * 9
        };
        for together in threads::groups(coupled, self.memory, bytes) {
            threads::try_map("quantize", together, |(bands, coupling)| {
                self.coupled(ledger, &bands, coupling)
            })?;
        }
        self.each(&bands, |band| {
            let weights = self.band(band)?;
            let blocks = encode(self.plan.format(band.tensor), &weights, band.metrics);
            ledger.put(band.tensor, band.slice, &band.rows, &weights, &blocks)
        })
    }

    /// Quantizes a slice of which these bands are open, and whose rows depend on one another.
    fn coupled(&self, ledger: &Ledger, bands: &[Band], coupling: &Coupling) -> Result<()> {
        let Band { tensor, slice, metrics, .. } = bands[0];
        let all = Band { tensor, slice, rows: 0..self.plan.model.tensors[tensor].rows(), metrics };
        let (weights, format) = (self.band(&all)?, self.plan.format(tensor));
        let blocks = encode_coupled(format, &weights, metrics, coupling);
        let columns = weights.columns();
        let row_bytes = format.row_bytes(columns as u64) as usize;
        bands.iter().try_for_each(|Band { rows, .. }| {
            let of = rows.start as usize..rows.end as usize;
            let some = Dense::new(columns, weights.values()[of.start * columns..of.end * columns].to_vec());
            ledger.put(tensor, slice, rows, &some, &blocks[of.start * row_bytes..of.end * row_bytes])
        })
    }

    /// Quantizes without feedback what is not written yet of the tensors that `which` picks.
    pub fn plainly(&self, ledger: &Ledger, which: impl Fn(&TensorPlan, Format) -> bool) -> Result<()> {
        let mut bands = Vec::new();
        for (tensor, plan) in ledger.tensors() {
            if which(plan, self.plan.format(tensor)) {
                for slice in ledger.open_slices(tensor) {
                    bands.extend(self.open_bands(ledger, tensor, slice, &[]));
                }
            }
        }
        self.each(&bands, |band| {
            let importance = self.importances.slice(&self.plan.model, band.tensor, band.slice)?;
            let (weights, format) = (self.band(band)?, self.plan.format(band.tensor));
            let columns = weights.columns();
            let row_bytes = format.row_bytes(columns as u64) as usize;
            let mut blocks = vec![0; weights.rows() * row_bytes];
            let rows =
                weights.values().par_chunks(ROWS * columns).zip(blocks.par_chunks_mut(ROWS * row_bytes));
            threads::each("encode plainly", rows, |(weights, blocks)| {
                quant_kernels::quantize(format, weights, columns, importance.as_deref(), blocks);
            });
            ledger.put(band.tensor, band.slice, &band.rows, &weights, &blocks)
        })
    }

    /// What is not written of a slice.
    fn open_bands<'m>(
        &self,
        ledger: &Ledger,
        tensor: usize,
        slice: usize,
        metrics: &'m [Metric],
    ) -> Vec<Band<'m>> {
        let band = |rows| Band { tensor, slice, rows, metrics };
        ledger.bands(tensor, slice).into_iter().map(band).collect()
    }

    /// Works on bands, as many at the same time as memory has room for.
    fn each(&self, bands: &[Band], work: impl Fn(&Band) -> Result<()> + Send + Sync) -> Result<()> {
        let bytes = |band: &&Band| {
            // The weights, and their blocks.
            let columns = self.plan.model.tensors[band.tensor].columns();
            (band.rows.end - band.rows.start) * columns * 5
        };
        for together in threads::groups(bands, self.memory, bytes) {
            threads::try_map("quantize", together, &work)?;
        }
        Ok(())
    }

    /// Some rows of a slice.
    fn band(&self, band: &Band) -> Result<Dense> {
        let rows = band.rows.start as usize..band.rows.end as usize;
        self.original.band(&self.plan.model.tensors[band.tensor].name, band.slice, rows)
    }
}

/// Quantizes the slices whose covariances have been collected and factored.
pub struct Pressing<'a, 'b> {
    /// Reads and encodes slices.
    pub press: &'a Press<'a>,
    /// Writes them and records what was written.
    pub ledger: &'a Ledger<'b>,
}

impl Taker for Pressing<'_, '_> {
    fn wants(&self, tensor: usize, slice: usize) -> bool {
        self.ledger.is_open(tensor, slice)
    }

    fn bits(&self, tensor: usize) -> Option<f64> {
        Some(self.press.plan.format(tensor).bits_per_weight())
    }

    fn mean_squares(&self, tensor: usize, slice: usize) -> Result<Option<MeanSquares>> {
        let Press { plan, importances, .. } = self.press;
        let measured = importances.measured(&plan.model, tensor, slice)?;
        Ok(measured.map(|Measured { values, tokens }| MeanSquares { values, tokens }))
    }

    fn take(&self, known: &[Known]) -> Result<()> {
        self.press.with_feedback(self.ledger, known)
    }

    fn go_on(&self) -> Result<()> {
        self.ledger.go_on()
    }
}
