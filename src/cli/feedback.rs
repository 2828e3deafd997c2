//! `quantize --feedback`: the text whose inputs rounding errors are fed back by.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::planning::{Planned, on_threads};
use super::text::{Chunking, chunks};
use crate::feedback::{Feedback, run};
use crate::forward::Shape;
use crate::recipe::Importances;
use crate::report::about;

#[derive(Debug, Args)]
pub struct FeedbackArgs {
    /// Quantize layer by layer and let the weights still to be rounded take up the errors of the others, by the inputs that a
    /// text gives (GPTQ); slower by far, and better
    #[arg(long, requires = "texts")]
    feedback: bool,

    /// Text for --feedback, UTF-8; repeatable
    #[arg(long = "text", value_name = "FILE", requires = "feedback")]
    texts: Vec<PathBuf>,

    /// At most so many chunks of the text [default: all]
    #[arg(long, value_name = "N", requires = "feedback", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,

    /// Tokens in a chunk
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    context: u32,
}

/// Bytes for hidden states; what is beyond goes to a temporary file.
const MEMORY: u64 = 4_000_000_000;

impl FeedbackArgs {
    /// Whether it is asked for.
    pub fn wanted(&self) -> bool {
        self.feedback
    }

    /// Quantizes with feedback.
    pub fn run(
        &self,
        planned: &Planned,
        importances: &Importances,
        output: &Path,
        threads: usize,
        quiet: bool,
    ) -> Result<()> {
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
        let told = |done: usize| {
            if !quiet {
                let seconds = start.elapsed().as_secs_f64();
                let left = about(seconds / done as f64 * (shape.layers - done) as f64);
                eprintln!("layer {done:3} of {}: {seconds:.1} s, {left} left", shape.layers);
            }
        };
        let feedback = Feedback { tokens: &tokens, context, memory: MEMORY };
        on_threads(threads, || {
            run(&planned.checkpoint, &planned.plan, importances, feedback, output, &told)
        })??;
        Ok(())
    }
}
