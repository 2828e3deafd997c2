//! The certificate of a file: its figures on a text, from the scores of every token. Pure.

use serde::{Deserialize, Serialize};

use super::divergence::Scored;
use super::questions::Answers;
use super::statistics::Statistics;
use crate::error::{Error, Result};

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
    /// The figures of each text, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_text: Vec<OfText>,
    /// What both answered, if there were questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}

/// The figures of one of several texts: files differ in what they are good at.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct OfText {
    /// The text, as it was named.
    pub text: String,
    /// Number of its chunks.
    pub chunks: usize,
    /// Perplexities and divergence.
    #[serde(flatten)]
    pub statistics: Statistics,
}

/// Distance of the hidden states of the two models after a layer.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct LayerError {
    /// Number of the layer, from 0.
    pub layer: usize,
    /// Norm of the difference over the norm of the checkpoint's states, all tokens together.
    pub error: f64,
}

/// What was measured on some chunks of a text, before means are taken: those of the parts of a text, one after the
/// other, are those of the text.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Scores {
    /// Tokens in a chunk.
    pub context: usize,
    /// Chunks of each text, one text behind the other.
    pub texts: Vec<usize>,
    /// Every token that was scored, in order.
    pub scored: Vec<Scored>,
    /// For each layer and chunk the sums of the squares of the checkpoint's hidden states, and of the differences.
    pub layers: Vec<Vec<[f64; 2]>>,
    /// What both answered, if there were questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}

impl Scores {
    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.layers.first().map_or(0, Vec::len)
    }

    /// Whether they can be what was measured: the second half of each chunk scored, two sums for each layer and chunk, all
    /// of them numbers.
    pub(super) fn are_possible(&self) -> bool {
        let (chunks, of_chunk) = (self.chunks(), self.context - self.context / 2);
        let numbers = |scored: &Scored| [scored.surprise[0], scored.surprise[1], scored.divergence];
        self.context > 1
            && chunks > 0
            && self.texts.iter().try_fold(0usize, |sum, &of_text| sum.checked_add(of_text)) == Some(chunks)
            && chunks.checked_mul(of_chunk) == Some(self.scored.len())
            && self.scored.iter().flat_map(numbers).all(f64::is_finite)
            && self.layers.iter().all(|sums| sums.len() == chunks)
            && self.layers.iter().flatten().flatten().all(|sum| sum.is_finite() && *sum >= 0.0)
    }

    /// Puts the scores of the text's next chunks behind these.
    pub fn append(&mut self, next: Self) {
        self.texts.iter_mut().zip(next.texts).for_each(|(chunks, next)| *chunks += next);
        self.scored.extend(next.scored);
        self.layers.iter_mut().zip(next.layers).for_each(|(all, next)| all.extend(next));
    }

    /// The figures of the texts of these names.
    ///
    /// # Errors
    /// If they are no numbers.
    pub fn certificate(&self, names: &[String]) -> Result<Certificate> {
        let of_chunk = self.context - self.context / 2;
        let statistics = Statistics::new(&self.scored, of_chunk);
        if !statistics.is_finite() {
            return Err(Error::Unsupported(
                "the logits of the file or the checkpoint are no finite numbers".into(),
            ));
        }
        let layers = self.layers.iter().enumerate();
        let layers = layers.map(|(layer, chunks)| LayerError::new(layer, chunks)).collect();
        let mut rest = &self.scored[..];
        let mut of_text = |(&chunks, text): (&usize, &String)| {
            let (own, behind) = rest.split_at(chunks * of_chunk);
            rest = behind;
            OfText { text: text.clone(), chunks, statistics: Statistics::new(own, of_chunk) }
        };
        let by_text = match &self.texts[..] {
            [_] => Vec::new(),
            // A part of the texts, which has nothing of some.
            texts if texts.contains(&0) => Vec::new(),
            texts => texts.iter().zip(names).map(&mut of_text).collect(),
        };
        let (context, chunks, answers) = (self.context, self.chunks(), self.answers);
        Ok(Certificate { context, chunks, statistics, layers, by_text, answers })
    }
}

impl LayerError {
    /// The error of a layer from the sums of all chunks.
    pub(super) fn new(layer: usize, chunks: &[[f64; 2]]) -> Self {
        let sum = |which: usize| chunks.iter().map(|sums| sums[which]).sum();
        Self { layer, error: relative(sum(1), sum(0)) }
    }
}

/// The root of a sum of squared differences over one of squares. Of states that are all zeros nothing can be off in
/// proportion: the error is 0 if the other's are zeros too, and 1 otherwise, as for another that is zeros alone.
fn relative(difference: f64, norm: f64) -> f64 {
    match norm > 0.0 {
        true => (difference / norm).sqrt(),
        false => f64::from(u8::from(difference > 0.0)),
    }
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
