//! Text to token ids, by the checkpoint's own tokenizer.json.

use super::bpe;
use crate::checkpoint::{Checkpoint, MAX_JSON, exists, read_file};
use crate::error::{Error, Result};

/// Turns text into ids, as llama.cpp does when it does not parse special tokens.
#[derive(Debug)]
pub struct Encoder(tokenizers::Tokenizer);

impl Encoder {
    /// Reads tokenizer.json.
    ///
    /// # Errors
    /// If there is none (Kimi's models have tiktoken.model instead), or the library cannot read it.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self> {
        let source = checkpoint.source();
        if !exists(source, bpe::FILE)? {
            let problem = "is not there; text can be read only by the tokenizer that it describes";
            return Err(Error::Unsupported(format!("{}: {problem}", bpe::FILE)));
        }
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(read_file(source, bpe::FILE, MAX_JSON)?)
            .map_err(|e| Error::file(bpe::FILE, format!("cannot be used to read text: {e}")))?;
        // A text that speaks of "<|User|>" does not end a turn.
        tokenizer.set_encode_special_tokens(true);
        Ok(Self(tokenizer))
    }

    /// The ids of a text, nothing added before or after.
    ///
    /// # Errors
    /// If the tokenizer cannot read it, or makes ids that the model does not have.
    pub fn encode(&self, text: &str, vocabulary: usize) -> Result<Vec<u32>> {
        let encoding = self
            .0
            .encode_fast(text, false)
            .map_err(|e| Error::file(bpe::FILE, format!("cannot read the text: {e}")))?;
        match encoding.get_ids().iter().find(|&&id| id as usize >= vocabulary) {
            None => Ok(encoding.get_ids().to_vec()),
            Some(id) => {
                let problem = format!("makes the id {id}, but the model has {vocabulary}");
                Err(Error::file(bpe::FILE, problem))
            }
        }
    }
}
