//! tokenizer.json of Hugging Face's `tokenizers`: a byte-level BPE. Pure: bytes in, vocabulary out.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use super::{Kind, Vocabulary, added, place, split};
use crate::checkpoint::Pairs;
use crate::error::{Error, Result};

pub const FILE: &str = "tokenizer.json";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
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
    if kind != "BPE" || file.model.byte_fallback {
        let found = if kind == "BPE" { "BPE with byte_fallback" } else { kind };
        return Err(Error::Unsupported(format!("{FILE}: model is {found}; byte-level BPE is known")));
    }
    if !is_empty(&file.normalizer) {
        let problem =
            format!("{FILE}: has a normalizer, which llama.cpp does not apply: {}", file.normalizer);
        return Err(Error::Unsupported(problem));
    }
    let splitter = match pre {
        Some(name) => split::Splitter::named(name),
        None => split::recognise(&file.pre_tokenizer)?,
    };

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
    Ok(Vocabulary { tokens, merges: file.model.merges.into_iter().map(Merge::joined).collect(), splitter })
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

fn is_empty(normalizer: &Value) -> bool {
    match normalizer {
        Value::Null => true,
        Value::Object(fields) => {
            fields.get("normalizers").and_then(Value::as_array).is_some_and(Vec::is_empty)
        }
        _ => false,
    }
}
