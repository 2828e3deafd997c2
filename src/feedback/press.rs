//! One slice at a time: read from the checkpoint, quantized with feedback or without, written.

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
    /// What is to be made.
    pub plan: &'a Plan,
    /// For what has no feedback.
    pub importances: &'a Importances<'a>,
    /// The weights that are quantized.
    pub original: Weights<'a>,
}

impl<'a> Press<'a> {
    /// Quantizes into `ledger` what it sees the inputs of.
    pub fn watcher<'b, 'c>(&'b self, ledger: &'b mut Ledger<'c>, memory: u64) -> Watcher<'b, Pressing<'b, 'c>>
    where
        'a: 'b,
    {
        Watcher::new(&self.plan.model.tensors, Pressing { press: self, ledger }, memory)
    }

    /// Slices whose inputs are known, as far as they are open. A few of them are worked on together, since the rows of one
    /// do not keep many threads busy.
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

    /// What is open of the tensors that `which` picks, as without feedback.
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

/// Quantizes what becomes known.
pub struct Pressing<'a, 'b> {
    /// By this.
    pub press: &'a Press<'a>,
    /// Into this.
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
