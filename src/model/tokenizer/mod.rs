//! The tokenizer as GGUF metadata: from tokenizer.json, SentencePiece's tokenizer.model, or Kimi's tiktoken.model.

mod added_tokens;
mod as_json;
mod bpe;
mod encode;
mod from_gguf;
mod joined;
mod pieces;
mod pre;
mod sentencepiece;
mod specials;
mod split;
mod templates;
mod text;
mod tiktoken;

pub use encode::Encoder;
pub use pieces::{Cutter, TEXT_PIECE};
pub use pre::check as check_pre;
pub use text::Text;

use std::collections::HashSet;

use crate::checkpoint::{Checkpoint, Config, MAX_JSON, exists, read_file};
use crate::error::{Error, Result, Warning};
use crate::gguf::{Metadata, Value};
use specials::Specials;

const CONFIG: &str = "tokenizer_config.json";

/// Tokens of GLM that no file names, by their names in keys: they end turns of the assistant.
const GLM: [(&str, &str); 3] =
    [("eot", "<|user|>"), ("eom", "<|observation|>"), ("unknown", "<|endoftext|>")];

/// GGUF's kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl Kind {
    /// The one with this number.
    fn of(number: i32) -> Self {
        let all = [Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte];
        all.into_iter().find(|kind| *kind as i32 == number).unwrap_or(Self::Normal)
    }
}

/// Tokens by id, how they were merged, and how text is split before that.
#[derive(Debug)]
struct Vocabulary {
    /// Text and kind by id; None where no token has the id.
    tokens: Vec<Option<(String, Kind)>>,
    merges: Vec<String>,
    /// Of SentencePiece's pieces, which have scores in place of merges.
    scores: Option<sentencepiece::Scores>,
    splitter: split::Splitter,
    around: Around,
    /// Rules of the file that llama.cpp does not follow, as warnings.
    doubts: Vec<String>,
}

/// The tokens that the tokenizer's own file puts before and after a text.
#[derive(Debug)]
enum Around {
    /// Of this it says nothing.
    Unsaid,
    /// None.
    Nothing,
    /// These, if any.
    Tokens([Option<String>; 2]),
}

/// A tokenizer, byte-level BPE or of SentencePiece's pieces, ready to be written.
#[derive(Debug)]
pub struct Tokenizer {
    pre: String,
    tokens: Vec<String>,
    kinds: Vec<i32>,
    merges: Vec<String>,
    scores: Option<sentencepiece::Scores>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    /// Others by their names in keys.
    turns: Vec<(&'static str, u32)>,
    add_bos: bool,
    add_eos: bool,
    templates: Vec<(String, String)>,
    doubts: Vec<Warning>,
}

impl Tokenizer {
    /// Reads the checkpoint's tokenizer for a model of `size` token ids; `pre` overrides the recognised splitter.
    ///
    /// # Errors
    /// If there is none, it is of another kind, its splitting rules are unknown and no `pre` is given, or its ids do not
    /// fit the model.
    pub fn read(checkpoint: &Checkpoint, size: u32, pre: Option<&str>) -> Result<Self> {
        pre.map_or(Ok(()), pre::check)?;
        let config = config(checkpoint)?;
        let specials = Specials::read(checkpoint, &config)?;
        let (file, vocabulary) = vocabulary(checkpoint, &config, &specials, size, pre)?;
        let mut tokens = Vec::with_capacity(size as usize);
        let mut kinds = Vec::with_capacity(size as usize);
        for (id, token) in vocabulary.tokens.into_iter().enumerate() {
            let (text, kind) = token.unwrap_or_else(|| (format!("[PAD{id}]"), Kind::Unused));
            tokens.push(text);
            kinds.push(kind as i32);
        }
        let mut seen = HashSet::new();
        if let Some(twice) = tokens.iter().find(|text| !seen.insert(text.as_str())) {
            return Err(Error::file(file, format!("two ids have the text {twice:?}")));
        }

        let id = |field: &str| specials.id(field, &tokens);
        let (mut bos, eos) = (id("bos_token")?, id("eos_token")?);
        let glm = vocabulary.splitter.name == split::GLM;
        let by_text = |text: &str| tokens.iter().position(|token| token == text).map(|id| id as u32);
        if glm && bos.is_none() {
            bos = by_text("[gMASK]");
        }
        let named = |(key, text)| Some((key, by_text(text)?));
        let turns: Vec<_> = if glm { GLM.into_iter().filter_map(named).collect() } else { Vec::new() };
        if eos.is_none() {
            // llama.cpp would take token 11 without a word.
            return Err(
                config.fault("eos_token", "is missing, and no eos_token_id is in the other files".into())
            );
        }
        let mut doubts = specials.doubts(&tokens);
        let mut adds = |field: &str, place: usize, id: Option<u32>, unsaid: bool| -> Result<bool> {
            let told = config.find::<bool>(field)?;
            let Around::Tokens(around) = &vocabulary.around else { return Ok(told.unwrap_or(unsaid)) };
            let text = id.map(|id| &tokens[id as usize]);
            let is_there = text.is_some() && around[place].as_ref() == text;
            if let Some(told) = told.filter(|told| *told != is_there) {
                let problem =
                    format!("is {told}, but the post-processor of {file} says otherwise, and counts");
                doubts.push(Warning::new(config.fault(field, problem)));
            }
            Ok(is_there)
        };
        let unsaid = match vocabulary.splitter.bos {
            split::Bos::Always => true,
            split::Bos::Unprocessed => matches!(vocabulary.around, Around::Unsaid),
            split::Bos::Never => false,
        };
        // In byte-level vocabularies no text is unknown.
        let unknown = if vocabulary.scores.is_some() { id("unk_token")? } else { None };
        let add_bos = adds("add_bos_token", 0, bos, unsaid && bos.is_some())?;
        let add_eos = adds("add_eos_token", 1, eos, false)?;
        doubts.extend(vocabulary.doubts.into_iter().map(|problem| Warning::new(Error::file(file, problem))));
        Ok(Self {
            doubts,
            pre: vocabulary.splitter.name,
            bos,
            eos,
            unknown,
            padding: id("pad_token")?,
            scores: vocabulary.scores,
            turns,
            add_bos,
            add_eos,
            templates: templates::read(checkpoint, &config)?,
            tokens,
            kinds,
            merges: vocabulary.merges,
        })
    }

    /// Warnings about what the files leave out or contradict each other in.
    pub fn warnings(&self) -> Vec<Warning> {
        let missing = |is: bool, problem: String| is.then(|| Warning::new(Error::file(CONFIG, problem)));
        let padding = format!("no padding token is named, nor in the others of {}", Specials::files());
        let template = format!(
            "has no chat template, nor is there one in {}; llama.cpp takes one of its own then",
            templates::files()
        );
        let found = [missing(self.padding.is_none(), padding), missing(self.templates.is_empty(), template)];
        found.into_iter().flatten().chain(self.doubts.iter().cloned()).collect()
    }

    /// The token that begins a text, if texts begin with one.
    pub fn bos(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// Begins texts with BOS, whatever the files say, if there is one.
    pub fn begin_with_bos(&mut self) {
        self.add_bos |= self.bos.is_some();
    }

    /// Writes the `tokenizer.*` keys.
    pub fn describe(self, metadata: &mut Metadata) {
        let model = if self.scores.is_some() { "llama" } else { "gpt2" };
        metadata.set("tokenizer.ggml.model", model.into());
        metadata.set("tokenizer.ggml.pre", Value::String(self.pre));
        metadata.set("tokenizer.ggml.tokens", Value::Strings(self.tokens));
        if let Some(scores) = self.scores {
            metadata.set("tokenizer.ggml.scores", Value::F32s(scores.of));
            metadata.set("tokenizer.ggml.token_type", Value::I32s(self.kinds));
            // It is what a missing key means.
            if !scores.prefix {
                metadata.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
            }
        } else {
            metadata.set("tokenizer.ggml.token_type", Value::I32s(self.kinds));
            metadata.set("tokenizer.ggml.merges", Value::Strings(self.merges));
        }
        let turns = self.turns.iter().map(|(key, id)| (*key, Some(*id)));
        let specials =
            [("bos", self.bos), ("eos", self.eos), ("unknown", self.unknown), ("padding", self.padding)];
        for (key, id) in specials.into_iter().chain(turns) {
            if let Some(id) = id {
                metadata.set(format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
            }
        }
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(self.add_bos));
        metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(self.add_eos));
        let mut named = Vec::new();
        for (name, template) in self.templates {
            if name == templates::DEFAULT {
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

/// The vocabulary of `size` ids, with the tokens that other files add, and the file that most of it is from.
fn vocabulary(
    checkpoint: &Checkpoint,
    config: &Config,
    specials: &Specials,
    size: u32,
    pre: Option<&str>,
) -> Result<(&'static str, Vocabulary)> {
    let source = checkpoint.source();
    let has_pieces = exists(source, sentencepiece::FILE)?;
    let pieces = || sentencepiece::read(&read_file(source, sentencepiece::FILE, MAX_JSON)?, size);
    let (file, mut vocabulary) = if exists(source, bpe::FILE)? {
        let json = bpe::read(&read_file(source, bpe::FILE, MAX_JSON)?, size, pre)?;
        match json.scores.is_some() && has_pieces {
            // These scores are the true ones.
            true => (sentencepiece::FILE, sentencepiece::beside(pieces()?, json)),
            false => (bpe::FILE, json),
        }
    } else if has_pieces {
        (sentencepiece::FILE, pieces()?)
    } else if exists(source, tiktoken::FILE)? {
        let text = read_file(source, tiktoken::FILE, MAX_JSON)?;
        (tiktoken::FILE, tiktoken::read(&text, config, size, pre)?)
    } else {
        let problem = format!("is not there, nor is {} or {}", sentencepiece::FILE, tiktoken::FILE);
        return Err(Error::file(bpe::FILE, problem));
    };
    if let (Some(pre), true) = (pre, vocabulary.scores.is_some()) {
        let problem =
            format!("--pre {pre}: {file} has SentencePiece's pieces, for which texts are not split before");
        return Err(Error::Argument(problem));
    }
    let added = added_tokens::read(checkpoint, config, specials)?;
    added_tokens::join(file, &mut vocabulary.tokens, &added)?;
    if let Some(scores) = &mut vocabulary.scores {
        for token in &added {
            scores.of[token.id as usize] = sentencepiece::ADDED;
        }
    }
    Ok((file, vocabulary))
}

/// tokenizer_config.json; nothing if it is not there.
fn config(checkpoint: &Checkpoint) -> Result<Config> {
    match checkpoint.optional_config(CONFIG)? {
        Some(config) => Ok(config),
        None => Config::parse_as(CONFIG, b"{}"),
    }
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
