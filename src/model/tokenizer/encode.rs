//! Text to token ids, by the checkpoint's own tokenizer.json, by SentencePiece's pieces, or by Kimi's ranks.

use std::collections::{HashMap, HashSet};

use tokenizers::{AddedToken, ModelWrapper};

use super::joined::Joiner;
use super::pieces::{Borders, Cutter, Literal};
use super::specials::Specials;
use super::split::Splitter;
use super::{Kind, added, added_tokens, as_json, bpe, config, from_gguf, sentencepiece, tiktoken};
use crate::checkpoint::{Checkpoint, MAX_JSON, exists, read_file};
use crate::error::{Error, Result};
use crate::model::keys::MAX_VOCABULARY;

/// Turns text into ids, as llama.cpp does when it does not parse special tokens.
#[derive(Debug)]
pub struct Encoder {
    /// The file that describes it.
    file: String,
    way: Way,
    borders: Option<Borders>,
}

/// How text is read.
#[derive(Debug)]
enum Way {
    /// By the library, which counts some tokens otherwise than the model.
    Library(Box<tokenizers::Tokenizer>, HashMap<u32, u32>),
    Pieces(Box<Joiner>),
}

impl Encoder {
    /// Reads tokenizer.json, tokenizer.model or tiktoken.model, and the tokens that other files add; or the keys of a GGUF
    /// file.
    ///
    /// # Errors
    /// If there is none, or the library cannot read it.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self> {
        if let Some(metadata) = checkpoint.metadata() {
            let file = checkpoint.listing();
            if let Some(joiner) = from_gguf::pieces(file, metadata)? {
                return Ok(Self::of_pieces(file, joiner));
            }
            let json = from_gguf::json(file, metadata)?;
            let tokenizer = library(file, &json)?;
            let borders = borders(&json, &tokenizer);
            let way = Way::Library(Box::new(tokenizer), HashMap::new());
            return Ok(Self { file: file.to_owned(), way, borders });
        }
        if let Some((file, joiner)) = pieces(checkpoint)? {
            return Ok(Self::of_pieces(file, joiner));
        }
        let source = checkpoint.source();
        if !exists(source, bpe::FILE)? {
            if exists(source, tiktoken::FILE)? {
                return Self::of_ranks(checkpoint);
            }
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
        Ok(Self { file: bpe::FILE.to_owned(), way: Way::Library(Box::new(tokenizer), ids), borders })
    }

    /// Of tokens by rank: the library joins by the merges that follow from them.
    fn of_ranks(checkpoint: &Checkpoint) -> Result<Self> {
        let file = tiktoken::FILE;
        let size = checkpoint.config().count("vocab_size", MAX_VOCABULARY)?;
        let config = config(checkpoint)?;
        let specials = Specials::read(checkpoint, &config)?;
        let (_, found) = super::vocabulary(checkpoint, &config, &specials, size, None)?;
        let pre = &found.splitter.name;
        let steps = Splitter::steps(pre).expect("the rules of tokens by rank are known");
        let tokens: Vec<(String, Kind)> =
            found.tokens.into_iter().map(|token| token.unwrap_or((String::new(), Kind::Unused))).collect();
        let normal: HashSet<&str> =
            tokens.iter().filter(|(_, kind)| *kind == Kind::Normal).map(|(text, _)| text.as_str()).collect();
        // The library would leave it out of a text in silence.
        if let Some(byte) = (0..=u8::MAX).find(|byte| !normal.contains(&*tiktoken::alphabet(&[*byte]))) {
            let problem = format!("has no token for the byte {byte}, so not every text can be read");
            return Err(Error::file(file, problem));
        }
        let list = tokens.iter().map(|(text, kind)| (text.as_str(), *kind));
        let json = as_json::of(pre, steps, list, &found.merges);
        let tokenizer = library(file, &json)?;
        let borders = borders(&json, &tokenizer);
        Ok(Self { file: file.to_owned(), way: Way::Library(Box::new(tokenizer), HashMap::new()), borders })
    }

    fn of_pieces(file: &str, joiner: Joiner) -> Self {
        let borders = joiner.borders();
        Self { file: file.to_owned(), way: Way::Pieces(Box::new(joiner)), borders }
    }

    /// The ids of a text, nothing added before or after.
    ///
    /// # Errors
    /// If the tokenizer cannot read it, or makes ids that the model does not have.
    pub fn encode(&self, text: &str, vocabulary: usize) -> Result<Vec<u32>> {
        self.encode_part(text, false, vocabulary)
    }

    /// The same of a part of a text, which begins or goes on, as a [cutter](Self::cutter) cuts it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_part(&self, text: &str, goes_on: bool, vocabulary: usize) -> Result<Vec<u32>> {
        let ids: Vec<u32> = match &self.way {
            Way::Library(tokenizer, ids) => {
                let encoding = tokenizer
                    .encode_fast(text, false)
                    .map_err(|e| Error::file(&self.file, format!("cannot read the text: {e}")))?;
                let found = encoding.get_ids().iter();
                found.map(|id| ids.get(id).copied().unwrap_or(*id)).collect()
            }
            Way::Pieces(joiner) => joiner.encode(text, goes_on),
        };
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

/// SentencePiece's pieces, if the checkpoint has them, and the file that they are from.
fn pieces(checkpoint: &Checkpoint) -> Result<Option<(&'static str, Joiner)>> {
    let source = checkpoint.source();
    let is_json = exists(source, bpe::FILE)?;
    let is_pieces = match is_json {
        true => bpe::has_pieces(&read_file(source, bpe::FILE, MAX_JSON)?),
        false => exists(source, sentencepiece::FILE)?,
    };
    if !is_pieces {
        return Ok(None);
    }
    let size = checkpoint.config().count("vocab_size", MAX_VOCABULARY)?;
    let config = config(checkpoint)?;
    let specials = Specials::read(checkpoint, &config)?;
    let (file, found) = super::vocabulary(checkpoint, &config, &specials, size, None)?;
    let Some(scores) = found.scores else { return Ok(None) };
    let none = || (String::new(), Kind::Unused);
    let tokens: Vec<_> = found.tokens.into_iter().map(|token| token.unwrap_or_else(none)).collect();
    let joiner = Joiner::new(tokens.iter().map(|(text, kind)| (text.as_str(), *kind)), scores);
    Ok(Some((file, joiner)))
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
    bpe::splits_known(json).map(|classes| Borders { classes, lines: true, literals: literals(tokenizer) })
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
