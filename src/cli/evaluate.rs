//! `quantpress evaluate`: what quantization cost, measured against the checkpoint on a text.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::outputs::{self, Existing, Files};
use super::progress::{Display, Reading, Style};
use super::remote::RemoteArgs;
use super::size::Part;
use super::text::{Beginning, TextArguments};
use super::{interrupt, print};
use crate::checkpoint::{Checkpoint, Fingerprint};
use crate::error::Error;
use crate::evaluate::{self, Answers, Asked, Certificate, LayerError, OfText, Question, Scores, Statistics};
use crate::gguf::Parts;
use crate::identity::{Identity, TOOL, of_tokens};
use crate::log;
use crate::model::{Encoder, Model, ModelFile, Options, Weights};
use crate::plain::{self, plain};
use crate::report::peak_memory;

/// Compare a finished file with its checkpoint on a text: perplexity, KL divergence, error after every layer
#[derive(Debug, Args)]
#[command(override_usage = "quantpress evaluate [OPTIONS] --text <FILE> <CHECKPOINT> <FILE>\n       \
                      quantpress evaluate [OPTIONS] --join <FILE>...")]
#[command(mut_arg("texts", |argument| {
    let help = "Text to run the model over, UTF-8; of several each has figures of its own besides";
    argument.required(false).required_unless_present("join").help(help)
}))]
#[command(mut_arg("chunks", |argument| argument.help("At most so many chunks of each text [default: all]")))]
pub struct Evaluate {
    /// Folder of the checkpoint, a GGUF file of it, hf://org/name[@revision], s3://bucket/prefix or https://host/folder/
    #[arg(required_unless_present = "join")]
    checkpoint: Option<PathBuf>,

    /// The GGUF file made of it, or any of its split files
    #[arg(required_unless_present = "join")]
    file: Option<PathBuf>,

    #[command(flatten)]
    text: TextArguments,

    /// Questions with their answers, a JSON list of pairs: how many both models answer right by greedy continuation
    #[arg(long, value_name = "FILE", conflicts_with = "part")]
    questions: Option<PathBuf>,

    /// Only this part of the text's chunks, as in 2/8, for jobs on several machines
    #[arg(long, value_name = "NUMBER/COUNT", requires = "output")]
    part: Option<Part>,

    /// The file for what --part measures, which --join reads
    #[arg(short, long, value_name = "FILE", requires = "part")]
    output: Option<PathBuf>,

    /// Replace the file of -o if it is there. Without it the same work ends at once, and other work is refused
    #[arg(long, requires = "output")]
    force: bool,

    /// The figures of the whole text, from the files of all its parts
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["checkpoint", "file", "texts", "part", "questions"])]
    join: Vec<PathBuf>,

    /// llama.cpp's name of the pre-tokenizer, if it is not recognised
    #[arg(long)]
    pre: Option<String>,

    #[command(flatten)]
    remote: RemoteArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Say nothing of the progress
    #[arg(short, long)]
    quiet: bool,
}

impl Evaluate {
    /// The file of `--trace`.
    pub fn trace(&self) -> Option<&Path> {
        self.text.trace()
    }

    /// Runs both models and prints the figures.
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let (Some(checkpoint), Some(file)) = (&self.checkpoint, &self.file) else {
            return self.joined();
        };
        self.check_files(checkpoint, file)?;
        let made = ModelFile::open(file)?;
        let checkpoint = self.remote.open(checkpoint, Style::talking(self.quiet))?;
        let of_file = Some(made.description.arch).filter(|arch| Model::can_be(&checkpoint, arch));
        let arch = of_file.map(str::to_owned);
        let model = Model::plan(&checkpoint, &Options { pre: self.pre.clone(), arch, ..Options::default() })?;
        let description = model.describe()?;
        let text = self.text.text();
        let tokens = text.tokens_of_each(&checkpoint, description)?;
        let mut texts: Vec<&[u32]> = tokens.iter().map(|tokens| &tokens[..]).collect();
        if let Some(warning) = text.beyond_context(description).filter(|_| !self.quiet) {
            log::warn(warning);
        }
        let context = text.context as usize;
        let mut evaluation = Identity::default();
        if let Some(part) = self.part {
            evaluation = identity(&checkpoint, file, &texts, context)?;
            if self.is_made(&evaluation, part)? {
                return Ok(());
            }
            texts = part_of(&texts, context, part)?;
        }
        let questions = match &self.questions {
            Some(path) => Question::read(path, &Encoder::read(&checkpoint)?, description)?,
            None => Vec::new(),
        };
        if !self.quiet && !self.json {
            let memory = self.text.memory();
            let tokens = texts.iter().map(|text| text.len()).sum();
            log::say(Beginning { what: "comparison", text: &text, tokens, memory });
        }
        let asked = Asked { texts: &texts, context, questions: &questions };
        let scores = self.scores((&checkpoint, &model), &made, asked)?;
        let stop = interrupt::flag();
        let digests = || digests(&Parts::read(file)?, stop);
        let names: Vec<String> = text.files.iter().map(|path| plain::path(path)).collect();
        let certificate = scores.certificate(&names)?;
        if let Some((part, output)) = self.part.zip(self.output.as_deref()) {
            let Part { number, of } = part;
            let (file, texts) = (plain::path(file), names);
            let files_sha256 = digests()?;
            let measured = scores.scored.len();
            let part = evaluate::Part { evaluation, part: number, of, file, files_sha256, texts, scores };
            outputs::write("-o", output, &part.bytes(), self.force)?;
            let name = plain(output.display()).to_string();
            return print(format_args!("{name}: part {number} of {of}, {measured} tokens scored"));
        }
        if self.json {
            let mut value = serde_json::to_value(&certificate)?;
            value["file"] = json!(plain::path(file));
            value["files_sha256"] = json!(digests()?);
            value["texts"] = json!(names);
            value["seconds"] = json!(start.elapsed().as_secs_f64());
            value["peak_memory_bytes"] = json!(peak_memory());
            return print(serde_json::to_string_pretty(&value)?);
        }
        table(&certificate)
    }

    /// What both models make of it.
    fn scores(
        &self,
        (checkpoint, model): (&Checkpoint, &Model),
        made: &ModelFile,
        asked: Asked,
    ) -> Result<Scores> {
        let description = model.describe()?;
        let layers = description.layers.len();
        let display = Display::new(Style::talking(self.quiet));
        let of_file = made.weights();
        // The same layers of both.
        let readings = [&model.tensors[..], of_file.tensors()].map(|of| Reading::new(&display, of, 1, true));
        let [of_checkpoint, of_made] = readings.each_ref().map(Reading::told);
        display.begin(readings.iter().map(Reading::all).sum(), 0);
        let told = |error: &LayerError| {
            let LayerError { layer, error } = *error;
            readings.iter().for_each(|reading| reading.passed(layer, 1));
            display
                .say(format_args!("layer {:3} of {layers}: hidden states differ by {error:.5}", layer + 1));
        };
        let weights = Weights::new(checkpoint, &model.tensors[..]).telling(&of_checkpoint);
        let file = of_file.clone().telling(&of_made);
        let memory = self.text.memory();
        let scores = self.text.compute(self.quiet, || {
            let (reference, file) = ((&weights, description), (&file, &made.description));
            evaluate::run(reference, file, asked, memory, &told, interrupt::flag())
        })??;
        Ok(scores)
    }

    /// The figures of all parts together.
    fn joined(&self) -> Result<()> {
        let parts = self.join.iter().map(|path| Ok((evaluate::Part::read(path)?, plain::path(path))));
        let whole = evaluate::join(parts.collect::<Result<_, Error>>()?)?;
        let certificate = whole.scores.certificate(&whole.texts)?;
        if self.json {
            let mut value = serde_json::to_value(&certificate)?;
            value["file"] = json!(whole.file);
            value["files_sha256"] = json!(whole.files_sha256);
            value["texts"] = json!(whole.texts);
            return print(serde_json::to_string_pretty(&value)?);
        }
        table(&certificate)
    }

    fn check_files(&self, checkpoint: &Path, file: &Path) -> Result<(), Error> {
        let mut files = Files::of_checkpoint(checkpoint);
        files.read("--text", self.text.text().files);
        files.read("--questions", self.questions.as_slice());
        files.keep("the comparison reads", Parts::names(file));
        files.write("-o", self.output.as_deref(), &[], Existing::Known);
        files.check(self.force)
    }

    /// Whether the file of `-o` has this part already, which is said then.
    ///
    /// # Errors
    /// If it has something else, and is not to be replaced.
    fn is_made(&self, evaluation: &Identity, part: Part) -> Result<bool> {
        let Some(output) = self.output.as_deref().filter(|path| !self.force && path.exists()) else {
            return Ok(false);
        };
        let there = evaluate::Part::read(output).ok();
        let is_this = |there: &evaluate::Part| {
            there.evaluation == *evaluation && (there.part, there.of) == (part.number, part.of)
        };
        if !there.as_ref().is_some_and(is_this) {
            let problem = format!("-o {}: is there already; --force replaces it", output.display());
            return Err(Error::Argument(problem).into());
        }
        print(format_args!("{}: already made of this", plain(output.display())))?;
        Ok(true)
    }
}

/// What a part of the chunks of all texts has of each.
///
/// # Errors
/// If it has none.
fn part_of<'a>(texts: &[&'a [u32]], context: usize, part: Part) -> Result<Vec<&'a [u32]>, Error> {
    let chunks = texts.iter().map(|text| text.len()).sum::<usize>() / context;
    let border = |number: u16| chunks * usize::from(number) / usize::from(part.of) * context;
    let [start, end] = [part.number - 1, part.number].map(border);
    if start == end {
        let of = part.of;
        return Err(Error::Argument(format!("--part: {of} parts of a text of {chunks} chunks")));
    }
    let mut first = 0;
    let of_text = |&text: &&'a [u32]| {
        let own = [start, end].map(|border| border.saturating_sub(first).min(text.len()));
        first += text.len();
        &text[own[0]..own[1]]
    };
    Ok(texts.iter().map(of_text).collect())
}

/// What the parts of an evaluation have in common.
fn identity(
    checkpoint: &Checkpoint,
    file: &Path,
    texts: &[&[u32]],
    context: usize,
) -> Result<Identity, Error> {
    let made = Fingerprint::of(&Checkpoint::open_gguf(file)?)?;
    let of_texts: Vec<String> = texts.iter().map(|tokens| of_tokens(tokens)).collect();
    let parts = [
        ("the tool", TOOL.to_owned()),
        ("the GGUF file", made.sha256()),
        ("--context", context.to_string()),
        ("the text's tokens", of_texts.join(" ")),
    ];
    Ok(Identity::new(Fingerprint::of(checkpoint)?.parts().into_iter().chain(parts)))
}

/// SHA-256 of the files, by which a certificate is bound to them.
fn digests(parts: &Parts, stop: &AtomicBool) -> Result<Vec<String>, Error> {
    parts.files.iter().map(|part| part.sha256(stop, &|_| ())).collect()
}

fn table(certificate: &Certificate) -> Result<()> {
    let s = &certificate.statistics;
    print(format_args!(
        "tokens scored          {} in {} chunks of {}",
        s.tokens, certificate.chunks, certificate.context
    ))?;
    print(format_args!("perplexity, checkpoint {:.4}", s.perplexity_reference))?;
    print(format_args!("perplexity, file       {:.4}", s.perplexity))?;
    print(format_args!("KL divergence, mean    {}", with_error(s)))?;
    print(format_args!("KL divergence, median  {:.6}", s.kl_median))?;
    print(format_args!("KL divergence, 99 %    {:.6}", s.kl_p99))?;
    print(format_args!("same top token         {:.2} %", 100.0 * s.same_top))?;
    if let Some(Answers { count, right_reference, right, right_both }) = certificate.answers {
        print(format_args!(
            "answers right          {right} of {count}; the checkpoint has {right_reference}, both {right_both}"
        ))?;
    }
    if !certificate.by_text.is_empty() {
        print("\nchunks  perplexity, checkpoint and file   KL divergence, mean   same top  text")?;
    }
    for OfText { text, chunks, statistics: s } in &certificate.by_text {
        let perplexities = format!("{:.4}, {:.4}", s.perplexity_reference, s.perplexity);
        let (divergence, same) = (with_error(s), format!("{:.2} %", 100.0 * s.same_top));
        print(format_args!("{chunks:6}  {perplexities:32}  {divergence:20}  {same:8}  {}", plain(text)))?;
    }
    print("\nlayer  error of the hidden states")?;
    certificate.layers.iter().try_for_each(|l| print(format_args!("{:>5}  {:.5}", l.layer, l.error)))
}

/// The mean divergence with its standard error, if that is known.
fn with_error(s: &Statistics) -> String {
    let error = s.kl_mean_error.map_or(String::new(), |error| format!(" +- {error:.6}"));
    format!("{:.6}{error}", s.kl_mean)
}
