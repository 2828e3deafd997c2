//! One slice at a time: read from the checkpoint, quantized with feedback or without, written.

use std::collections::HashMap;
use std::ops::Range;

use dense_kernels::Dense;
use quant_kernels::Format;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::covariance::Metric;
use super::encode::encode;
use super::ledger::Ledger;
use crate::error::Result;
use crate::forward::{FromCheckpoint, Weights};
use crate::recipe::{Importances, Plan};

/// Threads that one matrix keeps busy, about.
const THREADS_OF_A_MATRIX: usize = 4;

/// The segments of a covariance, factored.
pub fn metrics(covariance: Vec<Dense>) -> Result<Vec<Metric>> {
    covariance.into_iter().map(Metric::new).collect()
}

/// Reads and quantizes.
pub struct Press<'a> {
    /// What is to be made.
    pub plan: &'a Plan,
    /// For what has no feedback.
    pub importances: &'a Importances<'a>,
    /// The tensors of the plan, by name.
    pub places: &'a HashMap<&'a str, usize>,
    /// The checkpoint's weights.
    pub original: FromCheckpoint<'a>,
}

impl Press<'_> {
    /// Slices (a tensor, the slice, the metrics of its inputs) as far as they are open. A few of them are worked on together,
    /// since the rows of one do not keep many threads busy.
    pub fn with_feedback(&self, ledger: &mut Ledger, slices: &[(usize, usize, &[Metric])]) -> Result<()> {
        let mut bands = Vec::new();
        for &(tensor, slice, metrics) in
            slices.iter().filter(|(tensor, slice, _)| ledger.is_open(*tensor, *slice))
        {
            bands.extend(ledger.bands(tensor, slice).into_iter().map(|band| (tensor, slice, band, metrics)));
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
    pub fn plainly(&self, ledger: &mut Ledger, which: impl Fn(&str, Format) -> bool) -> Result<()> {
        for (tensor, plan) in self.plan.model.tensors.iter().enumerate() {
            let format = self.plan.format(tensor);
            if !which(&plan.name, format) {
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
