//! Questions with known answers, asked of both models: what a file still knows. Pure, but for reading them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{Description, Encoder};
use crate::whole;

/// A larger file is none.
const MAX_FILE: u64 = 1 << 28;

/// A prompt and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// BOS, the prompt, and the answer behind a space.
    ids: Vec<u32>,
    /// How many of them are the answer.
    answer: usize,
}

/// How many were answered right: by the greedy continuation of the prompt, that is, if each token of the answer is the
/// likeliest behind those before it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Answers {
    /// Questions.
    pub count: usize,
    /// Right answers of the checkpoint.
    pub right_reference: usize,
    /// Right answers of the file.
    pub right: usize,
    /// Right answers of both: what the checkpoint knows and the file still does.
    pub right_both: usize,
}

impl Question {
    /// Reads a JSON list of pairs, `[["The capital of France is", "Paris"], ...]`.
    ///
    /// # Errors
    /// If the file cannot be read, is something else, or has an empty answer, and those of the tokenizer.
    pub fn read(path: &Path, encoder: &Encoder, model: &Description) -> Result<Vec<Self>> {
        let fault = |problem: String| Error::Argument(format!("{}: {problem}", path.display()));
        let bytes = whole::read(path, MAX_FILE, fault)?;
        let pairs: Vec<[String; 2]> = serde_json::from_slice(&bytes).map_err(|e| {
            fault(format!("is no list of questions, as in [[\"The capital of France is\", \"Paris\"]]: {e}"))
        })?;
        if pairs.is_empty() {
            return Err(fault("has no questions".to_owned()));
        }
        let most = model.dense_length().map_or(usize::MAX, |most| most as usize);
        let vocabulary = model.vocabulary as usize;
        let question = |(number, [prompt, answer]): (usize, &[String; 2])| {
            let mut ids = Vec::from_iter(model.bos);
            ids.extend(encoder.encode(prompt.trim_end(), vocabulary)?);
            let behind = encoder.encode_part(&format!(" {}", answer.trim()), true, vocabulary)?;
            let is_whole = !ids.is_empty() && !answer.trim().is_empty();
            let answer = behind.len();
            ids.extend(behind);
            let problem = match is_whole {
                false => "has nothing before its answer, or no answer".to_owned(),
                true if ids.len() > most => {
                    format!("has {} tokens; this model's attention is computed up to {most}", ids.len())
                }
                true => return Ok(Self { ids, answer }),
            };
            Err(fault(format!("question {} {problem}", number + 1)))
        };
        pairs.iter().enumerate().map(question).collect()
    }

    /// Tokens of the longest, the length of chunks with one question each.
    pub(super) fn longest(questions: &[Self]) -> usize {
        questions.iter().map(|question| question.ids.len()).max().unwrap_or(0)
    }

    /// The chunks: behind a question's end any token, which nothing before it sees.
    pub(super) fn chunks(questions: &[Self], context: usize) -> Vec<u32> {
        let chunk = |question: &Self| {
            let padding = context - question.ids.len();
            question
                .ids
                .iter()
                .copied()
                .chain(std::iter::repeat_n(question.ids[0], padding))
                .collect::<Vec<u32>>()
        };
        questions.iter().flat_map(chunk).collect()
    }

    /// The places in these chunks whose logits say the tokens of the answers, question after question.
    pub(super) fn places(questions: &[Self], context: usize) -> Vec<usize> {
        let of = |(number, question): (usize, &Self)| {
            let end = number * context + question.ids.len() - 1;
            end - question.answer..end
        };
        questions.iter().enumerate().flat_map(of).collect()
    }
}

impl Answers {
    /// Whether they can be what was counted.
    pub fn is_possible(&self) -> bool {
        self.right_reference.max(self.right) <= self.count
            && self.right_both <= self.right_reference.min(self.right)
    }

    /// From what is right at each of the [places](Question::places), of the checkpoint and of the file.
    pub(super) fn new(questions: &[Question], right: &[[bool; 2]]) -> Self {
        let mut answers = Self { count: questions.len(), ..Self::default() };
        let mut rest = right;
        for question in questions {
            let (own, behind) = rest.split_at(question.answer);
            rest = behind;
            let [reference, file] = [0, 1].map(|which| own.iter().all(|right| right[which]));
            answers.right_reference += usize::from(reference);
            answers.right += usize::from(file);
            answers.right_both += usize::from(reference && file);
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_right_if_all_of_its_tokens_are() {
        let question = |ids: &[u32], answer| Question { ids: ids.to_vec(), answer };
        let questions = [question(&[1, 5, 6, 7], 2), question(&[1, 8], 1)];
        assert_eq!(Question::longest(&questions), 4);
        assert_eq!(Question::chunks(&questions, 4), [1, 5, 6, 7, 1, 8, 1, 1]);
        // The logits behind 5 and 6 say 6 and 7, those behind the second BOS say 8.
        assert_eq!(Question::places(&questions, 4), [1, 2, 4]);
        let answers = Answers::new(&questions, &[[true, true], [true, false], [true, true]]);
        assert_eq!(answers, Answers { count: 2, right_reference: 2, right: 1, right_both: 1 });
    }
}
