//! The head: logits of the whole vocabulary, or of a part of it at a time where it would not fit.

use std::ops::Range;

use dense_kernels::Dense;

use super::pass::Pass;
use crate::error::Result;
use crate::model::layer::{Inputs, Observer, normalise};
use crate::model::{Description, EMBEDDING, FINAL_NORM, HEAD, Weights};

/// Tokens whose final states go through the norm together.
const BATCH: usize = 2048;

/// The final norm, and where the head's rows are.
#[derive(Debug)]
pub struct Head {
    norm: Dense,
    tensor: &'static str,
    vocabulary: usize,
    hidden: usize,
    eps: f32,
}

impl Head {
    /// Reads the final norm; a model without a head of its own has its embedding for one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(weights: &Weights, model: &Description) -> Result<Self> {
        let tensor = if weights.find(HEAD).is_some() { HEAD } else { EMBEDDING };
        let (vocabulary, hidden) = (model.vocabulary as usize, model.hidden as usize);
        weights.check(tensor, 0, [vocabulary, hidden])?;
        let norm = weights.vector(FINAL_NORM, hidden)?;
        Ok(Self { norm, tensor, vocabulary, hidden, eps: model.eps })
    }

    /// Shows an observer the inputs of the head for the final states of a pass. An embedding that is the head as well
    /// is not shown: its type is not chosen by what it does as head.
    ///
    /// # Errors
    /// If the norm or the states cannot be read, and those of the observer.
    pub fn observe(weights: &Weights, pass: &mut Pass, observer: &dyn Observer) -> Result<()> {
        let head = Self::read(weights, pass.model())?;
        let Some(place) = weights.place(HEAD) else { return Ok(()) };
        let states = pass.states();
        for start in (0..states.rows()).step_by(BATCH) {
            let mut inputs = states.read(start..states.rows().min(start + BATCH))?;
            head.normalise(&mut inputs);
            observer.see(Inputs { tensors: &[place], slice: 0, inputs: inputs.view() })?;
        }
        Ok(())
    }

    /// The inputs of the head.
    pub fn normalise(&self, states: &mut Dense) {
        normalise(states, self.norm.values(), self.eps);
    }

    /// The head's rows for these token ids; applied to its inputs, they give the logits.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn rows(&self, weights: &Weights, ids: Range<usize>) -> Result<Dense> {
        let mut rows = Dense::zeros(ids.len(), self.hidden);
        weights.read(self.tensor, 0, ids, rows.values_mut())?;
        Ok(rows)
    }

    /// The vocabulary in stretches of at most `rows` ids.
    pub fn stretches(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let vocabulary = self.vocabulary;
        (0..vocabulary).step_by(rows).map(move |start| start..vocabulary.min(start + rows))
    }
}
