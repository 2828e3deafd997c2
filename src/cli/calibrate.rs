//! `quantpress calibrate`: importances from a text, in llama-imatrix's layouts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use quant_kernels::Format;
use serde_json::json;

use super::outputs::{Existing, Files};
use super::progress::{Display, Reading, Style};
use super::remote::RemoteArgs;
use super::text::{Beginning, TextArguments};
use super::{interrupt, print};
use crate::calibrate::{Calibration, Found, Keeping, LEAST_TOKENS, Probing, Step, run};
use crate::checkpoint::{Checkpoint, Fingerprint, hex};
use crate::error::Error;
use crate::forward::{GradientFolder, Milestones, NOTE, Turned, file_name};
use crate::identity::Identity;
use crate::log;
use crate::model::{Model, Options, Weights};
use crate::plain::{self, plain};
use crate::recipe::format;
use crate::recipe::imatrix::{Imatrix, Layout};
use crate::report::peak_memory;
use crate::sensitivity::{DEFAULT_TYPES, Probed, Sampling, Table, measure};

/// Measure importances: run the checkpoint over a text, a layer at a time, and write an importance matrix
#[derive(Debug, Args)]
pub struct Calibrate {
    /// Folder of the checkpoint, a GGUF file of it, hf://org/name[@revision], s3://bucket/prefix or https://host/folder/
    checkpoint: PathBuf,

    /// The importance matrix to write. What is finished is kept in FILE.calibrating until then; the same command goes
    /// on
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    text: TextArguments,

    /// The layout of the file
    #[arg(long, value_enum, default_value_t = Layout::Gguf)]
    format: Layout,

    /// Show experts that fewer than 32 tokens chose the tokens that their router scores highest, at 1/16 of the weight
    #[arg(long)]
    cover: bool,

    /// Write besides what each type would cost each tensor on the inputs that the text gives, with feedback and
    /// without: for --sensitivity of plan and quantize. One covariance comes on top of --memory
    #[arg(long, value_name = "FILE")]
    sensitivity: Option<PathBuf>,

    /// The types that are tried for it, separated by commas [default: those of --size]
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = format, requires = "sensitivity")]
    types: Vec<Format>,

    /// Keep besides, in this folder, the hidden states of the text before the layers of --at: quantize --feedback --part
    /// begins from them
    #[arg(long, value_name = "DIR", requires = "at")]
    states: Option<PathBuf>,

    /// The layers, from 1 on, separated by commas; the number of layers stands for the head. plan --feedback --split
    /// says which a division needs
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', requires = "states", value_parser = layer)]
    at: Vec<usize>,

    /// Keep besides, in this folder, how the model's answers change with what each half of each layer adds, for the first
    /// chunks of the text: quantize --feedback --gradients weighs errors by it
    #[arg(long, value_name = "DIR")]
    gradients: Option<PathBuf>,

    /// Chunks for --gradients. For each token the folder has two hidden states a layer
    #[arg(long, value_name = "N", requires = "gradients", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    gradient_chunks: u32,

    /// llama.cpp's name of the pre-tokenizer, if it is not recognised
    #[arg(long)]
    pre: Option<String>,

    /// Forget what an interrupted run has done and begin anew
    #[arg(long)]
    restart: bool,

    /// Replace finished files that are there. Without it the same work ends at once, and other work is refused
    #[arg(long)]
    force: bool,

    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    remote: RemoteArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Calibrate {
    /// The file of `--trace`.
    pub fn trace(&self) -> Option<&Path> {
        self.text.trace()
    }

    /// Runs the model and says what the text did not reach.
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let style = Style::talking(self.quiet);
        interrupt::flag();
        let memory = self.text.memory();
        self.check_files()?;
        let checkpoint = self.remote.open(&self.checkpoint, style)?;
        let has_table = self.has_table(&checkpoint)?;
        let model = Model::plan(&checkpoint, &Options { pre: self.pre.clone(), ..Options::default() })?;
        let description = model.describe()?;
        let text = self.text.text();
        let tokens = text.tokens(&checkpoint, description)?;
        if let Some(warning) = text.beyond_context(description).filter(|_| !self.quiet) {
            log::warn(warning);
        }
        let layers = description.layers.len();
        if let Some(layer) = self.at.iter().find(|&&layer| layer > layers) {
            let problem =
                format!("--at: there is no layer {layer}; the model has {layers}, and {layers} is its head");
            return Err(Error::Argument(problem).into());
        }
        let context = text.context as usize;
        let milestones = match &self.states {
            Some(folder) => {
                Some(Milestones::new(folder, &Fingerprint::of(&checkpoint)?, description, &tokens, context))
            }
            None => None,
        };
        let gradients = match &self.gradients {
            Some(folder) => {
                let some = tokens.len().min(self.gradient_chunks as usize * context);
                let source = Fingerprint::of(&checkpoint)?;
                Some(GradientFolder::new(folder, &source, description, &tokens[..some], context))
            }
            None => None,
        };
        let types = if self.types.is_empty() { &DEFAULT_TYPES[..] } else { &self.types };
        let done = |probed| self.save_sensitivity(&checkpoint, &model, types, probed, gradients.as_ref());
        let probing = Probing { model: &model, types, made: has_table, done: &done };
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let calibration = Calibration {
            tokens: &tokens,
            context,
            datasets: text.files.iter().map(name).collect(),
            cover: self.cover,
            layout: self.format,
            memory,
            restart: self.restart,
            force: self.force,
            stop: interrupt::flag(),
            checkpoint: &checkpoint,
            source: source(&checkpoint, &model)?,
            probing: self.sensitivity.is_some().then_some(probing),
            keeping: milestones.as_ref().map(|milestones| Keeping { milestones, at: &self.at }),
        };
        if !self.quiet && !self.json {
            log::say(Beginning { what: "importances", text: &text, tokens: tokens.len(), memory });
        }
        let display = Display::new(style);
        let weights = Weights::new(&checkpoint, &model.tensors[..]);
        let found = self.text.compute(self.quiet, || {
            // First, since the table of sensitivities has something of them.
            if let Some(gradients) = &gradients
                && !gradients.is_made(layers)?
            {
                let reading = Reading::new(&display, &model.tensors, 2, false);
                let heard = reading.told();
                let weights = weights.clone().until(interrupt::flag()).telling(&heard);
                display.begin(reading.all(), 0);
                gradients
                    .make(&weights, description, memory, &|turned| tell_turned(turned, &reading, &display))?;
            }
            let reading = Reading::new(&display, &model.tensors, 1, false);
            let heard = reading.told();
            let weights = weights.telling(&heard);
            display.begin(reading.all(), 0);
            run(&weights, description, &calibration, &self.output, &|step| tell(step, &reading, &display))
        })??;
        if self.json {
            let mut value = serde_json::to_value(&found)?;
            value["output"] = json!(plain::path(&self.output));
            value["seconds"] = json!(start.elapsed().as_secs_f64());
            value["peak_memory_bytes"] = json!(peak_memory());
            return print(value);
        }
        if !self.quiet {
            warn(&found, self.cover);
        }
        if found.already {
            return print(format_args!("{}: already made of this", self.output.display()));
        }
        print(format_args!(
            "{}: importances of {} tensors from {} tokens",
            plain(self.output.display()),
            found.tensors,
            found.tokens
        ))
    }
}

impl Calibrate {
    fn check_files(&self) -> Result<(), Error> {
        let mut files = Files::of_checkpoint(&self.checkpoint);
        files.read("--text", self.text.text().files);
        files.write("-o", Some(&self.output), &[".json", ".calibrating"], Existing::Known);
        // Beside a finished importance matrix the table may be of the same work.
        let existing = if self.output.exists() { Existing::Known } else { Existing::Refused };
        files.write("--sensitivity", self.sensitivity.as_deref(), &[], existing);
        // Where there is no such folder yet, no name in it is taken.
        let kept = self.states.iter().filter(|folder| folder.is_dir());
        let kept: Vec<PathBuf> =
            kept.flat_map(|folder| self.at.iter().map(|&layer| folder.join(file_name(layer)))).collect();
        kept.iter().for_each(|path| files.write("--states", Some(path), &[NOTE], Existing::Known));
        let kept = self.gradients.iter().filter(|folder| folder.is_dir());
        let kept: Vec<PathBuf> = kept.map(|folder| folder.join(GradientFolder::NOTE)).collect();
        kept.iter().for_each(|path| files.write("--gradients", Some(path), &[], Existing::Known));
        files.check(self.force)
    }

    /// Whether the table of an earlier run is there, of the importance matrix that is there.
    ///
    /// # Errors
    /// If there is a table of something else.
    fn has_table(&self, checkpoint: &Checkpoint) -> Result<bool, Error> {
        let Some(path) = self.sensitivity.as_ref().filter(|path| !self.force && path.exists()) else {
            return Ok(false);
        };
        let table = Imatrix::open(&self.output).and_then(|imatrix| {
            Table::read(path, &Fingerprint::of(checkpoint)?, Some(&imatrix.fingerprint()))
        });
        match table {
            Ok(Some(_)) => Ok(true),
            _ => Err(Error::Argument(format!(
                "--sensitivity {}: is there already, and is no table of {}; --force replaces it",
                path.display(),
                self.output.display()
            ))),
        }
    }

    /// What each type costs: on a sample of all rows, and what the text said of that.
    fn save_sensitivity(
        &self,
        checkpoint: &Checkpoint,
        model: &Model,
        types: &[Format],
        probed: Probed,
        gradients: Option<&GradientFolder>,
    ) -> Result<(), Error> {
        let Some(path) = &self.sensitivity else { return Ok(()) };
        let (imatrix, source) = (Imatrix::open(&self.output)?, Fingerprint::of(checkpoint)?);
        let stop = interrupt::flag();
        let sampling =
            Sampling { store: checkpoint, model, source: &source, imatrix: Some(&imatrix), types, stop };
        let (table, warnings) = measure(&sampling, &Display::new(Style::talking(self.quiet)).told())?;
        warnings.iter().filter(|_| !self.quiet).for_each(log::warn);
        let table = table.with(probed);
        let table = match gradients {
            Some(gradients) => table.with_gradients(&gradients.outputs()?),
            None => table,
        };
        table.save(path, self.force)
    }
}

impl ValueEnum for Layout {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Gguf, Self::Dat]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Gguf => PossibleValue::new("gguf").help("Sums and counts as tensors"),
            Self::Dat => PossibleValue::new("dat").help("The older one; it has no counts for each expert"),
        })
    }
}

/// The number of a layer that others come before.
fn layer(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(layer) if layer > 0 => Ok(layer),
        _ => Err(format!("\"{text}\" is no layer from 1 on")),
    }
}

fn tell(Step { layers: [done, all], earlier }: Step, reading: &Reading, display: &Display) {
    if done == earlier {
        display.begin(reading.all(), reading.skip(earlier));
        if earlier > 0 {
            display.say(format_args!("{earlier} of {all} layers were finished before"));
        }
        return;
    }
    reading.passed(done - 1, 1);
    display.passed(format_args!("layer {done:3} of {all}: {:.1} s", display.so_far().time.as_secs_f64()));
}

fn tell_turned(Turned { done, layers }: Turned, reading: &Reading, display: &Display) {
    let (layers, seconds) = (layers / 2, display.so_far().time.as_secs_f64());
    let (way, layer) = if done <= layers { ("there", done) } else { ("back", 2 * layers - done + 1) };
    reading.passed(layer - 1, if done <= layers { 1 } else { 2 });
    display.passed(format_args!("gradients, {way}: layer {layer:3} of {layers}: {seconds:.1} s"));
}

fn warn(found: &Found, cover: bool) {
    for layer in &found.unreached {
        let experts: Vec<String> = layer.experts.iter().map(usize::to_string).collect();
        log::warn(format_args!(
            "blk.{}: no token of the text chose experts {}",
            layer.layer,
            experts.join(", ")
        ));
    }
    if !found.unreached.is_empty() {
        let consequence = match cover {
            true => format!(
                "they have importances from the {LEAST_TOKENS} tokens that their router scores highest"
            ),
            false => "more text may reach them, or --cover".to_owned(),
        };
        log::say(format_args!("{consequence}"));
    }
    if found.few_tokens > 0 {
        log::warn(format_args!(
            "{} experts were chosen by fewer than {LEAST_TOKENS} tokens of the text, and their importances are left to chance: \
             more text and --chunks make them better",
            found.few_tokens
        ));
    }
}

/// What of the work's identity is of the checkpoint, and of the model that it is taken for.
fn source(checkpoint: &Checkpoint, model: &Model) -> Result<Identity, Error> {
    let model = hex(format!("{:?}", model.metadata).as_bytes());
    let parts = Fingerprint::of(checkpoint)?.parts();
    Ok(Identity::new(parts.into_iter().chain([("the model's metadata, with --pre", model)])))
}
