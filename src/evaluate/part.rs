//! The scores of a part of a text in a file, so that several machines evaluate one file, and their joining.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Scores;
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::whole;

/// A larger file is none: 1 GiB are some ten million scored tokens.
const MAX_FILE: u64 = 1 << 30;

/// What one machine measured, and of what.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Part {
    /// What all parts of an evaluation have in common.
    pub evaluation: Identity,
    /// Its number, from 1.
    pub part: u16,
    /// How many parts the text is divided into.
    pub of: u16,
    /// The GGUF file, as it was named.
    pub file: String,
    /// SHA-256 of it, or of the files of its split.
    pub files_sha256: Vec<String>,
    /// The texts, as they were named.
    pub texts: Vec<String>,
    /// What was measured.
    pub scores: Scores,
}

impl Part {
    /// Reads such a file.
    ///
    /// # Errors
    /// If it cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self> {
        let fault = |problem: String| Error::Argument(format!("{}: {problem}", path.display()));
        let bytes = whole::read(path, MAX_FILE, fault)?;
        let part: Self = serde_json::from_slice(&bytes)
            .map_err(|e| fault(format!("is no part of an evaluation (evaluate --part -o): {e}")))?;
        match part.scores.are_possible() && (1..=part.of).contains(&part.part) {
            true => Ok(part),
            false => Err(fault("says of a part of an evaluation what cannot be".to_owned())),
        }
    }

    /// What differs between two parts that cannot be of one evaluation.
    fn differing(&self, other: &Self) -> Option<String> {
        let evaluation = self.evaluation.differing(&other.evaluation);
        let count = (self.of != other.of).then(|| format!("{} parts, and {}", self.of, other.of));
        let files = (self.files_sha256 != other.files_sha256).then(|| "the GGUF files' SHA-256".to_owned());
        let shape = |of: &Scores| (of.context, of.texts.len(), of.layers.len());
        let layers =
            (shape(&self.scores) != shape(&other.scores)).then(|| "the number of layers or texts".to_owned());
        evaluation.or(count).or(files).or(layers)
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and finite numbers are JSON")
    }
}

/// The whole of the parts, in whatever order they come, each with the name that messages have for it.
///
/// # Errors
/// If they are not all the parts of one evaluation.
pub fn join(mut parts: Vec<(Part, String)>) -> Result<Part> {
    let refuse = |problem: String| Err(Error::Argument(problem));
    parts.sort_by_key(|(part, _)| part.part);
    let numbers: Vec<u16> = parts.iter().map(|(part, _)| part.part).collect();
    let mut parts = parts.into_iter();
    let Some((mut whole, first)) = parts.next() else {
        return refuse("there are no parts to join".into());
    };
    for (part, name) in parts {
        if let Some(differing) = whole.differing(&part) {
            return refuse(format!("{name} is not of the evaluation that {first} is of: {differing}"));
        }
        whole.scores.append(part.scores);
    }
    if let Some(missing) = (1..=whole.of).find(|number| !numbers.contains(number)) {
        return refuse(format!("part {missing} of {} is missing", whole.of));
    }
    match numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => refuse(format!("part {} of {} is there twice", pair[0], whole.of)),
        None => Ok(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Scored;

    fn part(part: u16, of: u16) -> (Part, String) {
        let scores = Scores {
            context: 2,
            texts: vec![1],
            scored: Vec::new(),
            layers: vec![vec![[f64::from(part), 0.0]]],
            answers: None,
        };
        let (evaluation, files_sha256) =
            (Identity::new([("--context", "2".to_owned())]), vec!["0".to_owned()]);
        let (file, texts) = ("a.gguf".to_owned(), Vec::new());
        (Part { evaluation, part, of, file, files_sha256, texts, scores }, format!("{part}.json"))
    }

    #[test]
    fn parts_are_joined_in_the_order_of_the_text() {
        let whole = join(vec![part(3, 3), part(1, 3), part(2, 3)]).expect("all are there");
        assert_eq!(whole.scores.texts, [3]);
        assert_eq!(whole.scores.layers, [[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]]);
        let again = serde_json::from_slice::<Part>(&whole.bytes()).expect("as it was written");
        assert_eq!(again, whole);
    }

    #[test]
    fn scores_that_cannot_be_are_told() {
        let one = Scored { surprise: [1.0, 1.5], divergence: 0.5, same_top: true };
        let scores = Scores {
            context: 2,
            texts: vec![0, 1],
            scored: vec![one],
            layers: vec![vec![[1.0, 0.0]]],
            answers: None,
        };
        assert!(scores.are_possible());
        for change in [
            (|scores| scores.context = 0) as fn(&mut Scores),
            |scores| scores.context = usize::MAX,
            |scores| scores.scored.clear(),
            |scores| scores.scored[0].divergence = f64::NAN,
            |scores| scores.texts.clear(),
            |scores| scores.texts[0] = usize::MAX,
            |scores| scores.layers.clear(),
            |scores| scores.layers.push(Vec::new()),
            |scores| scores.layers[0][0][1] = -1.0,
        ] {
            let mut wrong = scores.clone();
            change(&mut wrong);
            assert!(!wrong.are_possible(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_one_whole_is_refused() {
        let refused = |parts: Vec<(Part, String)>| join(parts).expect_err("refused").to_string();
        assert!(refused(Vec::new()).contains("no parts"));
        assert!(refused(vec![part(1, 3), part(3, 3)]).contains("part 2 of 3 is missing"));
        assert!(refused(vec![part(1, 2), part(2, 2), part(2, 2)]).contains("part 2 of 2 is there twice"));
        assert!(refused(vec![part(1, 2), part(2, 3)]).contains("2.json is not of the evaluation"));
        let (mut other, name) = part(2, 2);
        other.evaluation = Identity::new([("--context", "4".to_owned())]);
        assert!(refused(vec![part(1, 2), (other, name)]).contains("--context was 2, now 4"));
    }
}
