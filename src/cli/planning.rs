//! The arguments that decide what a file will be, shared by `quantize` and `plan`.

use std::path::{Path, PathBuf};

use clap::Args;
use regex::Regex;

use super::machine::MachineArguments;
use super::outputs::{self, Files};
use super::progress::Style;
use super::remote::RemoteArgs;
use super::size::{self, Part};
use super::sizing::Sizing;
use crate::checkpoint::{Address, Checkpoint, Fingerprint};
use crate::error::{Error, Result, Warning};
use crate::gguf::{Parts, Split};
use crate::machine::Fit;
use crate::model::{Model, Options};
use crate::recipe::{
    AUTO_PRESET, DEFAULT_PRESET, DENSE_PRESET, Fed, Imatrix, Importances, Override, Plan, Recipe, Wishes,
    file_types, pattern, preset_names,
};

#[derive(Debug, Args)]
pub struct Planning {
    /// Folder of the checkpoint: config.json, tokenizer, safetensors shards (F32, F16, BF16, FP8, integers, small floats); or a
    /// GGUF file of any architecture, of a split any of its files; or hf://org/name[@revision], a repository of the Hugging Face
    /// hub, s3://bucket/prefix or https://host/folder/, or a GGUF file in one of these, read where they are
    checkpoint: PathBuf,

    /// A preset or a TOML file of rules for the types of tensors [default: ud-iq1_s, q4_k_m without
    /// experts, auto where a size is named]
    #[arg(short, long, value_name = "NAME|FILE", long_help = recipe_help())]
    recipe: Option<String>,

    #[command(flatten)]
    sizing: Sizing,

    #[command(flatten)]
    machine: MachineArguments,

    /// A type for the tensors whose GGUF name the pattern is found in, before the recipe's rules; repeatable
    #[arg(long = "override", value_name = "REGEX=TYPE")]
    overrides: Vec<Override>,

    /// Importance matrix of calibrate or llama-imatrix, .dat or GGUF
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Keep the layers for multi-token prediction, which llama.cpp needs only for speculative decoding
    #[arg(long)]
    keep_mtp: bool,

    /// Write only the layers for multi-token prediction, with embedding, norm and head: a file beside that of the model,
    /// for llama.cpp's --spec-draft-model
    #[arg(long, conflicts_with_all = ["keep_mtp", "only", "ram", "feedback"])]
    mtp_only: bool,

    /// The model's name, written as general.name
    #[arg(long)]
    name: Option<String>,

    /// llama.cpp's name of the pre-tokenizer (tokenizer.ggml.pre), if it is not recognised
    #[arg(long)]
    pre: Option<String>,

    /// GGUF's architecture, for a checkpoint that can become more than one: DeepSeek V3.2 and GLM-5 without their
    /// indexer are deepseek2
    #[arg(long)]
    arch: Option<String>,

    /// Keep the tensors whose GGUF name the pattern is found in as they are stored, bit for bit; repeatable
    #[arg(long = "keep", value_name = "REGEX", value_parser = kept)]
    keep: Vec<Override>,

    /// Make only the tensors anew whose GGUF name the pattern is found in; all others are copied from the file of --base
    #[arg(long, value_name = "REGEX", value_parser = pattern, requires = "base")]
    only: Option<Regex>,

    /// A GGUF file of the same model, of a split any of its files, that --only mends
    #[arg(long, value_name = "FILE", requires = "only")]
    base: Option<PathBuf>,

    /// Quantize anew what a GGUF file has in fewer bits than Q8_0, whose errors then add up
    #[arg(long)]
    allow_requantize: bool,

    /// Take what is suspicious in the checkpoint or the recipe for an error, and not for a warning
    #[arg(long)]
    strict: bool,

    /// Write llama.cpp's split files NAME-00001-of-00004.gguf: of at most SIZE, as in 48GB, or COUNT of about equal
    /// size
    #[arg(long, value_name = "SIZE|COUNT", value_parser = size::split)]
    split: Option<Split>,

    /// Only this file of a split into COUNT, as in 2/8, for jobs on several machines: the same bytes as with --split 8,
    /// unless there is --feedback
    #[arg(long, value_name = "NUMBER/COUNT", conflicts_with = "split")]
    part: Option<Part>,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// The plan, with the checkpoint and the importances that it was made from.
pub struct Planned {
    pub checkpoint: Checkpoint,
    pub plan: Plan,
    pub imatrix: Option<Imatrix>,
    /// How the file runs on the machine that was named.
    pub fit: Option<Fit>,
    /// The only file of the plan to be made, counted from 1.
    pub part: Option<u16>,
    /// Whether what is suspicious is an error.
    pub strict: bool,
    /// The repository of the hub that the checkpoint is in, if it is read there.
    repository: Option<String>,
    /// The recipe to be saved, and where.
    saved: Option<(PathBuf, String)>,
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be shown: far away the weights are not looked at, unless a size is measured on them.
    Show,
    /// To be followed: a sample of the weights tells their checkpoint from others.
    Write,
}

impl Planning {
    /// Checks that a machine is given only with `--size auto`.
    ///
    /// # Errors
    /// If one is named, and not asked for the size.
    pub fn check_machine(&self) -> Result<()> {
        if self.machine.is_given() && !self.sizing.is_auto() {
            let problem =
                "--ram is for --size auto here; quantpress plan --ram says how a file of another size runs";
            return Err(Error::Argument(problem.into()));
        }
        Ok(())
    }

    /// Whether several files are made of the output's name.
    pub fn is_split(&self) -> bool {
        self.split.is_some() || self.part.is_some()
    }

    /// The files that are read and written for the plan.
    pub fn files(&self) -> Files {
        let mut files = Files::of_checkpoint(&self.checkpoint);
        // A preset's name is no file's.
        files.read("--recipe", self.recipe.iter().filter(|name| Path::new(name).exists()));
        files.read("--imatrix", &self.imatrix);
        files.read("--base", self.base.iter().flat_map(|base| Parts::names(base)));
        self.sizing.files(&mut files);
        files
    }

    /// Reads headers, configuration and tokenizer, and decides. What a size needs is measured on so many threads;
    /// `feedback` is the digest of its text.
    pub fn plan(
        self,
        (threads, style): (usize, Style),
        feedback: Option<String>,
        purpose: Purpose,
    ) -> Result<Planned> {
        let default = if self.sizing.is_given() { AUTO_PRESET } else { DEFAULT_PRESET };
        let mut recipe = Recipe::load(self.recipe.as_deref().unwrap_or(default))?;
        if recipe.is_open() && !self.sizing.is_given() {
            let problem = "has open types, which --size or --bpw decides";
            return Err(Error::Recipe { recipe: recipe.name, problem: problem.into() });
        }
        let imatrix = self.imatrix.as_deref().map(Imatrix::open).transpose()?;
        let mut checkpoint = self.remote.open(&self.checkpoint, style)?;
        let overrides: Vec<Override> = self.keep.into_iter().chain(self.overrides).collect();
        let options = Options {
            keep_mtp: self.keep_mtp,
            mtp_only: self.mtp_only,
            name: self.name,
            pre: self.pre,
            arch: self.arch,
            allow_requantize: self.allow_requantize,
        };
        let mut model = Model::plan(&checkpoint, &options)?;
        if self.recipe.is_none() && recipe.for_experts && model.experts[0] == 0 {
            recipe = Recipe::load(DENSE_PRESET)?;
        }
        if let (Some(only), Some(base)) = (&self.only, &self.base) {
            let base = Checkpoint::open_gguf(base)?;
            let options = Options { arch: None, ..options.clone() };
            let under = Model::plan(&base, &options)?.made_as(&base);
            model = model.over(under, &|name| only.is_match(name))?;
            checkpoint = checkpoint.over(base);
        }
        let split = match (self.split, self.part) {
            (_, Some(part)) => Split::Count(part.of),
            (split, None) => split.unwrap_or(Split::Whole),
        };
        let address = Address::of(&self.checkpoint)?;
        let source = match purpose {
            // A table of measured damage is held against it.
            Purpose::Show if address.is_some() && !self.sizing.is_given() => {
                Fingerprint::unsampled(&checkpoint)?
            }
            _ => {
                // While a thousand small samples are on their way, the line has time for more.
                if let (Purpose::Write, None | Some(Part { number: 1, .. }), Some(first)) =
                    (purpose, self.part, checkpoint.shards().first())
                {
                    checkpoint.source().expect(&first.file, 0);
                }
                Fingerprint::of(&checkpoint)?
            }
        };
        let wishes = Wishes {
            recipe: &recipe,
            overrides: &overrides,
            imatrix: imatrix.as_ref(),
            feedback: feedback.map(|sha256| Fed { sha256, parts: self.part.map(|part| part.of) }),
            options,
            split,
        };
        let (plan, saved) = match self.sizing.is_given() {
            true => {
                let sized = self.sizing.plan(
                    &checkpoint,
                    &model,
                    &source,
                    wishes,
                    &self.machine,
                    (threads, style),
                )?;
                let path = self.sizing.save_recipe().map(Path::to_owned);
                (sized.plan, path.map(|path| (path, sized.recipe)))
            }
            false => (Plan::new(model, source, wishes)?, None),
        };
        Warning::refuse(&plan.warnings, self.strict)?;
        let fit = self.machine.fit(&plan)?;
        let repository = match address {
            Some((Address::Hub { repository, .. }, _)) => Some(repository),
            _ => None,
        };
        let part = self.part.map(|part| part.number);
        Ok(Planned { checkpoint, plan, imatrix, fit, part, strict: self.strict, repository, saved })
    }
}

impl Planned {
    /// Writes the recipe that was found, if the user wants it.
    ///
    /// # Errors
    /// If another file is there and not to be replaced, or the system cannot.
    pub fn save_recipe(&self, force: bool) -> Result<()> {
        let Some((path, recipe)) = &self.saved else { return Ok(()) };
        outputs::write("--save-recipe", path, recipe.as_bytes(), force).map(drop)
    }

    /// The repository of the hub that the checkpoint is in, if it is read there.
    pub fn repository(&self) -> Option<String> {
        self.repository.clone()
    }

    /// The importances of every tensor.
    pub fn importances(&self) -> Result<Importances<'_>> {
        let choices = &self.plan.choices;
        let found = Importances::prepare(&self.checkpoint, &self.plan.model, choices, self.imatrix.as_ref())?;
        Warning::refuse(found.warnings(), self.strict)?;
        Ok(found)
    }
}

/// A pattern of `--keep`.
fn kept(pattern: &str) -> Result<Override, String> {
    format!("{pattern}=copy").parse()
}

fn recipe_help() -> String {
    let mut text =
        "A preset or a TOML file of rules for the types of tensors (docs/recipes.md) [default: ud-iq1_s, q4_k_m \
         without experts, auto where a size is named]\n\nPresets:"
            .to_owned();
    for name in preset_names() {
        if let Ok(recipe) = Recipe::load(name) {
            text.push_str(&format!("\n  {name:<11} {}", recipe.about));
        }
    }
    let file_types: Vec<String> = file_types().collect();
    text.push_str(
        "\n\nllama-quantize's file types, by its rules for every architecture (docs/file-types.md):\n  ",
    );
    text.push_str(&file_types.join(", "));
    text
}
