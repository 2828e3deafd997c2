//! The comparison: a layer of one model, the same layer of the other, and so on; then both heads, some of the
//! vocabulary at a time.

use std::sync::atomic::AtomicBool;

use super::certificate::{LayerError, Scores};
use super::differing::differing;
use super::divergence::Divergence;
use super::questions::{Answers, Question};
use super::stop::Stop;
use crate::error::{Error, Result};
use crate::forward::{Head, Pass, States, Weights, apply};
use crate::model::Description;
use crate::moment;

/// Tokens of the text that are compared at a time.
const BATCH: usize = 1024;

/// Ids whose logits are computed at a time.
const STRETCH: usize = 8192;

/// What two models are compared on.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Texts of whole chunks that begin with BOS.
    pub texts: &'a [&'a [u32]],
    /// Tokens in a chunk.
    pub context: usize,
    /// Questions, which may be none.
    pub questions: &'a [Question],
}

/// Compares `file` with `reference`, with `memory` bytes for hidden states; `told` is called after every layer.
///
/// # Errors
/// If the two are not the same model, weights cannot be read, hidden states are no numbers, or `stop` became true.
///
/// # Panics
/// If the texts together are not at least one whole chunk of two tokens or more.
pub fn run(
    reference: (&Weights, &Description),
    file: (&Weights, &Description),
    Asked { texts, context, questions }: Asked,
    memory: u64,
    told: &dyn Fn(&LayerError),
    stop: &AtomicBool,
) -> Result<Scores> {
    let tokens = &texts.concat()[..];
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
    let memory = if questions.is_empty() { memory } else { memory / 2 };
    let begin = |tokens: &[u32], context| -> Result<[Pass; 2]> {
        let [a, b] = [(&weights[0], model), (&weights[1], file.1)]
            .map(|(weights, model)| Pass::new(weights, model, tokens, context, memory / 2));
        Ok([a?, b?])
    };
    let mut passes = begin(tokens, context)?;
    // A chunk each, as long as the longest.
    let length = Question::longest(questions);
    let asked = Question::chunks(questions, length);
    let mut asking = (!questions.is_empty()).then(|| begin(&asked, length)).transpose()?;
    let mut layers = Vec::new();
    for layer in 0..model.layers.len() {
        for passes in std::iter::once(&mut passes).chain(&mut asking) {
            for (pass, weights) in passes.iter_mut().zip(&weights) {
                pass.layer(weights, layer, &stop)?;
            }
        }
        let [a, b] = &mut passes;
        let squares = distances(layer, [a.states(), b.states()], context, stop)?;
        told(&LayerError::new(layer, &squares));
        moment::pass("evaluated");
        layers.push(squares);
    }
    let [a, b] = &mut passes;
    // The second half of every chunk: the logits at place i - 1 predict token i.
    let of_chunk = |chunk: usize| (context / 2..context).map(move |i| chunk * context + i - 1);
    let places: Vec<usize> = (0..tokens.len() / context).flat_map(of_chunk).collect();
    let scores = score(&weights, model, [a.states(), b.states()], tokens, &places, stop)?;
    let scored = scores.iter().map(Divergence::scored).collect();
    let texts = texts.iter().map(|text| text.len() / context).collect();
    let mut answers = None;
    if let Some([a, b]) = &mut asking {
        let places = Question::places(questions, length);
        let scores = score(&weights, model, [a.states(), b.states()], &asked, &places, stop)?;
        let right = |(score, place): (&Divergence, &usize)| score.top_is(asked[place + 1] as usize);
        let right: Vec<[bool; 2]> = scores.iter().zip(&places).map(right).collect();
        answers = Some(Answers::new(questions, &right));
    }
    Ok(Scores { context, texts, scored, layers, answers })
}

/// For each chunk the sums of the squares of the first's states, and of their differences.
fn distances(
    layer: usize,
    [reference, file]: [&mut States; 2],
    context: usize,
    stop: Stop<'_>,
) -> Result<Vec<[f64; 2]>> {
    let mut chunks = Vec::with_capacity(reference.rows() / context);
    for start in (0..reference.rows()).step_by(context) {
        let [mut norm, mut difference] = [0.0, 0.0];
        let end = start + context;
        for start in (start..end).step_by(BATCH) {
            stop.check()?;
            let rows = start..end.min(start + BATCH);
            let (a, b) = (reference.read(rows.clone())?, file.read(rows)?);
            for (&a, &b) in a.values().iter().zip(b.values()) {
                norm += f64::from(a) * f64::from(a);
                difference += (f64::from(a) - f64::from(b)).powi(2);
            }
        }
        let infinite = |whose| {
            let problem =
                format!("the hidden states of the {whose} after layer {layer} are no finite numbers");
            Err(Error::Unsupported(problem))
        };
        match (norm.is_finite(), difference.is_finite()) {
            (false, _) => return infinite("checkpoint"),
            (true, false) => return infinite("file"),
            (true, true) => chunks.push([norm, difference]),
        }
    }
    Ok(chunks)
}

/// The distributions that the states at these places give for the tokens behind them.
fn score(
    weights: &[Weights<'_>; 2],
    model: &Description,
    states: [&mut States; 2],
    tokens: &[u32],
    places: &[usize],
    stop: Stop<'_>,
) -> Result<Vec<Divergence>> {
    let heads = [Head::read(&weights[0], model)?, Head::read(&weights[1], model)?];
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
    Ok(scores)
}
