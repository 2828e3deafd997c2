//! The errors of really quantizing a sample of each tensor's rows in each type, weighted by importances.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use quant_kernels::Format;
use rayon::prelude::*;

use super::alignment::{Inner, alignment};
use super::sample::{Sample, sample};
use super::{Measured, Table};
use crate::checkpoint::{Fingerprint, Values};
use crate::deviation::Deviation;
use crate::error::{Error, Result, Warning};
use crate::model::{Gated, Model, Role, TensorPlan};
use crate::progress::{More, Told};
use crate::recipe::{Imatrix, Importances, Origin, fitting};
use crate::store::{Buffers, Slice, Store};

/// The input of the measurement: the weights to sample, and the types that are tried on them.
#[derive(Clone, Copy, Debug)]
pub struct Sampling<'a> {
    /// Where the weights are.
    pub store: &'a dyn Store,
    /// The tensors that they become.
    pub model: &'a Model,
    /// What the checkpoint holds.
    pub source: &'a Fingerprint,
    /// Measured importances.
    pub imatrix: Option<&'a Imatrix>,
    /// Types; where a tensor's rows do not fit one, what they fit instead is tried.
    pub types: &'a [Format],
    /// Becomes true when the user wants to stop.
    pub stop: &'a AtomicBool,
}

/// Measures all tensors whose type can be chosen, and says which seem to be damaged. The result does not depend on
/// the number of threads. `told` hears of tensors.
///
/// # Errors
/// If a sample cannot be read, or holds weights that no format can, or the user stops the work.
pub fn measure(sampling: &Sampling, told: Told<'_>) -> Result<(Table, Vec<Warning>)> {
    let Sampling { store, model, source, imatrix, .. } = *sampling;
    let needed: Vec<bool> = model.tensors.iter().map(|tensor| !tensor.is_fixed()).collect();
    let importances = Importances::of(store, model, &needed, imatrix)?;
    let job = Job { sampling, importances: &importances };
    let open: Vec<usize> = (0..needed.len()).filter(|&tensor| needed[tensor]).collect();
    let all = open.len() as u64;
    let one = |tensor: usize| {
        let (measured, bytes, warning) = job.tensor(tensor)?;
        told(More { of: &measured.name, done: 1, all, bytes });
        Ok((measured, bytes, warning))
    };
    let measured: Vec<(Measured, u64, Option<Warning>)> =
        open.into_par_iter().map(one).collect::<Result<_>>()?;
    let mut bytes = measured.iter().map(|(_, bytes, _)| bytes).sum();
    let warnings = measured.iter().filter_map(|(_, _, warning)| warning.clone()).collect();
    let mut tensors: Vec<Measured> = measured.into_iter().map(|(measured, ..)| measured).collect();
    let aligned: Vec<Option<(Ffn, f64, u64)>> =
        ffns(model).into_par_iter().map(|ffn| job.alignment(ffn)).collect::<Result<_>>()?;
    for (ffn, alignment, read) in aligned.into_iter().flatten() {
        bytes += read;
        for index in [ffn.gate, ffn.up] {
            let name = &model.tensors[index].name;
            let entry = tensors.iter_mut().find(|entry| entry.name == *name);
            entry.expect("every open tensor is measured").alignment = Some(alignment);
        }
    }
    Ok((Table::new(source, imatrix.map(Imatrix::fingerprint), bytes, tensors), warnings))
}

/// The types that are tried on a tensor, each once.
pub fn formats(tensor: &TensorPlan, types: &[Format]) -> Vec<Format> {
    let mut formats: Vec<Format> = Vec::new();
    for &wanted in types {
        let format = fitting(wanted, tensor.columns());
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    formats
}

/// Places of the three tensors of an FFN in the model.
#[derive(Clone, Copy, Debug)]
struct Ffn {
    gate: usize,
    up: usize,
    down: usize,
}

fn ffns(model: &Model) -> Vec<Ffn> {
    let with = |gate: &TensorPlan, gated: Gated| {
        let other = |tensor: &TensorPlan| {
            (tensor.layer, tensor.role, tensor.part.gated) == (gate.layer, gate.role, Some(gated))
        };
        model.tensors.iter().position(other)
    };
    let ffn = |(gate, tensor): (usize, &TensorPlan)| {
        let is_gate = !tensor.is_fixed() && tensor.part.gated == Some(Gated::Gate);
        is_gate.then(|| Some(Ffn { gate, up: with(tensor, Gated::Up)?, down: with(tensor, Gated::Down)? }))?
    };
    model.tensors.iter().enumerate().filter_map(ffn).collect()
}

struct Job<'a> {
    sampling: &'a Sampling<'a>,
    importances: &'a Importances<'a>,
}

impl Job<'_> {
    fn go_on(&self) -> Result<()> {
        if self.sampling.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// One tensor, the bytes that were read for it, and whether it seems to be damaged.
    fn tensor(&self, index: usize) -> Result<(Measured, u64, Option<Warning>)> {
        let tensor = &self.sampling.model.tensors[index];
        let columns = tensor.columns() as usize;
        let formats = formats(tensor, self.sampling.types);
        let mut sums = vec![[0.0; 2]; formats.len()];
        let (mut energy, mut bytes, mut row) = (0.0, 0, Vec::new());
        let samples = sample(tensor);
        let slices = samples.len() as f64;
        let mut zeros = Vec::new();
        for sample in samples {
            self.go_on()?;
            let (weights, read) = self.rows(&tensor.slices[sample.slice], tensor, &sample)?;
            bytes += read;
            if weights.iter().all(|&weight| weight == 0.0) {
                zeros.push(sample.slice);
            }
            let importance = self.importances.slice(self.sampling.model, index, sample.slice)?;
            let importance = importance.as_deref();
            let rows = sample.rows.len() as u64;
            let share = self.share(tensor, sample.slice);
            let mut blocks = Vec::new();
            for (format, sums) in formats.iter().zip(&mut sums) {
                blocks.resize((rows * format.row_bytes(tensor.columns())) as usize, 0);
                quant_kernels::quantize(*format, &weights, columns, importance, &mut blocks);
                let found = Deviation::of(*format, &weights, columns, importance, &blocks, &mut row);
                sums[0] += share * found.weighted_error;
                sums[1] += share * found.weighted_energy;
            }
            if let Some(last) = sums.last() {
                energy = last[1] * tensor.rows() as f64 / rows as f64;
            }
        }
        // Of the embedding, a token takes one row.
        energy *= match tensor.role {
            Role::Embedding => 1.0 / tensor.rows() as f64,
            _ => tensor.slices.len() as f64 / slices,
        };
        let known = tensor.role == Role::Embedding
            || matches!(self.importances.origin(index), Origin::Imatrix { .. });
        let error = |[error, energy]: [f64; 2]| if energy > 0.0 { error / energy } else { 0.0 };
        let errors: BTreeMap<String, f64> =
            formats.iter().zip(sums).map(|(format, sums)| (format.to_string(), error(sums))).collect();
        let measured = Measured {
            name: tensor.name.clone(),
            energy: known.then_some(energy),
            alignment: None,
            gradient: None,
            errors,
            with_feedback: BTreeMap::new(),
        };
        Ok((measured, bytes, self.damage(tensor, &zeros, slices as usize)))
    }

    /// The warning for slices of which all sampled rows are zero. Not of embedding and head, which have rows for ids
    /// that no text has.
    fn damage(&self, tensor: &TensorPlan, zeros: &[usize], slices: usize) -> Option<Warning> {
        let first = zeros.first().filter(|_| !matches!(tensor.role, Role::Embedding | Role::Output))?;
        let name = &tensor.slices[*first].tensor;
        let problem = format!(
            "holds zeros only in all rows that were looked at, as do {} of the {slices} slices sampled of {}: a trained model has \
             none, so the file may be damaged",
            zeros.len(),
            tensor.name
        );
        Some(Warning::new(self.sampling.store.fault(name, problem)))
    }

    /// The alignment of gate and up, and the bytes that were read for it; None where the importances of one of the
    /// three are not measured.
    fn alignment(&self, ffn: Ffn) -> Result<Option<(Ffn, f64, u64)>> {
        let measured = |tensor| matches!(self.importances.origin(tensor), Origin::Imatrix { .. });
        if ![ffn.gate, ffn.up, ffn.down].into_iter().all(measured) {
            return Ok(None);
        }
        let [gate, up] = [ffn.gate, ffn.up].map(|tensor| &self.sampling.model.tensors[tensor]);
        let (mut inner, mut bytes) = (Vec::new(), 0);
        for sample in sample(gate) {
            self.go_on()?;
            let input = self.importances.slice(self.sampling.model, ffn.gate, sample.slice)?;
            let output = self.importances.slice(self.sampling.model, ffn.down, sample.slice)?;
            let (Some(input), Some(output)) = (input, output) else { continue };
            let share = self.share(gate, sample.slice);
            let mut energies = [gate, up].into_iter().map(|tensor| {
                let (weights, read) = self.rows(&tensor.slices[sample.slice], tensor, &sample)?;
                bytes += read;
                let row =
                    |row: &[f32]| row.iter().zip(&*input).map(|(w, x)| f64::from(w * w * x)).sum::<f64>();
                Ok(weights.chunks_exact(input.len()).map(row).collect::<Vec<f64>>())
            });
            let gates: Vec<f64> = energies.next().expect("two")?;
            let ups: Vec<f64> = energies.next().expect("two")?;
            for ((gate, up), &row) in gates.into_iter().zip(ups).zip(&sample.rows) {
                inner.push(Inner { share, gate, up, product: output[row as usize].into() });
            }
        }
        Ok(alignment(&inner).map(|alignment| (ffn, alignment, bytes)))
    }

    /// The sampled rows of a slice, and the bytes that were read for them.
    fn rows(&self, slice: &Slice, tensor: &TensorPlan, sample: &Sample) -> Result<(Vec<f32>, u64)> {
        let columns = tensor.columns() as usize;
        let mut weights = vec![0.0; sample.rows.len() * columns];
        let (matrix, mut buffers) = (self.sampling.store.open(&slice.tensor)?, Buffers::default());
        let bytes = slice.read_some(&*matrix, &sample.rows, Values::Bounded, &mut buffers, &mut weights)?;
        Ok((weights, bytes))
    }

    /// How much a slice's output counts: for a routed expert, its share of tokens times the squared weight that the
    /// router gives it (taking the weights of a token's experts as equal); else 1.
    fn share(&self, tensor: &TensorPlan, slice: usize) -> f64 {
        if tensor.role != Role::Experts {
            return 1.0;
        }
        let [count, used] = self.sampling.model.experts.map(f64::from);
        let experts = self.sampling.model.description.as_ref().and_then(|model| model.experts.as_ref());
        let scale = experts.map_or(1.0, |experts| f64::from(experts.router.scale));
        let even = used / count;
        let tokens =
            self.sampling.imatrix.and_then(|imatrix| imatrix.tokens(&tensor.name, tensor.slices.len()));
        let seen = match tokens {
            // An expert without a token counts as if it had one: it is rare, not useless.
            Some(tokens) => {
                let all: f64 = tokens.iter().map(|&n| f64::from(n).max(1.0)).sum();
                f64::from(tokens[slice]).max(1.0) / all * used
            }
            None => even,
        };
        seen * (scale / used).powi(2)
    }
}
