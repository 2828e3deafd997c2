//! The comparison: a layer of one model, the same layer of the other, and so on; then both heads, some of the
//! vocabulary at a time.

use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::differing::differing;
use super::divergence::{Divergence, Scored};
use super::statistics::Statistics;
use super::stop::Stop;
use crate::error::{Error, Result};
use crate::forward::{Head, Pass, States, Weights, apply};
use crate::model::Description;
use crate::moment;

/// Tokens of the text that are compared at a time.
const BATCH: usize = 1024;

/// Ids whose logits are computed at a time.
const STRETCH: usize = 8192;

/// Distance of the hidden states of the two models after a layer.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct LayerError {
    /// Number of the layer, from 0.
    pub layer: usize,
    /// Norm of the difference over the norm of the checkpoint's states, all tokens together.
    pub error: f64,
}

/// How far a file is from its checkpoint on a text.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Certificate {
    /// Tokens in a chunk, the first of which is BOS; the second half is scored.
    pub context: usize,
    /// Number of chunks.
    pub chunks: usize,
    /// Perplexities and divergence.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// The error after every layer.
    pub layers: Vec<LayerError>,
}

/// Compares `file` with `reference` on `tokens`, chunks of `context` tokens that begin with BOS; `told` is called
/// after every layer.
///
/// # Errors
/// If the two are not the same model, weights cannot be read, hidden states are no numbers, or `stop` became true.
///
/// # Panics
/// If the tokens are not at least one whole chunk of two or more.
pub fn run(
    reference: (&Weights, &Description),
    file: (&Weights, &Description),
    tokens: &[u32],
    context: usize,
    memory: u64,
    told: &dyn Fn(&LayerError),
    stop: &AtomicBool,
) -> Result<Certificate> {
    assert!(context > 1 && tokens.len() >= context, "{} tokens in chunks of {context}", tokens.len());
    if reference.1.computed() != file.1.computed() {
        return Err(Error::Argument(format!(
            "the file is another model than the checkpoint: {}",
            differing(file.1, reference.1)
        )));
    }
    let stop = Stop(stop);
    let weights = [reference.0.clone().until(stop.0), file.0.clone().until(stop.0)];
    let model = reference.1;
    let mut passes = [
        Pass::new(&weights[0], model, tokens, context, memory / 2)?,
        Pass::new(&weights[1], file.1, tokens, context, memory / 2)?,
    ];
    let mut layers = Vec::new();
    for layer in 0..model.layers.len() {
        for (pass, weights) in passes.iter_mut().zip(&weights) {
            pass.layer(weights, layer, &stop)?;
        }
        let [a, b] = &mut passes;
        let error = LayerError { layer, error: distance(layer, [a.states(), b.states()], stop)? };
        told(&error);
        moment::pass("evaluated");
        layers.push(error);
    }
    let [a, b] = &mut passes;
    let scored = score(&weights, model, [a.states(), b.states()], tokens, context, stop)?;
    let statistics = Statistics::new(&scored);
    if !statistics.is_finite() {
        return Err(Error::Unsupported(
            "the logits of the file or the checkpoint are no finite numbers".into(),
        ));
    }
    Ok(Certificate { context, chunks: tokens.len() / context, statistics, layers })
}

/// Norm of the difference over the norm of the first. Of states that are all zeros nothing can be off in proportion:
/// the error is 0 if the second's are zeros too, and 1 otherwise, as for a second that is zeros alone.
fn distance(layer: usize, [reference, file]: [&mut States; 2], stop: Stop<'_>) -> Result<f64> {
    let (mut norm, mut difference) = (0.0, 0.0);
    for start in (0..reference.rows()).step_by(BATCH) {
        stop.check()?;
        let rows = start..reference.rows().min(start + BATCH);
        let (a, b) = (reference.read(rows.clone())?, file.read(rows)?);
        for (&a, &b) in a.values().iter().zip(b.values()) {
            norm += f64::from(a) * f64::from(a);
            difference += (f64::from(a) - f64::from(b)).powi(2);
        }
    }
    let infinite = |whose| {
        let problem = format!("the hidden states of the {whose} after layer {layer} are no finite numbers");
        Err(Error::Unsupported(problem))
    };
    match (norm.is_finite(), difference.is_finite()) {
        (false, _) => infinite("checkpoint"),
        (true, false) => infinite("file"),
        (true, true) => Ok(relative(difference, norm)),
    }
}

/// The root of a sum of squared differences over one of squares.
fn relative(difference: f64, norm: f64) -> f64 {
    match norm > 0.0 {
        true => (difference / norm).sqrt(),
        false => f64::from(u8::from(difference > 0.0)),
    }
}

/// Scores the second half of every chunk: the logits at place i - 1 predict token i.
fn score(
    weights: &[Weights<'_>; 2],
    model: &Description,
    states: [&mut States; 2],
    tokens: &[u32],
    context: usize,
    stop: Stop<'_>,
) -> Result<Vec<Scored>> {
    let heads = [Head::read(&weights[0], model)?, Head::read(&weights[1], model)?];
    let half = context / 2;
    let places: Vec<usize> = (0..tokens.len() / context)
        .flat_map(|chunk| (half..context).map(move |i| chunk * context + i - 1))
        .collect();
    let mut scores = vec![Divergence::EMPTY; places.len()];
    let [reference, file] = states;
    for stretch in heads[0].stretches(STRETCH) {
        let rows =
            [heads[0].rows(&weights[0], stretch.clone())?, heads[1].rows(&weights[1], stretch.clone())?];
        for (places, scores) in places.chunks(BATCH).zip(scores.chunks_mut(BATCH)) {
            stop.check()?;
            let mut inputs = [reference.gather(places)?, file.gather(places)?];
            for (head, inputs) in heads.iter().zip(&mut inputs) {
                head.normalise(inputs);
            }
            let logits = [apply(&rows[0], inputs[0].view()), apply(&rows[1], inputs[1].view())];
            for (row, (place, score)) in places.iter().zip(scores).enumerate() {
                let actual = tokens[place + 1] as usize;
                score.add(stretch.start, logits[0].row(row), logits[1].row(row), actual);
            }
        }
    }
    Ok(scores.iter().map(Divergence::scored).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_number_for_zeros_too() {
        assert_eq!(relative(4.0, 16.0), 0.5);
        assert_eq!(relative(0.0, 0.0), 0.0);
        assert_eq!(relative(4.0, 0.0), 1.0);
    }
}
