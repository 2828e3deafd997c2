//! Reads slices from the checkpoint, quantizes them with feedback or without, and writes them.

use std::ops::Range;

use dense_kernels::Dense;
use quant_kernels::Format;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::ledger::Ledger;
use crate::covariance::{Known, Metric, Taker, Watcher, encode};
use crate::error::Result;
use crate::model::{TensorPlan, Weights};
use crate::recipe::{Importances, Plan};

/// Threads that one matrix keeps busy, about.
const THREADS_OF_A_MATRIX: usize = 4;

/// Reads and quantizes.
pub struct Press<'a> {
    /// The plan of the file.
    pub plan: &'a Plan,
    /// Importances for the tensors that are quantized without feedback.
    pub importances: &'a Importances<'a>,
    /// The weights that are quantized.
    pub original: Weights<'a>,
}

impl<'a> Press<'a> {
    /// A watcher that quantizes into `ledger` every slice whose inputs it has collected.
    pub fn watcher<'b, 'c>(&'b self, ledger: &'b mut Ledger<'c>, memory: u64) -> Watcher<'b, Pressing<'b, 'c>>
    where
        'a: 'b,
    {
        Watcher::new(&self.plan.model.tensors, Pressing { press: self, ledger }, memory)
    }

    /// Quantizes with feedback those of the slices that are not written yet. A few are encoded at once, since the
    /// rows of one slice do not keep many threads busy.
    pub fn with_feedback(&self, ledger: &mut Ledger, slices: &[Known]) -> Result<()> {
        let mut bands: Vec<(usize, usize, Range<u64>, &[Metric])> = Vec::new();
        for &Known { tensor, slice, metrics, .. } in slices {
            if ledger.is_open(tensor, slice) {
                let open = ledger.bands(tensor, slice);
                bands.extend(open.into_iter().map(|band| (tensor, slice, band, metrics)));
            }
        }
        for bands in bands.chunks(rayon::current_num_threads().div_ceil(THREADS_OF_A_MATRIX)) {
            let encoded = bands.par_iter().map(|(tensor, slice, band, metrics)| {
                let weights = self.band(*tensor, *slice, band)?;
                let blocks = encode(self.plan.format(*tensor), &weights, metrics);
                Ok((weights, blocks))
            });
            let encoded: Vec<(Dense, Vec<u8>)> = encoded.collect::<Result<_>>()?;
            for ((tensor, slice, band, _), (weights, blocks)) in bands.iter().zip(encoded) {
                ledger.put(*tensor, *slice, band.clone(), &weights, &blocks)?;
            }
        }
        Ok(())
    }

    /// Quantizes without feedback what is not written yet of the tensors that `which` picks.
    pub fn plainly(&self, ledger: &mut Ledger, which: impl Fn(&TensorPlan, Format) -> bool) -> Result<()> {
        for (tensor, plan) in self.plan.model.tensors.iter().enumerate() {
            let format = self.plan.format(tensor);
            if !which(plan, format) {
                continue;
            }
            for slice in ledger.open_slices(tensor) {
                let importance = self.importances.slice(&self.plan.model, tensor, slice)?;
                for band in ledger.bands(tensor, slice) {
                    let weights = self.band(tensor, slice, &band)?;
                    let (rows, columns) = (weights.rows(), weights.columns());
                    let mut blocks = vec![0; rows * format.row_bytes(columns as u64) as usize];
                    let importance = importance.as_deref();
                    quant_kernels::quantize(format, weights.values(), columns, importance, &mut blocks);
                    ledger.put(tensor, slice, band, &weights, &blocks)?;
                }
            }
        }
        Ok(())
    }

    /// Some rows of a slice.
    fn band(&self, tensor: usize, slice: usize, band: &Range<u64>) -> Result<Dense> {
        let plan = &self.plan.model.tensors[tensor];
        let rows = band.start as usize..band.end as usize;
        let mut weights = Dense::zeros(rows.len(), plan.columns() as usize);
        self.original.read(&plan.name, slice, rows, weights.values_mut())?;
        Ok(weights)
    }
}

/// Quantizes the slices whose covariances have been collected and factored.
pub struct Pressing<'a, 'b> {
    /// Reads and encodes slices.
    pub press: &'a Press<'a>,
    /// Writes them and records what was written.
    pub ledger: &'a mut Ledger<'b>,
}

impl Taker for Pressing<'_, '_> {
    fn wants(&self, tensor: usize, slice: usize) -> bool {
        self.ledger.is_open(tensor, slice)
    }

    fn take(&mut self, known: &[Known]) -> Result<()> {
        self.press.with_feedback(self.ledger, known)
    }

    fn go_on(&self) -> Result<()> {
        self.ledger.go_on()
    }
}
