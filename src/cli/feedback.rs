//! `quantize --feedback`: the text whose inputs rounding errors are fed back by.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::planning::{Planned, on_threads};
use super::print;
use super::size;
use super::text::{Chunking, chunks};
use crate::error::Error;
use crate::feedback::Feedback;
use crate::forward::Shape;
use crate::log;
use crate::pipeline::{Job, Made, run_by};
use crate::report::{Style, about};

#[derive(Debug, Args)]
pub struct FeedbackArgs {
    /// Quantize layer by layer and let the weights still to be rounded take up the errors of the others, by the inputs that a
    /// text gives (GPTQ); slower by far, and better
    // quantize needs the text for it; a plan is the same for any, but for its digest.
    #[arg(long)]
    feedback: bool,

    /// Text for --feedback, UTF-8; repeatable
    #[arg(long = "text", value_name = "FILE", requires = "feedback")]
    texts: Vec<PathBuf>,

    /// At most so many chunks of the text [default: all]
    #[arg(long, value_name = "N", requires = "texts", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,

    /// Tokens in a chunk
    #[arg(long, value_name = "N", requires = "texts", default_value_t = 512, value_parser = size::chunk)]
    context: u32,
}

/// Bytes for hidden states and covariances unless --memory says otherwise; what is beyond goes to a temporary file.
const MEMORY: u64 = 4_000_000_000;

impl FeedbackArgs {
    /// The text's files.
    pub fn texts(&self) -> &[PathBuf] {
        &self.texts
    }

    /// The digest of the text and of how it is cut, if feedback is asked for; without a text one that takes the same bytes.
    pub fn digest(&self) -> Result<Option<String>, Error> {
        if !self.feedback {
            return Ok(None);
        }
        if self.texts.is_empty() {
            return Ok(Some("0".repeat(64)));
        }
        let mut digest = Sha256::new();
        for path in &self.texts {
            digest.update(std::fs::read(path).map_err(|e| Error::io("read", path, e))?);
        }
        digest.update(self.chunks.unwrap_or(0).to_le_bytes());
        digest.update(self.context.to_le_bytes());
        Ok(Some(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Does a job with feedback.
    pub fn run(&self, planned: &Planned, job: &Job, memory: Option<u64>, style: Style) -> Result<Made> {
        let start = Instant::now();
        let shape = Shape::of_model(&planned.plan.model)?;
        let context = self.context as usize;
        let tokens = chunks(
            &self.texts,
            self.chunks,
            context,
            &planned.checkpoint,
            shape.vocabulary,
            shape.bos,
            Chunking::Imatrix,
        )?;
        let told = |done: usize, earlier: usize| match style {
            Style::Quiet | Style::Bar => {}
            Style::Json => {
                let seconds = start.elapsed().as_secs_f64();
                // Whoever closed it does not want to know.
                let _ = print(
                    json!({"event": "layer", "layer": done, "layers": shape.layers, "seconds": seconds}),
                );
            }
            Style::Lines => {
                let seconds = start.elapsed().as_secs_f64();
                let left = about(seconds / (done - earlier) as f64 * (shape.layers - done) as f64);
                log::say(format_args!("layer {done:3} of {}: {seconds:.1} s, {left} left", shape.layers));
            }
        };
        let feedback = Feedback { tokens: &tokens, context, memory: memory.unwrap_or(MEMORY), told: &told };
        Ok(on_threads(job.threads, || run_by(job, &feedback))??)
    }
}
