//! Which tokens begin, end and fill a text: by their text in tokenizer_config.json or special_tokens_map.json, else by number
//! in config.json or generation_config.json.

use serde_json::Value;

use super::CONFIG;
use crate::checkpoint::{Checkpoint, Config, GENERATION_CONFIG};
use crate::error::Result;

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
