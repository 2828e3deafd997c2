//! Which tokens begin, end and fill a text: by their text in tokenizer_config.json or special_tokens_map.json, else
//! by number in config.json or generation_config.json.

use serde_json::Value;

use super::CONFIG;
use crate::checkpoint::{Checkpoint, Config, GENERATION_CONFIG};
use crate::error::{Result, Warning};

const MAP: &str = "special_tokens_map.json";

/// All names that both files have for tokens.
const NAMES: [&str; 8] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
    "additional_special_tokens",
];

/// The files that name special tokens, in the order in which transformers believes them.
#[derive(Debug)]
pub struct Specials {
    named: Vec<Config>,
    numbered: Vec<Config>,
}

impl Specials {
    /// Reads them; `config` is tokenizer_config.json.
    ///
    /// # Errors
    /// If one is no JSON object.
    pub fn read(checkpoint: &Checkpoint, config: &Config) -> Result<Self> {
        let mut named = vec![config.clone()];
        if let Some(map) = checkpoint.optional_config(MAP)? {
            // Where tokenizer_config.json lists the added tokens, it is the newer one of the two.
            let place = if config.has("added_tokens_decoder") { 1 } else { 0 };
            named.insert(place, map);
        }
        let mut numbered = vec![checkpoint.config().clone()];
        numbered.extend(checkpoint.optional_config(GENERATION_CONFIG)?);
        Ok(Self { named, numbered })
    }

    /// The id of a special token, if a file has it.
    ///
    /// # Errors
    /// If it is no token.
    pub fn id(&self, field: &str, tokens: &[String]) -> Result<Option<u32>> {
        for config in &self.named {
            let Some(value) = config.value(field) else { continue };
            let Some(text) = text(value) else {
                return Err(config.fault(field, format!("is {value}; expected a token's text")));
            };
            return match tokens.iter().position(|token| *token == text) {
                Some(id) => Ok(Some(id as u32)),
                None => Err(config.fault(field, format!("is {text:?}, which is no token"))),
            };
        }
        let by_number = format!("{field}_id");
        for config in &self.numbered {
            if let Some(id) = number(config, tokens.len(), &by_number)? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// A warning for each token that begins, ends or fills a text and that the files do not agree on. What is named
    /// goes before what is numbered, and what stands first before the others.
    pub fn doubts(&self, tokens: &[String]) -> Vec<Warning> {
        let mut found = Vec::new();
        for field in ["bos_token", "eos_token", "pad_token"] {
            let named = self.named.iter().filter_map(|config| Some((config, text(config.value(field)?)?)));
            let mut named = named.collect::<Vec<_>>().into_iter();
            let Some((first, counts)) = named.next() else { continue };
            if let Some((other, text)) = named.find(|(_, text)| *text != counts) {
                let problem =
                    format!("is {text:?}, but {} {counts:?}, which counts", first.says(field, "is"));
                found.push(Warning::new(other.fault(field, problem)));
            }
            let field_id = format!("{field}_id");
            for config in &self.numbered {
                let ids = config.value(&field_id).map_or(Vec::new(), |value| match value.as_array() {
                    Some(list) => list.iter().map(Value::as_i64).collect(),
                    None => vec![value.as_i64()],
                });
                let is_token = |id: &Option<i64>| {
                    id.and_then(|id| usize::try_from(id).ok()).is_some_and(|id| id < tokens.len())
                };
                if let Some(id) = ids.iter().find(|id| !is_token(id)) {
                    let shown = id.map_or("no number".to_owned(), |id| id.to_string());
                    let problem = format!(
                        "is {shown}, which is the id of none of {} tokens; {} {counts:?}, which counts",
                        tokens.len(),
                        first.says(field, "is")
                    );
                    found.push(Warning::new(config.fault(&field_id, problem)));
                }
            }
            // Of config.json's own numbers one should be the token; generation_config.json may well stop at others.
            let id = tokens.iter().position(|token| token == counts).map(|id| id as u64);
            let config = &self.numbered[0];
            if let Some(value) = config.value(&field_id).filter(|_| field != "pad_token")
                && value.as_u64().is_some_and(|other| other < tokens.len() as u64 && Some(other) != id)
            {
                let problem = format!("is {value}; {} {counts:?}, which counts", first.says(field, "is"));
                found.push(Warning::new(config.fault(&field_id, problem)));
            }
        }
        found
    }

    /// Whether one of the files names this text as a special token.
    pub fn names(&self, content: &str) -> bool {
        let is_it = |value: &Value| text(value) == Some(content);
        self.named.iter().flat_map(|config| NAMES.iter().filter_map(|name| config.value(name))).any(|value| {
            match value.as_array() {
                Some(list) => list.iter().any(is_it),
                None => is_it(value),
            }
        })
    }

    /// The files that may name a token, for messages.
    pub fn files() -> String {
        format!("{CONFIG}, {MAP}, config.json and {GENERATION_CONFIG}")
    }
}

/// A token's text: itself, or what an object has as its content.
fn text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A token id, or the first of a list of them.
fn number(config: &Config, tokens: usize, field: &str) -> Result<Option<u32>> {
    let Some(value) = config.value(field) else { return Ok(None) };
    let first = value.as_array().map_or(Some(value), |list| list.first());
    match first.and_then(Value::as_u64) {
        Some(id) if id < tokens as u64 => Ok(Some(id as u32)),
        _ => Err(config.fault(field, format!("is {value}; expected the id of one of {tokens} tokens"))),
    }
}
