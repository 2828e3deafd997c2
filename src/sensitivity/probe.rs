//! Errors of sampled rows in every type on the covariances of real inputs, with feedback and without, while a text
//! goes through the model.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use dense_kernels::Dense;
use quant_kernels::Format;
use serde::{Deserialize, Serialize};

use super::Added;
use super::measure::formats;
use super::sample::{Sample, sample_of_few};
use crate::covariance::{Known, MeanSquares, Metric, Taker, encode, energies};
use crate::error::Result;
use crate::forward::{States, Weights};
use crate::model::{Half, Model};
use crate::threads;

/// Tokens whose states are compared at a time.
const BATCH: usize = 256;

/// What was measured on a text in some layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// Their blocks.
    pub blocks: Vec<Added>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Sums>,
}

impl Probed {
    /// Adds what was found of other layers.
    pub fn add(&mut self, other: Self) {
        self.blocks.extend(other.blocks);
        self.tensors.extend(other.tensors);
    }
}

/// Sums over sampled rows, each slice as often as tokens went there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Energy of what the rows give, with all columns of the input as independent.
    pub independent: f64,
    /// As it really is.
    pub real: f64,
    /// Energy of the errors in each type, with feedback.
    pub errors: BTreeMap<String, f64>,
}

/// Takes the metrics of the sampled slices.
pub struct Probe<'a> {
    model: &'a Model,
    weights: &'a Weights<'a>,
    types: &'a [Format],
    /// The sampled rows, by tensor and slice.
    samples: HashMap<(usize, usize), Sample>,
    /// What was measured of them.
    measured: Mutex<BTreeMap<(usize, usize), Sums>>,
    found: Probed,
}

impl<'a> Probe<'a> {
    /// For all tensors whose type can be chosen.
    pub fn new(model: &'a Model, weights: &'a Weights<'a>, types: &'a [Format]) -> Self {
        let mut samples = HashMap::new();
        for (index, tensor) in model.tensors.iter().enumerate().filter(|(_, tensor)| !tensor.is_fixed()) {
            samples.extend(sample_of_few(tensor).into_iter().map(|sample| ((index, sample.slice), sample)));
        }
        Self { model, weights, types, samples, measured: Mutex::default(), found: Probed::default() }
    }

    /// What was found so far; it is empty again.
    pub fn take_found(&mut self) -> Probed {
        let measured =
            std::mem::take(&mut *self.measured.lock().expect("no thread panics while it has the list"));
        // In the order of the slices, whichever was measured first, since that decides how sums are rounded.
        for ((tensor, _), found) in measured {
            let sums = self.found.tensors.entry(self.model.tensors[tensor].name.clone()).or_default();
            sums.independent += found.independent;
            sums.real += found.real;
            for (format, error) in found.errors {
                *sums.errors.entry(format).or_default() += error;
            }
        }
        std::mem::take(&mut self.found)
    }

    /// Notes what a block made of the residual stream.
    ///
    /// # Errors
    /// If the states cannot be read.
    pub fn block(&mut self, layer: u32, half: Half, before: &mut States, after: &mut States) -> Result<()> {
        let mut sum = 0.0;
        for start in (0..after.rows()).step_by(BATCH) {
            let rows = start..after.rows().min(start + BATCH);
            let (before, after) = (before.read(rows.clone())?, after.read(rows)?);
            for (before, after) in before
                .values()
                .chunks_exact(before.columns())
                .zip(after.values().chunks_exact(before.columns()))
            {
                let energy = |values: &mut dyn Iterator<Item = f32>| {
                    values.map(|x| f64::from(x) * f64::from(x)).sum::<f64>()
                };
                let added = energy(&mut before.iter().zip(after).map(|(before, after)| after - before));
                sum += added / energy(&mut after.iter().copied()).max(f64::MIN_POSITIVE);
            }
        }
        self.found.blocks.push(Added { layer, ffn: half == Half::Ffn, share: sum / after.rows() as f64 });
        Ok(())
    }

    fn slice(&self, sample: &Sample, known: &Known) -> Result<Sums> {
        let tensor = &self.model.tensors[known.tensor];
        let columns = tensor.columns() as usize;
        let weights = self.weights.rows(&tensor.name, known.slice, &sample.rows)?;
        let tokens = known.tokens as f64;
        let total = |rows: &Dense| tokens * energies(rows, known.metrics).iter().sum::<f64>();
        let variances: Vec<f32> =
            known.metrics.iter().flat_map(|metric: &Metric| &metric.variances).copied().collect();
        let independent: f64 = weights
            .values()
            .chunks_exact(columns)
            .map(|row| row.iter().zip(&variances).map(|(w, v)| f64::from(w * w) * f64::from(*v)).sum::<f64>())
            .sum();
        let error = |format: Format| {
            let blocks = encode(format, &weights, known.metrics);
            let mut errors = Dense::zeros(weights.rows(), columns);
            quant_kernels::dequantize(format, &blocks, errors.values_mut());
            let each = errors.values_mut().iter_mut().zip(weights.values());
            each.for_each(|(error, weight)| *error = weight - *error);
            (format.to_string(), total(&errors))
        };
        let errors = threads::map("type", formats(tensor, self.types), error).into_iter().collect();
        Ok(Sums { independent: tokens * independent, real: total(&weights), errors })
    }
}

impl Taker for &Probe<'_> {
    fn wants(&self, tensor: usize, slice: usize) -> bool {
        self.samples.contains_key(&(tensor, slice))
    }

    fn bits(&self, _tensor: usize) -> Option<f64> {
        // Several types are tried with one factor.
        None
    }

    fn mean_squares(&self, _tensor: usize, _slice: usize) -> Result<Option<MeanSquares>> {
        // The importance matrix is made of the same text.
        Ok(None)
    }

    fn take(&self, known: &[Known]) -> Result<()> {
        let sampled: Vec<(&Known, &Sample)> = known
            .iter()
            .filter_map(|known| Some((known, self.samples.get(&(known.tensor, known.slice))?)))
            .collect();
        let sums =
            threads::try_map("types of a sample", &sampled, |(known, sample)| self.slice(sample, known))?;
        let places = sampled.iter().map(|(known, _)| (known.tensor, known.slice));
        self.measured.lock().expect("no thread panics while it has the list").extend(places.zip(sums));
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        Ok(())
    }
}
