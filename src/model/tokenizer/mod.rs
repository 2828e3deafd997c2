//! The tokenizer as GGUF metadata: from tokenizer.json, or from Kimi's tiktoken.model.

mod bpe;
mod encode;
mod pre;
mod split;
mod tiktoken;

pub use encode::Encoder;

use std::collections::HashSet;

use serde::Deserialize;

use crate::checkpoint::{Checkpoint, Config, GENERATION_CONFIG, MAX_JSON, exists, read_file};
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};

const CONFIG: &str = "tokenizer_config.json";

/// What GGUF says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
}

/// Tokens by id, how they were merged, and how text is split before that.
#[derive(Debug)]
struct Vocabulary {
    /// Text and kind by id; None where no token has the id.
    tokens: Vec<Option<(String, Kind)>>,
    merges: Vec<String>,
    splitter: split::Splitter,
}

/// A byte-level BPE tokenizer, ready to be written.
#[derive(Debug)]
pub struct Tokenizer {
    pre: String,
    tokens: Vec<String>,
    kinds: Vec<i32>,
    merges: Vec<String>,
    bos: Option<u32>,
    eos: Option<u32>,
    padding: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    templates: Vec<(String, String)>,
}

impl Tokenizer {
    /// Reads the checkpoint's tokenizer for a model of `size` token ids; `pre` overrides the recognised splitter.
    ///
    /// # Errors
    /// If there is none, it is no byte-level BPE, its splitting rules are unknown and no `pre` is given, or its ids
    /// do not fit the model.
    pub fn read(checkpoint: &Checkpoint, size: u32, pre: Option<&str>) -> Result<Self> {
        pre.map_or(Ok(()), pre::check)?;
        let source = checkpoint.source();
        let config = match checkpoint.optional_config(CONFIG)? {
            Some(config) => config,
            None => Config::parse_as(CONFIG, b"{}")?,
        };
        let vocabulary = if exists(source, bpe::FILE)? {
            bpe::read(&read_file(source, bpe::FILE, MAX_JSON)?, size, pre)?
        } else if exists(source, tiktoken::FILE)? {
            tiktoken::read(&read_file(source, tiktoken::FILE, MAX_JSON)?, &config, size, pre)?
        } else {
            return Err(Error::file(bpe::FILE, format!("is not there, nor is {}", tiktoken::FILE)));
        };

        let mut tokens = Vec::with_capacity(size as usize);
        let mut kinds = Vec::with_capacity(size as usize);
        for (id, token) in vocabulary.tokens.into_iter().enumerate() {
            let (text, kind) = token.unwrap_or_else(|| (format!("[PAD{id}]"), Kind::Unused));
            tokens.push(text);
            kinds.push(kind as i32);
        }
        let mut seen = HashSet::new();
        if let Some(twice) = tokens.iter().find(|text| !seen.insert(text.as_str())) {
            return Err(Error::file(bpe::FILE, format!("two ids have the text {twice:?}")));
        }

        let id = |field: &str| special(checkpoint, &config, &tokens, field);
        let (bos, eos) = (id("bos_token")?, id("eos_token")?);
        if eos.is_none() {
            // llama.cpp would take token 11 without a word.
            return Err(
                config.fault("eos_token", "is missing, and no eos_token_id is in the other files".into())
            );
        }
        Ok(Self {
            pre: vocabulary.splitter.name,
            bos,
            eos,
            padding: id("pad_token")?,
            add_bos: config.find("add_bos_token")?.unwrap_or(vocabulary.splitter.adds_bos && bos.is_some()),
            add_eos: config.find("add_eos_token")?.unwrap_or(false),
            templates: templates(checkpoint, &config)?,
            tokens,
            kinds,
            merges: vocabulary.merges,
        })
    }

    /// Writes the `tokenizer.*` keys.
    pub fn describe(self, metadata: &mut Metadata) {
        metadata.set("tokenizer.ggml.model", "gpt2".into());
        metadata.set("tokenizer.ggml.pre", Value::String(self.pre));
        metadata.set("tokenizer.ggml.tokens", Value::Strings(self.tokens));
        metadata.set("tokenizer.ggml.token_type", Value::I32s(self.kinds));
        metadata.set("tokenizer.ggml.merges", Value::Strings(self.merges));
        for (key, id) in [("bos", self.bos), ("eos", self.eos), ("padding", self.padding)] {
            if let Some(id) = id {
                metadata.set(format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
            }
        }
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(self.add_bos));
        metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(self.add_eos));
        let mut named = Vec::new();
        for (name, template) in self.templates {
            if name == "default" {
                metadata.set("tokenizer.chat_template", Value::String(template));
            } else {
                metadata.set(format!("tokenizer.chat_template.{name}"), Value::String(template));
                named.push(name);
            }
        }
        if !named.is_empty() {
            metadata.set("tokenizer.chat_templates", Value::Strings(named));
        }
    }
}

/// A token named in tokenizer_config.json: its text, or an object with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Token { content: String },
}

/// The id of a special token: by its text in tokenizer_config.json, else by number in config.json or
/// generation_config.json.
fn special(checkpoint: &Checkpoint, config: &Config, tokens: &[String], field: &str) -> Result<Option<u32>> {
    if let Some(named) = config.find::<Named>(field)? {
        let (Named::Text(text) | Named::Token { content: text }) = named;
        return match tokens.iter().position(|token| *token == text) {
            Some(id) => Ok(Some(id as u32)),
            None => Err(config.fault(field, format!("is {text:?}, which is no token"))),
        };
    }
    let by_number = format!("{field}_id");
    if let Some(id) = numbered(checkpoint.config(), tokens.len(), &by_number)? {
        return Ok(Some(id));
    }
    match checkpoint.optional_config(GENERATION_CONFIG)? {
        Some(generation) => numbered(&generation, tokens.len(), &by_number),
        None => Ok(None),
    }
}

/// A token id, or the first of a list of them.
fn numbered(config: &Config, tokens: usize, field: &str) -> Result<Option<u32>> {
    let Some(value) = config.find::<serde_json::Value>(field)? else { return Ok(None) };
    let first = value.as_array().map_or(Some(&value), |list| list.first());
    match first.and_then(serde_json::Value::as_u64) {
        Some(id) if id < tokens as u64 => Ok(Some(id as u32)),
        _ => Err(config.fault(field, format!("is {value}; expected the id of one of {tokens} tokens"))),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// More chat templates are refused; models have up to three.
const MAX_TEMPLATES: usize = 100;

/// Chat templates by name, the usual one as "default"; a file of its own goes before the configuration.
fn templates(checkpoint: &Checkpoint, config: &Config) -> Result<Vec<(String, String)>> {
    const FILE: &str = "chat_template.jinja";
    if exists(checkpoint.source(), FILE)? {
        let text = String::from_utf8(read_file(checkpoint.source(), FILE, MAX_JSON)?)
            .map_err(|e| Error::file(FILE, format!("is not UTF-8: {e}")))?;
        return Ok(vec![("default".to_owned(), text)]);
    }
    Ok(match config.find::<Templates>("chat_template")? {
        None => Vec::new(),
        Some(Templates::One(text)) => vec![("default".to_owned(), text)],
        Some(Templates::Named(list)) if list.len() > MAX_TEMPLATES => {
            let problem = format!("lists {} templates; at most {MAX_TEMPLATES} are expected", list.len());
            return Err(config.fault("chat_template", problem));
        }
        Some(Templates::Named(list)) => list.into_iter().map(|t| (t.name, t.template)).collect(),
    })
}

/// Puts a token at its id.
fn place(file: &str, tokens: &mut [Option<(String, Kind)>], id: u32, text: String, kind: Kind) -> Result<()> {
    let size = tokens.len();
    match tokens.get_mut(id as usize) {
        Some(slot) => *slot = Some((text, kind)),
        None => {
            let problem = format!("token {text:?} has id {id}, but config.json's vocab_size is {size}");
            return Err(Error::file(file, problem));
        }
    }
    Ok(())
}

/// The text and kind of a token that was added to the trained vocabulary.
fn added(text: String, special: bool) -> (String, Kind) {
    let bracketed = |open, close| text.starts_with(open) && text.ends_with(close);
    let looks_special = bracketed("<|", "|>")
        || bracketed("<｜", "｜>")
        || bracketed("<unused", ">")
        || ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text.as_str());
    if special || looks_special {
        (text, Kind::Control)
    } else {
        // A user-defined token matches text, where the mark stands for a space.
        (text.replace('\u{2581}', " "), Kind::UserDefined)
    }
}
