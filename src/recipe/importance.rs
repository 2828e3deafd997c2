//! The importances of every slice: measured ones, the layer's mean for experts without data, or the squared gains of
//! the norm.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{Choice, Imatrix};
use crate::checkpoint::Values;
use crate::deviation::LARGEST_IMPORTANCE;
use crate::error::{Result, Warning};
use crate::model::{Model, TensorPlan};
use crate::store::Store;

/// Where a tensor's importances come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The importance matrix, in which `unseen` slices have no data and get the mean of the others.
    Imatrix {
        /// Slices without data.
        unseen: usize,
    },
    /// The squared gains of the norm before: what the mean squared input is when the normalised input is even.
    Norm,
    /// All columns alike.
    Even,
}

/// Importances for all tensors; those of an imatrix are read when a slice needs them.
#[derive(Debug)]
pub struct Importances<'a> {
    imatrix: Option<&'a Imatrix>,
    tensors: Vec<Tensor>,
    warnings: Vec<Warning>,
}

#[derive(Debug)]
struct Tensor {
    origin: Origin,
    /// For slices that the imatrix does not have: the mean of the others, or the norm's.
    fallback: Option<Arc<[f32]>>,
}

/// What an importance matrix says of one slice.
#[derive(Debug)]
pub struct Measured {
    /// One for each column.
    pub values: Arc<[f32]>,
    /// Tokens that reached the slice, where the file says.
    pub tokens: Option<f32>,
}

impl<'a> Importances<'a> {
    /// Finds the importances of every tensor that a block format is chosen for, and checks them.
    ///
    /// # Errors
    /// If the imatrix belongs to another model (sizes differ), holds impossible values, or a norm cannot be read.
    pub fn prepare(
        store: &dyn Store,
        model: &Model,
        choices: &[Choice],
        imatrix: Option<&'a Imatrix>,
    ) -> Result<Self> {
        let needed: Vec<bool> = choices.iter().map(|choice| !choice.format.is_float()).collect();
        Self::of(store, model, &needed, imatrix)
    }

    /// [`prepare`](Self::prepare) for the tensors that are `needed`, in the model's order.
    ///
    /// # Errors
    /// As for [`prepare`](Self::prepare).
    pub fn of(
        store: &dyn Store,
        model: &Model,
        needed: &[bool],
        imatrix: Option<&'a Imatrix>,
    ) -> Result<Self> {
        let even = || Tensor { origin: Origin::Even, fallback: None };
        // Several matrices read what one norm gives.
        let mut gains: HashMap<&str, Arc<[f32]>> = HashMap::new();
        let tensors = model.tensors.iter().zip(needed).map(|(tensor, needed)| {
            if !needed {
                return Ok(even());
            }
            if let Some(imatrix) = imatrix.filter(|imatrix| imatrix.has(&tensor.name)) {
                let measured = measured(imatrix, tensor)?;
                if measured.origin != (Origin::Imatrix { unseen: tensor.slices.len() }) {
                    return Ok(measured);
                }
            }
            match &tensor.input_norm {
                Some(norm) => {
                    let gains = match gains.entry(norm) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(place) => place.insert(squared_gains(store, norm)?),
                    };
                    Ok(Tensor { origin: Origin::Norm, fallback: Some(Arc::clone(gains)) })
                }
                None => Ok(even()),
            }
        });
        let tensors: Vec<Tensor> = tensors.collect::<Result<_>>()?;
        if let Some(imatrix) = imatrix
            && !model.tensors.iter().any(|tensor| imatrix.has(&tensor.name))
        {
            return Err(imatrix.foreign());
        }
        let warnings = imatrix.map_or_else(Vec::new, |imatrix| suspicious(imatrix, model, needed));
        Ok(Self { imatrix, tensors, warnings })
    }

    /// Warnings about the importance matrix.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Whether there is an importance matrix.
    pub fn has_imatrix(&self) -> bool {
        self.imatrix.is_some()
    }

    /// Where the importances of a tensor, by its place in the model, come from.
    pub fn origin(&self, tensor: usize) -> Origin {
        self.tensors[tensor].origin
    }

    /// The importances of one slice, one for each column; None where all are alike.
    ///
    /// # Errors
    /// Those of [`Imatrix::slice`], which `prepare` has ruled out unless the file changed since.
    pub fn slice(&self, model: &Model, tensor: usize, slice: usize) -> Result<Option<Arc<[f32]>>> {
        let values = self.of_imatrix(&model.tensors[tensor], tensor, slice)?;
        Ok(values.or_else(|| self.tensors[tensor].fallback.clone()))
    }

    /// What the importance matrix itself says of a slice: None where it has no data, or one row for all slices.
    ///
    /// # Errors
    /// As [`Self::slice`].
    pub fn measured(&self, model: &Model, tensor: usize, slice: usize) -> Result<Option<Measured>> {
        let plan = &model.tensors[tensor];
        let (columns, slices) = (plan.columns() as usize, plan.slices.len());
        let Some(imatrix) = self.imatrix.filter(|imatrix| !imatrix.is_shared(&plan.name, columns, slices))
        else {
            return Ok(None);
        };
        let values = self.of_imatrix(plan, tensor, slice)?;
        Ok(values.map(|values| Measured { values, tokens: imatrix.tokens_of(&plan.name, slice) }))
    }

    fn of_imatrix(&self, plan: &TensorPlan, tensor: usize, slice: usize) -> Result<Option<Arc<[f32]>>> {
        match (self.tensors[tensor].origin, self.imatrix) {
            (Origin::Imatrix { .. }, Some(imatrix)) => {
                let values = imatrix.slice(&plan.name, slice, plan.columns() as usize, plan.slices.len())?;
                Ok(values.map(Arc::from))
            }
            _ => Ok(None),
        }
    }
}

/// Entries of zeros only, and those with one row for all slices: two warnings at most, each with its first tensor.
fn suspicious(imatrix: &Imatrix, model: &Model, needed: &[bool]) -> Vec<Warning> {
    let (mut zeros, mut shared): (Vec<(&str, usize)>, Vec<&str>) = Default::default();
    let needed = model.tensors.iter().zip(needed).filter(|(_, needed)| **needed).map(|(tensor, _)| tensor);
    for tensor in needed.filter(|tensor| imatrix.has(&tensor.name)) {
        let (columns, slices) = (tensor.columns() as usize, tensor.slices.len());
        if imatrix.is_shared(&tensor.name, columns, slices) {
            shared.push(&tensor.name);
        }
        match (0..slices).filter(|slice| imatrix.is_zero(&tensor.name, *slice, columns)).count() {
            0 => {}
            count => zeros.push((&tensor.name, count)),
        }
    }
    let mut warnings = Vec::new();
    if let Some((first, _)) = zeros.first() {
        let slices: usize = zeros.iter().map(|(_, slices)| slices).sum();
        let problem = format!(
            "is said to be measured and holds zeros only, as do {slices} slices of {} tensors in all; they count as not measured",
            zeros.len()
        );
        warnings.push(Warning::new(imatrix.fault(first, problem)));
    }
    if let Some(first) = shared.first() {
        let problem = format!(
            "has one row of values for all of its slices, as have {} tensors in all; it is used for every slice",
            shared.len()
        );
        warnings.push(Warning::new(imatrix.fault(first, problem)));
    }
    warnings
}

/// Reads all slices once: counts those without data and takes the mean of the others.
fn measured(imatrix: &Imatrix, tensor: &TensorPlan) -> Result<Tensor> {
    let (columns, slices) = (tensor.columns() as usize, tensor.slices.len());
    let mut sum = vec![0f64; columns];
    let mut seen = 0u32;
    for slice in 0..slices {
        if let Some(values) = imatrix.slice(&tensor.name, slice, columns, slices)? {
            sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += f64::from(*value));
            seen += 1;
        }
    }
    let mean = sum.iter().map(|sum| (sum / f64::from(seen)) as f32).collect();
    let fallback = (0 < seen && (seen as usize) < slices).then_some(mean);
    Ok(Tensor { origin: Origin::Imatrix { unseen: slices - seen as usize }, fallback })
}

/// The squared weights of a norm, which scale its even output column by column.
fn squared_gains(store: &dyn Store, norm: &str) -> Result<Arc<[f32]>> {
    let (matrix, mut raw) = (store.open(norm)?, Vec::new());
    let mut gains = vec![0.0; matrix.stored().columns as usize];
    matrix.load(0..1, &mut raw)?;
    matrix.decode(0..1, &raw, &mut gains, Values::Any)?;
    Ok(gains.iter().map(|gain| (gain * gain).min(LARGEST_IMPORTANCE)).collect())
}
