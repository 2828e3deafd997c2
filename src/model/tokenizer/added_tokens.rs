//! Tokens that were added to the trained vocabulary and are named outside of it: tokenizer_config.json's
//! `added_tokens_decoder`, and added_tokens.json.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::specials::Specials;
use super::tiktoken::alphabet;
use super::{CONFIG, Kind, added, place};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};

/// Texts and their ids, of old.
const FILE: &str = "added_tokens.json";

const DECODER: &str = "added_tokens_decoder";

/// A token by its id in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    pub id: u32,
    pub content: String,
    pub special: bool,
    /// Whether it takes blanks before and after it, stands between words only, and is looked for after normalisation.
    pub lstrip: bool,
    pub rstrip: bool,
    pub single_word: bool,
    pub normalized: bool,
    file: &'static str,
}

impl Added {
    /// Whether what is said of it here counts more than the tokenizer's own file.
    pub fn counts_most(&self) -> bool {
        self.file == CONFIG
    }
}

#[derive(Deserialize)]
struct Described {
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    normalized: Option<bool>,
}

/// The tokens of both files, by id.
///
/// # Errors
/// If the files contradict each other, or one is not in its form.
pub fn read(checkpoint: &Checkpoint, config: &Config, specials: &Specials) -> Result<Vec<Added>> {
    let mut tokens = Vec::new();
    for (id, token) in config.find::<BTreeMap<u32, Described>>(DECODER)?.unwrap_or_default() {
        let Described { content, special, lstrip, rstrip, single_word, normalized } = token;
        let normalized = normalized.unwrap_or(!special);
        tokens.push(Added { id, content, special, lstrip, rstrip, single_word, normalized, file: CONFIG });
    }
    if let Some(list) = checkpoint.optional_config(FILE)? {
        for content in list.names().map(str::to_owned).collect::<Vec<_>>() {
            let id = list.value(&content).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            let Some(id) = id else {
                return Err(Error::file(FILE, format!("the token {content:?} has no id")));
            };
            let special = specials.names(&content);
            tokens.push(Added {
                id,
                content,
                special,
                lstrip: false,
                rstrip: false,
                single_word: false,
                normalized: !special,
                file: FILE,
            });
        }
    }
    let (mut by_id, mut by_text): (HashMap<u32, Added>, HashMap<String, u32>) = Default::default();
    let mut found: Vec<Added> = Vec::new();
    for token in tokens {
        if let Some(other) = by_id.get(&token.id) {
            if other.content != token.content {
                return Err(contradiction(&token, other.file, &other.content, other.id));
            }
            continue;
        }
        if let Some(id) = by_text.insert(token.content.clone(), token.id) {
            let file = by_id[&id].file;
            return Err(contradiction(&token, file, &token.content, id));
        }
        by_id.insert(token.id, token.clone());
        found.push(token);
    }
    found.sort_by_key(|token| token.id);
    Ok(found)
}

fn contradiction(token: &Added, file: &str, content: &str, id: u32) -> Error {
    let problem = format!(
        "the token {:?} has id {}, but in {file} {content:?} has id {id}; ids must agree",
        token.content, token.id
    );
    Error::file(token.file, problem)
}

/// Puts them among the tokens that `file` gives, by transformers' order of precedence: what added_tokens_decoder says
/// of a token counts more than the tokenizer's own file, and that more than added_tokens.json.
///
/// # Errors
/// If an id has another text there, a text another id, or an id is none of the model.
pub fn join(file: &str, tokens: &mut [Option<(String, Kind)>], list: &[Added]) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let ids =
        tokens.iter().enumerate().filter_map(|(id, token)| Some((token.as_ref()?.0.clone(), id as u32)));
    let ids: HashMap<String, u32> = ids.collect();
    for token in list {
        let (text, kind) = added(token.content.clone(), token.special);
        let trained = alphabet(token.content.as_bytes());
        match tokens.get(token.id as usize).and_then(Option::as_ref) {
            Some((other, _)) if *other != text && *other != token.content && *other != trained => {
                return Err(contradiction(token, file, other, token.id));
            }
            Some((_, Kind::Control | Kind::UserDefined)) if !token.counts_most() => {}
            Some(_) => place(token.file, tokens, token.id, text, kind)?,
            None => {
                if let Some(id) = ids.get(&text).or_else(|| ids.get(&token.content)) {
                    return Err(contradiction(token, file, &token.content, *id));
                }
                place(token.file, tokens, token.id, text, kind)?;
            }
        }
    }
    Ok(())
}
