//! `quantize --feedback`: reads the text that gives the inputs for error feedback.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::planning::Planned;
use super::progress::{Making, Style};
use super::size;
use crate::checkpoint::hex;
use crate::error::Error;
use crate::feedback::{Feedback, Step, TOKENS_PER_COLUMN, Textless, widest_input};
use crate::forward::{GradientFolder, Milestones};
use crate::log;
use crate::model::Text;
use crate::pipeline::{Job, Made};
use crate::recipe::Fed;

/// Folders of what `calibrate` has kept of the original model.
#[derive(Clone, Copy)]
pub struct Kept<'a> {
    /// Hidden states, from which a part of a split may begin.
    pub states: Option<&'a Path>,
    /// Gradients.
    pub gradients: Option<&'a Path>,
}

#[derive(Debug, Args)]
pub struct FeedbackArgs {
    /// Let the weights still to be rounded take up the errors of the others (GPTQ). With --text layer by layer, by the
    /// inputs that the text gives: slower by far, and better. Without, by what the weights say of their inputs: a part of
    /// the gain, and no layer is computed
    // A plan is the same for any text, but for its digest.
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

impl FeedbackArgs {
    /// The text's files.
    pub fn texts(&self) -> &[PathBuf] {
        &self.texts
    }

    fn text(&self) -> Text<'_> {
        Text { files: &self.texts, chunks: self.chunks, context: self.context }
    }

    /// The digest of the text and of how it is cut, and of the gradients in a folder, if feedback is asked for;
    /// [`Fed::NO_TEXT`], which takes the same bytes, without a text.
    pub fn digest(&self, gradients: Option<&Path>) -> Result<Option<String>, Error> {
        if !self.feedback {
            return Ok(None);
        }
        if self.texts.is_empty() {
            return Ok(Some(Fed::NO_TEXT.into()));
        }
        let text = self.text().digest()?;
        Ok(Some(match gradients {
            Some(folder) => hex(format!("{text} {}", GradientFolder::note(folder)?).as_bytes()),
            None => text,
        }))
    }

    /// Does a job with feedback.
    pub fn run(
        &self,
        planned: &Planned,
        job: &Job,
        kept: Kept<'_>,
        memory: Option<u64>,
        progress: &Making,
    ) -> Result<Made, Error> {
        if self.texts.is_empty() {
            return Textless { memory: memory.unwrap_or(Feedback::MEMORY) }.run(job);
        }
        let model = planned.plan.model.describe()?;
        let text = self.text();
        let tokens = text.tokens(&planned.checkpoint, model)?;
        let widest = widest_input(&planned.plan.model);
        let warnings = [text.beyond_context(model), too_little(tokens.len(), widest)];
        for warning in warnings.into_iter().flatten().filter(|_| progress.style() != Style::Quiet) {
            log::warn(warning);
        }
        let told = |step: Step| progress.layer(step);
        let memory = memory.unwrap_or(Feedback::MEMORY);
        let context = self.context as usize;
        let source = &planned.plan.source;
        let milestones = kept.states.map(|folder| Milestones::new(folder, source, model, &tokens, context));
        let gradients =
            kept.gradients.map(|folder| GradientFolder::open(folder, source, model, &tokens, context));
        let gradients = gradients.transpose()?;
        let feedback = Feedback {
            tokens: &tokens,
            context,
            memory,
            milestones: milestones.as_ref(),
            gradients: gradients.as_ref(),
            told: &told,
        };
        feedback.run(job)
    }
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
    fn a_text_is_too_little_below_four_tokens_a_column() {
        assert_eq!(too_little(3072, 768), None);
        let said = too_little(3071, 768).expect("too little");
        assert!(said.contains("too little text") && said.contains("3072"), "{said}");
    }
}
