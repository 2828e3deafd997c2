//! `quantize --feedback`: reads the text that gives the inputs for error feedback.

use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::planning::{Planned, on_threads};
use super::print;
use super::size;
use super::text::{Chunking, beyond_context, chunks, open};
use crate::error::Error;
use crate::feedback::Feedback;
use crate::log;
use crate::model::{Model, Role};
use crate::pipeline::{Job, Made, run_by};
use crate::report::{Style, about};

#[derive(Debug, Args)]
pub struct FeedbackArgs {
    /// Quantize layer by layer and let the weights still to be rounded take up the errors of the others, by the
    /// inputs that a text gives (GPTQ); slower by far, and better
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

    /// The digest of the text and of how it is cut, if feedback is asked for; without a text one that takes the same
    /// bytes.
    pub fn digest(&self) -> Result<Option<String>, Error> {
        if !self.feedback {
            return Ok(None);
        }
        if self.texts.is_empty() {
            return Ok(Some("0".repeat(64)));
        }
        let mut digest = Sha256::new();
        for path in &self.texts {
            let io = |e| Error::io("read", path, e);
            let mut file = open(path)?;
            let length = file.metadata().map_err(io)?.len();
            // Lengths keep one text's end apart from the next one's beginning.
            digest.update(length.to_le_bytes());
            let mut buffer = vec![0; 1 << 20];
            loop {
                match file.read(&mut buffer).map_err(io)? {
                    0 => break,
                    read => digest.update(&buffer[..read]),
                }
            }
        }
        digest.update(self.chunks.unwrap_or(0).to_le_bytes());
        digest.update(self.context.to_le_bytes());
        Ok(Some(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Does a job with feedback.
    pub fn run(&self, planned: &Planned, job: &Job, memory: Option<u64>, style: Style) -> Result<Made> {
        let start = Instant::now();
        let model = planned.plan.model.describe()?;
        let layers = model.layers.len();
        let context = self.context as usize;
        let tokens =
            chunks(&self.texts, self.chunks, context, &planned.checkpoint, model, Chunking::Imatrix)?;
        let widest = widest_input(&planned.plan.model);
        let warnings = [beyond_context(context, model), too_little(tokens.len(), widest)];
        for warning in warnings.into_iter().flatten().filter(|_| style != Style::Quiet) {
            log::warn(warning);
        }
        let told = |done: usize, earlier: usize| match style {
            Style::Quiet | Style::Bar => {}
            Style::Json => {
                let seconds = start.elapsed().as_secs_f64();
                // That stdout is closed is no error.
                let _ = print(json!({"event": "layer", "layer": done, "layers": layers, "seconds": seconds}));
            }
            Style::Lines => {
                let seconds = start.elapsed().as_secs_f64();
                let left = about(seconds / (done - earlier) as f64 * (layers - done) as f64);
                log::say(format_args!("layer {done:3} of {layers}: {seconds:.1} s, {left} left"));
            }
        };
        let feedback = Feedback { tokens: &tokens, context, memory: memory.unwrap_or(MEMORY), told: &told };
        Ok(on_threads(job.threads, || run_by(job, &feedback))??)
    }
}

/// A text should have so many tokens for each column of the widest input. A covariance of n columns has n (n + 1) / 2
/// numbers, and with fewer tokens than columns it has no data for most directions: errors are then moved into them at
/// random. On the test model a text of 2/3 of a token for each column makes the file worse than none, one of 10 makes
/// it better.
const TOKENS_PER_COLUMN: usize = 4;

/// Columns of the widest input of a matrix.
fn widest_input(model: &Model) -> usize {
    let matrices = model.tensors.iter().filter(|tensor| !tensor.is_fixed() && tensor.role != Role::Embedding);
    matrices.map(|tensor| tensor.columns() as usize).max().unwrap_or(0)
}

/// A warning about a text with few tokens.
fn too_little(tokens: usize, widest: usize) -> Option<String> {
    let wanted = widest * TOKENS_PER_COLUMN;
    (tokens < wanted).then(|| {
        format!(
            "too little text for --feedback: {tokens} tokens, and at least {wanted} are wanted, {TOKENS_PER_COLUMN} for each of the \
             {widest} columns of the widest input; with less the file may become worse than without feedback"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_where_one_text_ends() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let digest = |texts: [&str; 2]| {
            let path = |n: usize| folder.path().join(n.to_string());
            (0..2).for_each(|n| std::fs::write(path(n), texts[n]).expect("written"));
            let texts = vec![path(0), path(1)];
            let arguments = FeedbackArgs { feedback: true, texts, chunks: None, context: 512 };
            arguments.digest().expect("read").expect("asked for")
        };
        assert_ne!(digest(["one", "two"]), digest(["onet", "wo"]));
        assert_eq!(digest(["one", "two"]), digest(["one", "two"]));
    }

    #[test]
    fn a_text_is_too_little_below_four_tokens_a_column() {
        assert_eq!(too_little(3072, 768), None);
        let said = too_little(3071, 768).expect("too little");
        assert!(said.contains("too little text") && said.contains("3072"), "{said}");
    }
}
