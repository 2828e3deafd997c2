//! The arguments of commands that run a model over a text, shared by `calibrate` and `evaluate`.

use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::planning::{on_threads, thread_count, threads};
use super::size;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::Encoder;

#[derive(Debug, Args)]
pub struct Text {
    /// Text to run the model over, UTF-8; repeatable
    #[arg(long = "text", value_name = "FILE", required = true)]
    texts: Vec<PathBuf>,

    /// At most so many chunks [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,

    /// Tokens in a chunk
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = size::chunk)]
    context: u32,

    /// Memory for hidden states; beyond it they go to a temporary file. One block of weights comes on top
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = size::bytes)]
    memory: u64,

    /// Threads [default: all]; results do not depend on it
    #[arg(short, long, value_parser = thread_count())]
    threads: Option<u16>,
}

/// How the tokens of a text come to lie in chunks; in both each chunk's first token is replaced by BOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunking {
    /// BOS stands before the text, as in llama-imatrix.
    Imatrix,
    /// The text alone, as scores are compared.
    Scores,
}

impl Text {
    /// Tokens in a chunk.
    pub fn context(&self) -> usize {
        self.context as usize
    }

    /// Bytes for hidden states.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// The files, as they were given.
    pub fn files(&self) -> &[PathBuf] {
        &self.texts
    }

    /// The whole chunks of all texts, one after another.
    pub fn tokens(
        &self,
        checkpoint: &Checkpoint,
        vocabulary: usize,
        bos: Option<u32>,
        chunking: Chunking,
    ) -> Result<Vec<u32>> {
        chunks(&self.texts, self.chunks, self.context(), checkpoint, vocabulary, bos, chunking)
    }

    /// Does the work on the threads that were asked for.
    pub fn on_threads<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_threads(threads(self.threads), work)
    }
}

/// The whole chunks of texts, one after another, at most `most` of them.
pub fn chunks(
    texts: &[PathBuf],
    most: Option<u32>,
    context: usize,
    checkpoint: &Checkpoint,
    vocabulary: usize,
    bos: Option<u32>,
    chunking: Chunking,
) -> Result<Vec<u32>> {
    let encoder = Encoder::read(checkpoint)?;
    let mut ids = Vec::new();
    if let (Chunking::Imatrix, Some(bos)) = (chunking, bos) {
        ids.push(bos);
    }
    for path in texts {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let text = String::from_utf8(bytes)
            .map_err(|e| Error::Argument(format!("{}: is not UTF-8: {e}", path.display())))?;
        ids.extend(encoder.encode(&text, vocabulary)?);
    }
    let whole = ids.len() / context;
    if whole == 0 {
        let problem = format!("the text has {} tokens, less than a chunk of {context}", ids.len());
        return Err(Error::Argument(problem));
    }
    ids.truncate(most.map_or(whole, |most| whole.min(most as usize)) * context);
    if let Some(bos) = bos {
        ids.iter_mut().step_by(context).for_each(|id| *id = bos);
    }
    Ok(ids)
}
