//! The tokenizer of a GGUF file's keys, as the tokenizer.json that it would be: so both are read by the same library.

use super::joined::Joiner;
use super::sentencepiece::Scores;
use super::split::Splitter;
use super::{Kind, as_json};
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};

/// SentencePiece's pieces, if the file has them ("llama").
///
/// # Errors
/// If keys are missing that go with them.
pub fn pieces(file: &str, metadata: &Metadata) -> Result<Option<Joiner>> {
    let key = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    if key("model").and_then(Value::as_str) != Some("llama") {
        return Ok(None);
    }
    let fault = |problem: &str| {
        let problem = format!("text cannot be read: the key tokenizer.ggml.{problem}");
        Error::Gguf { file: file.to_owned(), problem }
    };
    let Some(Value::Strings(tokens)) = key("tokens") else {
        return Err(fault("tokens is no list of texts"));
    };
    let of = match key("scores") {
        Some(Value::F32s(scores)) if scores.len() == tokens.len() => scores.clone(),
        _ => return Err(fault("scores has not one number for each token")),
    };
    let kinds = match key("token_type") {
        Some(Value::I32s(kinds)) if kinds.len() == tokens.len() => kinds,
        _ => return Err(fault("token_type has not one number for each token")),
    };
    let prefix = key("add_space_prefix") != Some(&Value::Bool(false));
    let kinds = kinds.iter().map(|kind| Kind::of(*kind));
    Ok(Some(Joiner::new(tokens.iter().map(String::as_str).zip(kinds), Scores { of, prefix })))
}

/// tokenizer.json for the keys `tokenizer.ggml.*` of a file.
///
/// # Errors
/// If they are missing, or of a kind whose splitting rules are not known here.
pub fn json(file: &str, metadata: &Metadata) -> Result<Vec<u8>> {
    let fault = |key: &str, problem: &str| Error::Gguf {
        file: file.to_owned(),
        problem: format!("text cannot be read: the key tokenizer.ggml.{key} {problem}"),
    };
    let key = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let text = |name: &str| {
        key(name).and_then(Value::as_str).ok_or_else(|| fault(name, "is not there, or is no text"))
    };
    let model = text("model")?;
    if model != "gpt2" {
        let problem = format!(
            "{file}: texts can be read by tokenizers of the kinds \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece's BPE); \
             this is \"{model}\""
        );
        return Err(Error::Unsupported(problem));
    }
    let pre = text("pre")?;
    let steps = Splitter::steps(pre).ok_or_else(|| {
        Error::Unsupported(format!("{file}: the splitting rules \"{pre}\" (tokenizer.ggml.pre) are not known here, so no text can be read"))
    })?;
    let Some(Value::Strings(tokens)) = key("tokens") else {
        return Err(fault("tokens", "is no list of texts"));
    };
    let Some(Value::Strings(merges)) = key("merges") else {
        return Err(fault("merges", "is no list of texts"));
    };
    let kinds = match key("token_type") {
        Some(Value::I32s(kinds)) if kinds.len() == tokens.len() => kinds.clone(),
        None => vec![Kind::Normal as i32; tokens.len()],
        Some(_) => return Err(fault("token_type", "has not one number for each token")),
    };

    let kinds = kinds.into_iter().map(Kind::of);
    let tokens = tokens.iter().map(String::as_str).zip(kinds);
    Ok(as_json::of(pre, steps, tokens, merges))
}
