//! The head: logits of the whole vocabulary, or of a part of it at a time where it would not fit.

use std::ops::Range;

use dense_kernels::{Accum, Dense, product};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator};
use rayon::slice::ParallelSliceMut;

use super::pass::Pass;
use super::states::States;
use crate::chance;
use crate::error::{Error, Result};
use crate::model::layer::{Inputs, Observer, apply, normalise, normalise_back};
use crate::model::{Description, EMBEDDING, FINAL_NORM, HEAD, Weights};
use crate::threads;

/// Tokens whose final states go through the norm together.
const BATCH: usize = 2048;

/// Tokens whose gradients are computed together.
const DRAWN: usize = 512;

/// Rows of the head that are in memory at once.
const STRETCH: usize = 8192;

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

    /// Gradients at the final states of a pass, of a loss whose gradients vary as the divergence of a nearby model's
    /// answers grows: the surprise of tokens that are drawn from the model's own distribution (the mean of their squares is
    /// Fisher's information). What is drawn depends on a token's place alone. Besides, the mean square of those at a logit.
    ///
    /// # Errors
    /// If the norm, the head or the states cannot be read.
    pub fn gradients(weights: &Weights, pass: &mut Pass, memory: u64) -> Result<(States, f64)> {
        let head = Self::read(weights, pass.model())?;
        let states = pass.states();
        let mut gradients = States::new(states.rows(), states.columns(), memory)?;
        let mut squares = 0.0;
        for start in (0..states.rows()).step_by(DRAWN) {
            let before = states.read(start..states.rows().min(start + DRAWN))?;
            let mut inputs = before.clone();
            head.normalise(&mut inputs);
            let (mut back, of_batch) = head.surprise_back(weights, &inputs, start)?;
            squares += of_batch;
            normalise_back(&mut back, &before, head.norm.values(), head.eps);
            gradients.write(start, back.values())?;
        }
        let logits = states.rows() as f64 * head.vocabulary as f64;
        Ok((gradients, squares / logits))
    }

    /// Gradients at the head's inputs, of the surprise of drawn tokens; the first row is of the token `first`. Besides, the
    /// sum of the squares of those at the logits.
    fn surprise_back(&self, weights: &Weights, inputs: &Dense, first: usize) -> Result<(Dense, f64)> {
        let logits = |ids| Ok::<_, Error>(apply(&self.rows(weights, ids)?, inputs.view()));
        // Of each row the largest logit, and the sum of all powers relative to it.
        let mut sums = vec![(f32::NEG_INFINITY, 0f64); inputs.rows()];
        for ids in self.stretches(STRETCH) {
            let logits = logits(ids)?;
            threads::each("sum powers", sums.par_iter_mut().enumerate(), |(row, (top, sum))| {
                let largest = logits.row(row).iter().copied().fold(*top, f32::max);
                *sum *= f64::from(libm::expf(*top - largest));
                *top = largest;
                *sum += logits.row(row).iter().map(|x| f64::from(libm::expf(x - largest))).sum::<f64>();
            });
        }
        // What is left of the sum until the drawn token comes.
        let mut left: Vec<f64> =
            sums.iter().enumerate().map(|(row, (_, sum))| share(first + row) * sum).collect();
        let mut back = Dense::zeros(inputs.rows(), self.hidden);
        let mut squares = 0.0;
        for ids in self.stretches(STRETCH) {
            let rows = self.rows(weights, ids)?;
            let mut logits = apply(&rows, inputs.view());
            let columns = logits.columns();
            let each = logits.values_mut().par_chunks_mut(columns).zip(&mut left).zip(&sums);
            threads::each("draw", each, |((logits, left), (top, sum))| {
                for logit in logits {
                    let power = f64::from(libm::expf(*logit - top));
                    let is_drawn = *left >= 0.0 && *left < power;
                    *left -= power;
                    *logit = (power / sum) as f32 - f32::from(u8::from(is_drawn));
                }
            });
            squares += logits.values().iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
            product(back.view_mut(), Accum::Add, logits.view(), rows.view());
        }
        Ok((back, squares))
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
        let mut rows = Dense::to_fill(ids.len(), self.hidden);
        weights.read(self.tensor, 0, ids, rows.values_mut())?;
        Ok(rows)
    }

    /// The vocabulary in stretches of at most `rows` ids.
    pub fn stretches(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let vocabulary = self.vocabulary;
        (0..vocabulary).step_by(rows).map(move |start| start..vocabulary.min(start + rows))
    }
}

/// A number from 0 to 1 for the token at a place of the text, drawn by chance, the same one every time.
fn share(place: usize) -> f64 {
    (chance::number(place as u64) >> 11) as f64 / (1u64 << 53) as f64
}
