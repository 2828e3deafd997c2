//! SentencePiece's tokenizers of the kind BPE (Llama 2, Mistral up to 7B v0.3, Mixtral): pieces of text with scores, spaces
//! as U+2581, and a token for each byte. From tokenizer.model, or from tokenizer.json, whose merges say the order of the
//! scores. Pure.

use std::collections::HashMap;

use serde_json::Value;

use super::{Around, Kind, Vocabulary, place, split};
use crate::error::{Error, Result};

pub const FILE: &str = "tokenizer.model";

/// Stands for a space.
pub const SPACE: char = '\u{2581}';

/// The score of an id without a token, and that of an added token, as llama.cpp's converter has them.
const UNUSED: f32 = -10_000.0;
pub const ADDED: f32 = -1000.0;

/// What a vocabulary of pieces has besides.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// One for each id: of two pieces that could be joined, the one with the higher score is.
    pub of: Vec<f32>,
    /// Whether a space is put before a text.
    pub prefix: bool,
}

/// The vocabulary of `size` ids in tokenizer.model.
///
/// # Errors
/// If it is damaged, or of a kind that llama.cpp computes otherwise.
pub fn read(bytes: &[u8], size: u32) -> Result<Vocabulary> {
    let mut tokens = vec![None; size as usize];
    let mut scores = vec![UNUSED; size as usize];
    let (mut id, mut kind, mut bytes_fall_back, mut prefix) = (0, UNIGRAM, false, true);
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(piece)) => {
                let (text, score, kind) = self::piece(piece, id)?;
                place(FILE, &mut tokens, id, text, kind)?;
                scores[id as usize] = score;
                id += 1;
            }
            (2, Field::Bytes(trainer)) => {
                for field in Fields(trainer) {
                    match field? {
                        (3, Field::Number(number)) => kind = number,
                        (24, Field::Number(suffix)) if suffix != 0 => {
                            return Err(other("treat_whitespace_as_suffix is set"));
                        }
                        (35, Field::Number(flag)) => bytes_fall_back = flag != 0,
                        _ => {}
                    }
                }
            }
            (3, Field::Bytes(normalizer)) => prefix = self::prefix(normalizer)?,
            _ => {}
        }
    }
    if kind != BPE {
        let name = ["unknown", "unigram", "BPE", "word", "char"].get(kind as usize).copied();
        return Err(other(&format!(
            "the model's kind is {}; only BPE is known, which llama.cpp computes",
            name.unwrap_or("unknown")
        )));
    }
    if !bytes_fall_back {
        return Err(other("byte_fallback is not set, so there are no tokens for bytes"));
    }
    Ok(vocabulary(tokens, Scores { of: scores, prefix }, Around::Unsaid))
}

/// The vocabulary of tokenizer.model where there is a tokenizer.json as well, which says what stands around a text, and
/// may have tokens behind the pieces.
pub fn beside(mut pieces: Vocabulary, json: Vocabulary) -> Vocabulary {
    let mut differing = None;
    for (id, (own, other)) in pieces.tokens.iter_mut().zip(json.tokens).enumerate() {
        match (&own, other) {
            (None, Some(other)) => {
                *own = Some(other);
                if let Some(scores) = &mut pieces.scores {
                    scores.of[id] = ADDED;
                }
            }
            (Some(own), Some(other)) if own.0 != other.0 => {
                differing = differing.or(Some((id, own.0.clone(), other.0)));
            }
            _ => {}
        }
    }
    pieces.around = json.around;
    pieces.doubts.extend(json.doubts);
    if let Some((id, own, other)) = differing {
        let problem = format!("has the piece {own:?} with id {id}, where {} has {other:?}", super::bpe::FILE);
        pieces.doubts.push(problem);
    }
    pieces
}

/// Numbers of the kinds of models.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

fn other(problem: &str) -> Error {
    Error::Unsupported(format!("{FILE}: {problem}"))
}

fn vocabulary(tokens: Vec<Option<(String, Kind)>>, scores: Scores, around: Around) -> Vocabulary {
    let splitter = split::Splitter { name: "default".to_owned(), bos: split::Bos::Always };
    Vocabulary { tokens, merges: Vec::new(), scores: Some(scores), splitter, around, doubts: Vec::new() }
}

/// One piece: text, score, kind.
fn piece(bytes: &[u8], id: u32) -> Result<(String, f32, Kind)> {
    let (mut text, mut score, mut kind) = (None, 0.0, 1);
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(bytes)) => text = std::str::from_utf8(bytes).ok(),
            (2, Field::Four(bytes)) => score = f32::from_le_bytes(bytes),
            (3, Field::Number(number)) => kind = number,
            _ => {}
        }
    }
    let text = text.ok_or_else(|| Error::file(FILE, format!("piece {id} has no text in UTF-8")))?;
    if !score.is_finite() {
        return Err(Error::file(FILE, format!("piece {id} ({text:?}) has the score {score}")));
    }
    let kind = match kind {
        // Those of a user are found like any others, unless an added token says more.
        1 | 4 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        5 => Kind::Unused,
        6 => Kind::Byte,
        kind => {
            return Err(Error::file(FILE, format!("piece {id} ({text:?}) is of the unknown kind {kind}")));
        }
    };
    Ok((text.to_owned(), score, kind))
}

/// Whether a space is put before a text; what else a normalizer may do, llama.cpp does not.
fn prefix(bytes: &[u8]) -> Result<bool> {
    let (mut prefix, mut shortens, mut escapes) = (true, true, true);
    for field in Fields(bytes) {
        match field? {
            (2, Field::Bytes(map)) if !map.is_empty() => {
                return Err(other("has a table of replaced characters, which llama.cpp does not apply"));
            }
            (3, Field::Number(flag)) => prefix = flag != 0,
            (4, Field::Number(flag)) => shortens = flag != 0,
            (5, Field::Number(flag)) => escapes = flag != 0,
            _ => {}
        }
    }
    match (shortens, escapes) {
        (true, _) => {
            Err(other("removes extra spaces (remove_extra_whitespaces), which llama.cpp does not do"))
        }
        (_, false) => Err(other("does not escape spaces (escape_whitespaces), as llama.cpp does")),
        _ => Ok(prefix),
    }
}

/// The rules around the vocabulary of a tokenizer.json with byte_fallback.
pub struct Rules<'a> {
    pub normalizer: &'a Value,
    pub pre_tokenizer: &'a Value,
    pub merges: &'a [String],
}

/// The vocabulary of these tokens, all of them normal, control or user-defined so far, with scores that follow from the
/// order of the merges.
///
/// # Errors
/// If text is changed or split in other ways than llama.cpp does.
pub fn of_merges(
    mut tokens: Vec<Option<(String, Kind)>>,
    rules: &Rules,
    unknown: Option<&str>,
    around: Around,
) -> Result<Vocabulary> {
    let prefix = prefix_of(rules.normalizer, rules.pre_tokenizer)?;
    // Only the order matters. What no merge makes is not joined.
    let mut order: HashMap<String, usize> = HashMap::new();
    for (place, merge) in rules.merges.iter().enumerate() {
        order.entry(merge.replacen(' ', "", 1)).or_insert(place);
    }
    let mut scores = vec![UNUSED; tokens.len()];
    for (token, score) in tokens.iter_mut().zip(&mut scores) {
        let Some((text, kind)) = token else { continue };
        *score = match order.get(text.as_str()) {
            _ if *kind != Kind::Normal => ADDED,
            Some(place) => -1.0 - *place as f32,
            None => 0.0,
        };
        if byte(text).is_some() {
            *kind = Kind::Byte;
        } else if *kind == Kind::Normal && Some(text.as_str()) == unknown {
            *kind = Kind::Unknown;
        }
    }
    Ok(vocabulary(tokens, Scores { of: scores, prefix }, around))
}

/// The byte that a token stands for: `<0x0A>`.
pub fn byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Whether normalizer or pre-tokenizer put a space before a text. Both must do no more than that and write spaces as
/// U+2581.
fn prefix_of(normalizer: &Value, pre_tokenizer: &Value) -> Result<bool> {
    let refuse = |field: &str, step: &Value| {
        Err(Error::Unsupported(format!(
            "{}: with byte_fallback its {field} does what llama.cpp does not: {step}",
            super::bpe::FILE
        )))
    };
    let steps = |rules: &Value, list: &str| match rules.get(list).and_then(Value::as_array) {
        Some(steps) => steps.clone(),
        None if rules.is_null() => Vec::new(),
        None => vec![rules.clone()],
    };
    let space = SPACE.to_string();
    let (mut prefix, mut replaced) = (false, false);
    for step in steps(normalizer, "normalizers") {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == *space => prefix = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == *space => {
                replaced = true;
            }
            _ => return refuse("normalizer", &step),
        }
    }
    for step in steps(pre_tokenizer, "pretokenizers") {
        let is_space = step["type"] == "Metaspace" && step["replacement"] == *space;
        if !is_space || step.get("split").is_none_or(|split| split == true) {
            return refuse("pre_tokenizer", &step);
        }
        prefix |= match step["prepend_scheme"].as_str() {
            Some("always" | "first") => true,
            Some("never") => false,
            None => step["add_prefix_space"] != false,
            Some(_) => return refuse("pre_tokenizer", &step),
        };
        replaced = true;
    }
    match replaced {
        true => Ok(prefix),
        false => refuse("normalizer", normalizer),
    }
}

/// The fields of a protobuf message.
struct Fields<'a>(&'a [u8]);

enum Field<'a> {
    Number(u64),
    Four([u8; 4]),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.number()?;
        let field = match key & 7 {
            0 => Field::Number(self.number()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let length = self.number()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Four(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| Error::file(FILE, "is no protobuf message: it ends inside of a field")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn flag(number: u32, value: u8) -> Vec<u8> {
        let key = number << 3;
        if key < 128 { vec![key as u8, value] } else { vec![key as u8 | 0x80, (key >> 7) as u8, value] }
    }

    fn model(trainer: &[Vec<u8>], normalizer: &[Vec<u8>], pieces: &[(&str, f32, u8)]) -> Vec<u8> {
        let piece = |(text, score, kind): &(&str, f32, u8)| {
            let inner = [field(1, text.as_bytes()), vec![0x15], score.to_le_bytes().to_vec(), flag(3, *kind)];
            field(1, &inner.concat())
        };
        let pieces = pieces.iter().map(piece).collect::<Vec<_>>().concat();
        [pieces, field(2, &trainer.concat()), field(3, &normalizer.concat())].concat()
    }

    #[test]
    fn pieces_have_texts_scores_and_kinds() {
        let pieces = [
            ("<unk>", 0.0, 2),
            ("<s>", 0.0, 3),
            ("<0x0A>", 0.0, 6),
            ("\u{2581}the", -3.5, 1),
            ("own", -7.0, 4),
        ];
        let bytes = model(&[flag(3, 2), flag(35, 1)], &[flag(4, 0)], &pieces);
        let found = read(&bytes, 7).expect("sound");
        let kinds: Vec<_> = found.tokens.iter().flatten().map(|token| token.1).collect();
        assert_eq!(kinds, [Kind::Unknown, Kind::Control, Kind::Byte, Kind::Normal, Kind::Normal]);
        assert_eq!(found.tokens[3].as_ref().map(|token| token.0.as_str()), Some("\u{2581}the"));
        let scores = found.scores.expect("scores");
        assert_eq!(scores.of, [0.0, 0.0, 0.0, -3.5, -7.0, UNUSED, UNUSED]);
        assert!(scores.prefix);
        let other = read(&model(&[flag(3, 2), flag(35, 1)], &[flag(3, 0), flag(4, 0)], &pieces), 7);
        assert!(!other.expect("sound").scores.expect("scores").prefix);
    }

    #[test]
    fn other_kinds_and_damaged_files_are_named() {
        let pieces = [("<unk>", 0.0, 2)];
        let sound = [flag(3, 2), flag(35, 1)];
        for (bytes, words) in [
            (model(&[flag(3, 1), flag(35, 1)], &[flag(4, 0)], &pieces), "kind is unigram"),
            (model(&[flag(3, 2)], &[flag(4, 0)], &pieces), "byte_fallback is not set"),
            (model(&sound, &[], &pieces), "removes extra spaces"),
            (model(&sound, &[flag(4, 0), field(2, b"x")], &pieces), "table of replaced characters"),
            (model(&sound, &[flag(4, 0), flag(5, 0)], &pieces), "does not escape spaces"),
            (model(&sound, &[flag(4, 0)], &[("a", f32::NAN, 1)]), "has the score NaN"),
            (model(&sound, &[flag(4, 0)], &[("a", 0.0, 9)]), "unknown kind 9"),
            (vec![0x0a, 0x05, 0x01], "ends inside of a field"),
            (vec![0xff; 12], "ends inside of a field"),
        ] {
            let error = read(&bytes, 2).expect_err(words).to_string();
            assert!(error.contains(words) && error.contains(FILE), "{error}");
        }
    }

    #[test]
    fn spaces_are_written_in_two_ways_and_no_other() {
        let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        let both = json!({"type": "Sequence", "normalizers": [prepend, replace]});
        let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
        let null = Value::Null;
        assert!(prefix_of(&both, &null).expect("known"));
        assert!(!prefix_of(&replace, &null).expect("known"));
        assert!(prefix_of(&null, &metaspace("first")).expect("known"));
        assert!(!prefix_of(&null, &metaspace("never")).expect("known"));
        let nfkc = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, replace]});
        for (normalizer, pre_tokenizer) in
            [(&null, &null), (&nfkc, &null), (&both, &json!({"type": "Whitespace"}))]
        {
            let error = prefix_of(normalizer, pre_tokenizer).expect_err("unknown");
            assert_eq!(error.exit_code(), 4, "{error}");
        }
    }
}
