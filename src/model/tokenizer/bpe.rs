//! tokenizer.json of Hugging Face's `tokenizers`: a byte-level BPE, or one of SentencePiece's pieces (byte_fallback). Pure:
//! bytes in, vocabulary out.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::sentencepiece::{Rules, of_merges};
use super::{Around, Kind, Vocabulary, added, place, pre, split};
use crate::checkpoint::Pairs;
use crate::error::{Error, Result};

pub const FILE: &str = "tokenizer.json";

/// Rules of more bytes are refused before they become a tree of values; R1's have 1 kB.
const MAX_RULES: usize = 1 << 20;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    model: Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
}

#[derive(Deserialize)]
struct Bpe {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    unk_token: Option<String>,
    vocab: Pairs<u32>,
    merges: Vec<Merge>,
}

/// A pair of tokens: joined by a space in older files.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair([String; 2]),
}

/// The vocabulary of `size` ids; `pre` overrides the recognised splitter.
pub fn read(json: &[u8], size: u32, pre: Option<&str>) -> Result<Vocabulary> {
    let file: File = serde_json::from_slice(json)
        .map_err(|e| Error::file(FILE, format!("expected a tokenizer of Hugging Face's library: {e}")))?;
    let kind = file.model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(Error::Unsupported(format!("{FILE}: model is {kind}; BPE is known")));
    }
    let pieces = file.model.byte_fallback;
    for (field, mark) in [
        ("continuing_subword_prefix", &file.model.continuing_subword_prefix),
        ("end_of_word_suffix", &file.model.end_of_word_suffix),
    ] {
        if let Some(mark) = mark.as_deref().filter(|mark| !mark.is_empty()) {
            let problem = format!(
                "{FILE}: model.{field} is {mark:?}; byte-level BPE has none, and llama.cpp knows none"
            );
            return Err(Error::Unsupported(problem));
        }
    }
    let normalizer = rules("normalizer", file.normalizer)?;
    let pre_tokenizer = rules("pre_tokenizer", file.pre_tokenizer)?;
    let refusal = format!("{FILE}: has a normalizer, which llama.cpp does not apply: {normalizer}");
    if !pieces && !is_empty(&normalizer) && !composes(&normalizer) {
        return Err(Error::Unsupported(refusal));
    }
    let splitter = match pre {
        Some(name) => split::Splitter::named(name),
        None if pieces => split::Splitter::named("default"),
        None => split::recognise(&pre_tokenizer, &texts(&file.added_tokens))?,
    };
    let processor = rules("post_processor", file.post_processor)?;
    let around = around(&processor);
    if composes(&normalizer) && !splitter.composes() {
        return Err(Error::Unsupported(refusal));
    }

    let mut doubts: Vec<String> = more_than_one(&processor).into_iter().collect();
    if !pieces && !file.model.ignore_merges && pre::ignores_merges(&splitter.name) {
        doubts.push(format!(
            "model.ignore_merges is not true, but llama.cpp takes words that are tokens whole with pre-tokenizer {}, even where \
             merges do not lead to them",
            splitter.name
        ));
    }
    if file.model.ignore_merges && !pre::ignores_merges(&splitter.name) {
        doubts.push(format!(
            "model.ignore_merges is true, which llama.cpp does not do with pre-tokenizer {}: words that are tokens may be cut \
             there",
            splitter.name
        ));
    }
    if let Some(token) =
        file.added_tokens.iter().find(|token| token.lstrip || token.rstrip || token.single_word)
    {
        doubts.push(format!(
            "the added token {:?} takes blanks beside it, or stands between words only (lstrip, rstrip, single_word), which \
             llama.cpp does not do",
            token.content
        ));
    }
    let merges: Vec<String> = file.model.merges.into_iter().map(Merge::joined).collect();
    check(&merges, &file.model.vocab)?;
    let mut tokens = vec![None; size as usize];
    for (text, id) in file.model.vocab.0 {
        if let Some(Some((first, _))) = tokens.get(id as usize) {
            return Err(Error::file(FILE, format!("tokens {first:?} and {text:?} both have id {id}")));
        }
        place(FILE, &mut tokens, id, text, Kind::Normal)?;
    }
    let mut ids = HashSet::new();
    for token in file.added_tokens {
        if !ids.insert(token.id) {
            let problem = format!("two added tokens have id {}, one is {:?}", token.id, token.content);
            return Err(Error::file(FILE, problem));
        }
        let (text, kind) = added(token.content, token.special);
        place(FILE, &mut tokens, token.id, text, kind)?;
    }
    if pieces {
        let rules = Rules { normalizer: &normalizer, pre_tokenizer: &pre_tokenizer, merges: &merges };
        let found = of_merges(tokens, &rules, file.model.unk_token.as_deref(), around)?;
        return Ok(Vocabulary { doubts, ..found });
    }
    Ok(Vocabulary { tokens, merges, scores: None, splitter, around, doubts })
}

/// Whether digits and ideographs are split out first; None if the splitting rules are unknown, so that it cannot be
/// said where matches end.
pub fn splits_known(json: &[u8]) -> Option<bool> {
    let file: File = serde_json::from_slice(json).ok()?;
    let normalizer = rules("normalizer", file.normalizer).ok()?;
    let pre_tokenizer = rules("pre_tokenizer", file.pre_tokenizer).ok()?;
    let splitter = split::recognise(&pre_tokenizer, &texts(&file.added_tokens)).ok()?;
    if !splitter.ends_at_lines() {
        return None;
    }
    // No mark that could be composed with a letter before it stands behind a place where texts are cut.
    let known = is_empty(&normalizer) || composes(&normalizer);
    known.then_some(splitter.name == split::V3)
}

/// Whether it is one of SentencePiece's pieces.
pub fn has_pieces(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(default)]
        byte_fallback: bool,
    }
    serde_json::from_slice::<File>(json).is_ok_and(|file| file.model.byte_fallback)
}

fn texts(added: &[Added]) -> Vec<&str> {
    added.iter().map(|token| token.content.as_str()).collect()
}

/// What a post-processor puts around a single text.
fn around(processor: &Value) -> Around {
    let steps = match processor.get("processors").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![processor],
    };
    let template = steps.into_iter().rev().find(|step| step["type"] == "TemplateProcessing");
    match template.and_then(|template| template["single"].as_array()) {
        Some(parts) => {
            let special = |part: Option<&Value>| {
                part.and_then(|part| part["SpecialToken"]["id"].as_str()).map(str::to_owned)
            };
            Around::Tokens([special(parts.first()), special(parts.last())])
        }
        None if processor.is_null() => Around::Unsaid,
        None => Around::Nothing,
    }
}

/// What a post-processor does besides putting one token before and one after a single text: llama.cpp does no more.
fn more_than_one(processor: &Value) -> Option<String> {
    let steps: Vec<&Value> = match processor.get("processors").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None if processor.is_null() => return None,
        None => vec![processor],
    };
    let kind = |step: &Value| step["type"].as_str().unwrap_or_default().to_owned();
    let known = ["ByteLevel", "TemplateProcessing"];
    if let Some(step) = steps.iter().find(|step| !known.contains(&&*kind(step))) {
        return Some(format!(
            "post_processor is {:?}, which adds tokens that llama.cpp does not",
            kind(step)
        ));
    }
    let parts = steps.iter().filter_map(|step| step["single"].as_array()).flatten();
    let mut before = Vec::new();
    let mut text = false;
    let mut after = 0;
    for part in parts {
        match part["SpecialToken"]["id"].as_str() {
            Some(token) if !text => before.push(token),
            Some(_) => after += 1,
            None => text = true,
        }
    }
    (before.len() > 1 || after > 1).then(|| {
        format!(
            "post_processor puts {} tokens before a text and {after} behind it; llama.cpp has one of each",
            before.len()
        )
    })
}

/// Every merge must join two tokens to a third, or no reader can use it.
fn check(merges: &[String], vocab: &Pairs<u32>) -> Result<()> {
    let texts: HashSet<&str> = vocab.0.iter().map(|(text, _)| text.as_str()).collect();
    let mut whole = String::new();
    for (number, merge) in merges.iter().enumerate() {
        let sides = merge.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let fault =
            |what: String| Err(Error::file(FILE, format!("model.merges, entry {number} ({merge:?}) {what}")));
        let Some((left, right)) = sides else { return fault("does not name two tokens".to_owned()) };
        whole.clear();
        whole.extend([left, right]);
        if let Some(other) = [left, right, &whole].into_iter().find(|text| !texts.contains(text)) {
            return fault(format!("needs {other:?}, which is no token"));
        }
    }
    Ok(())
}

/// A part of the file as plain JSON.
fn rules(field: &str, json: Option<&RawValue>) -> Result<Value> {
    let Some(json) = json.map(RawValue::get) else { return Ok(Value::Null) };
    if json.len() > MAX_RULES {
        return Err(Error::file(
            FILE,
            format!("{field} has {} bytes; at most {MAX_RULES} are expected", json.len()),
        ));
    }
    serde_json::from_str(json).map_err(|e| Error::file(FILE, format!("{field}: {e}")))
}

impl Merge {
    fn joined(self) -> String {
        match self {
            Self::Joined(text) => text,
            // A space inside of a side would be taken for the one between; in the byte alphabet it is U+0120.
            Self::Pair(sides) => sides.map(|side| side.replace(' ', "\u{120}")).join(" "),
        }
    }
}

/// Whether it composes letters and marks (NFC) and does no more. Qwen's tokenizers do, and llama.cpp, which does not,
/// is used with them all the same: nearly every text is composed already.
fn composes(normalizer: &Value) -> bool {
    match normalizer["normalizers"].as_array() {
        Some(steps) => normalizer["type"] == "Sequence" && !steps.is_empty() && steps.iter().all(composes),
        None => *normalizer == json!({"type": "NFC"}),
    }
}

fn is_empty(normalizer: &Value) -> bool {
    match normalizer {
        Value::Null => true,
        Value::Object(fields) => {
            fields.get("normalizers").and_then(Value::as_array).is_some_and(Vec::is_empty)
        }
        _ => false,
    }
}
