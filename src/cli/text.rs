//! The arguments of commands that run a model over a text, shared by `calibrate` and `evaluate`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use super::device::DeviceArgs;
use super::planning::{on_threads, thread_count, threads};
use super::size;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::Description;
use crate::model::{Encoder, TEXT_PIECE};

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

    #[command(flatten)]
    device: DeviceArgs,
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
        model: &Description,
        chunking: Chunking,
    ) -> Result<Vec<u32>> {
        chunks(&self.texts, self.chunks, self.context(), checkpoint, model, chunking)
    }

    /// Does the work on the threads and the device that were asked for.
    pub fn compute<T: Send>(&self, quiet: bool, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.device.choose(quiet)?;
        on_threads(threads(self.threads), work)
    }
}

/// The whole chunks of texts, one after another, at most `most` of them. What lies behind is not read.
pub fn chunks(
    texts: &[PathBuf],
    most: Option<u32>,
    context: usize,
    checkpoint: &Checkpoint,
    model: &Description,
    chunking: Chunking,
) -> Result<Vec<u32>> {
    let encoder = Encoder::read(checkpoint)?;
    let mut ids = Vec::new();
    if let (Chunking::Imatrix, Some(bos)) = (chunking, model.bos) {
        ids.push(bos);
    }
    let enough = most.map_or(usize::MAX, |most| (most as usize).saturating_mul(context));
    for path in texts {
        encode(path, &encoder, model.vocabulary as usize, enough, &mut ids)?;
    }
    let whole = ids.len() / context;
    if whole == 0 {
        let problem = format!("the text has {} tokens, less than a chunk of {context}", ids.len());
        return Err(Error::Argument(problem));
    }
    ids.truncate(most.map_or(whole, |most| whole.min(most as usize)) * context);
    if let Some(bos) = model.bos {
        ids.iter_mut().step_by(context).for_each(|id| *id = bos);
    }
    Ok(ids)
}

/// Adds the ids of a text, a piece at a time, until there are enough.
fn encode(
    path: &Path,
    encoder: &Encoder,
    vocabulary: usize,
    enough: usize,
    ids: &mut Vec<u32>,
) -> Result<()> {
    if ids.len() >= enough {
        return Ok(());
    }
    let mut file = open(path)?;
    let not_utf8 = || Error::Argument(format!("{}: is not UTF-8", path.display()));
    let (mut cutter, mut buffer) = (encoder.cutter(TEXT_PIECE), vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut buffer).map_err(|e| Error::io("read", path, e))?;
        if read == 0 {
            break;
        }
        if !cutter.push(&buffer[..read]) {
            return Err(not_utf8());
        }
        while let Some(piece) = cutter.cut() {
            ids.extend(encoder.encode(&piece, vocabulary)?);
            if ids.len() >= enough {
                return Ok(());
            }
        }
    }
    if cutter.is_cut_short() {
        return Err(not_utf8());
    }
    ids.extend(encoder.encode(&cutter.last(), vocabulary)?);
    Ok(())
}

/// Opens a text. A pipe or a device has no second reading, and may have no end.
pub fn open(path: &Path) -> Result<File> {
    let io = |e| Error::io("read", path, e);
    if !fs::metadata(path).map_err(io)?.is_file() {
        let problem =
            "is no regular file; a text is read again when its work is, so write it to a file first";
        return Err(Error::Argument(format!("{}: {problem}", path.display())));
    }
    File::open(path).map_err(io)
}

/// A warning about chunks that are longer than the model's context.
pub fn beyond_context(context: usize, model: &Description) -> Option<String> {
    let limit = model.context;
    (context > limit as usize).then(|| format!(
        "chunks of {context} tokens are longer than the model's context of {limit}: beyond it, what it computes is not what it \
         was trained for"
    ))
}
