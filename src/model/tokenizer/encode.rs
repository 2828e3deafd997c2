//! Text to token ids, by the checkpoint's own tokenizer.json.

use std::collections::HashMap;

use tokenizers::{AddedToken, ModelWrapper};

use super::pieces::{Borders, Cutter, Literal};
use super::specials::Specials;
use super::{Kind, added, added_tokens, bpe, config, from_gguf};
use crate::checkpoint::{Checkpoint, MAX_JSON, exists, read_file};
use crate::error::{Error, Result};

/// Turns text into ids, as llama.cpp does when it does not parse special tokens.
#[derive(Debug)]
pub struct Encoder {
    /// The file that describes it.
    file: String,
    tokenizer: tokenizers::Tokenizer,
    /// The model's ids of tokens that the library counts otherwise.
    ids: HashMap<u32, u32>,
    borders: Option<Borders>,
}

impl Encoder {
    /// Reads tokenizer.json, and the tokens that other files add; or the keys of a GGUF file.
    ///
    /// # Errors
    /// If there is none (Kimi's models have tiktoken.model instead), or the library cannot read it.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self> {
        if let Some(metadata) = checkpoint.metadata() {
            let file = checkpoint.listing();
            let json = from_gguf::json(file, metadata)?;
            let tokenizer = library(file, &json)?;
            let borders = borders(&json, &tokenizer);
            return Ok(Self { file: file.to_owned(), tokenizer, ids: HashMap::new(), borders });
        }
        let source = checkpoint.source();
        if !exists(source, bpe::FILE)? {
            let problem = "is not there; text can be read only by the tokenizer that it describes";
            return Err(Error::Unsupported(format!("{}: {problem}", bpe::FILE)));
        }
        let json = read_file(source, bpe::FILE, MAX_JSON)?;
        let fault = |e| Error::file(bpe::FILE, format!("cannot be used to read text: {e}"));
        let mut tokenizer = library(bpe::FILE, &json)?;

        let config = config(checkpoint)?;
        let list = added_tokens::read(checkpoint, &config, &Specials::read(checkpoint, &config)?)?;
        let known: Vec<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
        let is_known = |content: &str| known.iter().any(|token| token.content == content);
        let other =
            list.iter().filter(|token| token.counts_most() || !is_known(&token.content)).map(|token| {
                AddedToken::from(token.content.as_str(), token.special)
                    .lstrip(token.lstrip)
                    .rstrip(token.rstrip)
                    .single_word(token.single_word)
                    .normalized(token.normalized)
            });
        // The text of a control token is never matched in a text, whatever the tokenizer's file says.
        let controls = |mut token: AddedToken| {
            token.special = added(token.content.clone(), token.special).1 == Kind::Control;
            token
        };
        let new: Vec<AddedToken> = known.iter().cloned().chain(other).map(controls).collect();
        tokenizer.add_tokens(new).map_err(fault)?;
        let ids = list.iter().filter_map(|token| Some((tokenizer.token_to_id(&token.content)?, token.id)));
        let ids = ids.filter(|(library, model)| library != model).collect();
        let borders = borders(&json, &tokenizer);
        Ok(Self { file: bpe::FILE.to_owned(), tokenizer, ids, borders })
    }

    /// The ids of a text, nothing added before or after.
    ///
    /// # Errors
    /// If the tokenizer cannot read it, or makes ids that the model does not have.
    pub fn encode(&self, text: &str, vocabulary: usize) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|e| Error::file(&self.file, format!("cannot read the text: {e}")))?;
        let ids = encoding.get_ids().iter();
        let ids: Vec<u32> = ids.map(|id| self.ids.get(id).copied().unwrap_or(*id)).collect();
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            None => Ok(ids),
            Some(id) => {
                let problem = format!("makes the id {id}, but the model has {vocabulary}");
                Err(Error::file(&self.file, problem))
            }
        }
    }

    /// Cuts a long text into pieces of about so many bytes that have, one after another, the ids of the whole.
    pub fn cutter(&self, piece: usize) -> Cutter {
        Cutter::new(self.borders.clone(), piece)
    }
}

/// The library's tokenizer of a tokenizer.json, as we use it.
fn library(file: &str, json: &[u8]) -> Result<tokenizers::Tokenizer> {
    let fault = |e| Error::file(file, format!("cannot be used to read text: {e}"));
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(fault)?;
    // Truncation, padding and dropout that training left in the file are switched off: a text is read whole, and
    // alike each time.
    tokenizer.with_truncation(None).map_err(fault)?;
    tokenizer.with_padding(None);
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        tokenizer.with_model(bpe);
    }
    // A text that speaks of "<|User|>" does not end a turn.
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
}

/// Where its texts may be cut.
fn borders(json: &[u8], tokenizer: &tokenizers::Tokenizer) -> Option<Borders> {
    bpe::splits_known(json).map(|classes| Borders { classes, literals: literals(tokenizer) })
}

/// The tokens that are searched for in a text before it is split.
fn literals(tokenizer: &tokenizers::Tokenizer) -> Vec<Literal> {
    let tokens = tokenizer.get_added_tokens_decoder();
    let looked_for = tokens.into_values().filter(|token| !token.special);
    let literal = |token: AddedToken| Literal {
        strips: [token.lstrip, token.rstrip],
        single_word: token.single_word,
        text: token.content,
    };
    looked_for.map(literal).collect()
}
