//! The head: logits of the whole vocabulary, or of a stretch of it at a time where it would not fit.

use std::ops::Range;

use dense_kernels::Dense;

use super::norm::normalise;
use super::shape::Shape;
use super::weights::Weights;
use crate::error::Result;

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
    pub fn read(weights: &dyn Weights, shape: &Shape) -> Result<Self> {
        let own = weights.extent("output.weight").is_some();
        let tensor = if own { "output.weight" } else { "token_embd.weight" };
        weights.check(tensor, 0, [shape.vocabulary, shape.hidden])?;
        Ok(Self {
            norm: weights.vector("output_norm.weight", shape.hidden)?,
            tensor,
            vocabulary: shape.vocabulary,
            hidden: shape.hidden,
            eps: shape.eps,
        })
    }

    /// The inputs of the head.
    pub fn normalise(&self, states: &mut Dense) {
        normalise(states, self.norm.values(), self.eps);
    }

    /// The head's rows for these token ids; applied to its inputs, they give the logits.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn rows(&self, weights: &dyn Weights, ids: Range<usize>) -> Result<Dense> {
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
