//! The arguments of commands that run a model over a text, shared by `calibrate` and `evaluate`.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::device::DeviceArgs;
use super::size;
use super::threads::{thread_count, threads};
use super::trace::TraceArgs;
use crate::error::Result;
use crate::model::Text;
use crate::size::{Size, grouped};
use crate::threads::on;

#[derive(Debug, Args)]
pub struct TextArguments {
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
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = size::bytes, env = "QUANTPRESS_MEMORY", hide_env_values = true)]
    memory: u64,

    /// Threads [default: all]; results do not depend on it
    #[arg(short, long, value_parser = thread_count(), env = "QUANTPRESS_THREADS", hide_env_values = true)]
    threads: Option<u16>,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    trace: TraceArgs,
}

/// What is said before the first layer, which may take minutes.
pub struct Beginning<'a> {
    pub what: &'a str,
    pub text: &'a Text<'a>,
    pub tokens: usize,
    /// Bytes for hidden states.
    pub memory: u64,
}

impl fmt::Display for Beginning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, text, tokens, memory } = *self;
        let (context, memory) = (text.context, Size(memory));
        let chunks = tokens / context as usize;
        write!(
            f,
            "{what} of {} tokens: {chunks} chunks of {context}; memory {memory}",
            grouped(tokens as u64)
        )
    }
}

impl TextArguments {
    /// The file of `--trace`.
    pub fn trace(&self) -> Option<&Path> {
        self.trace.file()
    }

    /// Bytes for hidden states.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// The text that is meant.
    pub fn text(&self) -> Text<'_> {
        Text { files: &self.texts, chunks: self.chunks, context: self.context }
    }

    /// Does the work on the threads and the device that were asked for.
    pub fn compute<T: Send>(&self, quiet: bool, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.device.choose(quiet)?;
        on(threads(self.threads), work)
    }
}
