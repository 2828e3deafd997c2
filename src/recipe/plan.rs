//! The plan: every tensor's type, all metadata, every offset, decided before any weight is read.

use std::collections::BTreeMap;

use quant_kernels::Format;
use serde::Serialize;

use super::{Candidate, Choice, Imatrix, Override, Presence, Recipe, choose, requantize};
use crate::checkpoint::Fingerprint;
use crate::error::{Error, Result, Warning};
use crate::gguf::{File, MAX_HEADER, Split, TensorInfo, Value};
use crate::model::{Model, Options, TensorPlan};

/// GGML's version of its block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// What will be written: types, header and offsets, to the byte.
#[derive(Debug)]
pub struct Plan {
    /// The tensors and where they come from.
    pub model: Model,
    /// Name of the recipe.
    pub recipe: String,
    /// Types and reasons, in the model's order.
    pub choices: Vec<Choice>,
    /// Overrides as they were given.
    pub overrides: Vec<String>,
    /// Fingerprint of the checkpoint.
    pub source: Fingerprint,
    /// SHA-256 of the importance matrix.
    pub imatrix: Option<String>,
    /// The text that rounding errors are fed back by.
    pub feedback: Option<Fed>,
    /// The user's options for the model.
    pub options: Options,
    /// How the model is divided into files.
    pub split: Split,
    /// The files: one, unless it is split.
    pub files: Vec<File>,
    /// Sizes and damages of other choices, where a size was given.
    pub tradeoff: Option<Tradeoff>,
    /// Warnings about the checkpoint and the recipe.
    pub warnings: Vec<Warning>,
}

/// Size against expected damage. Sizes are of the whole file, or of all files of a split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tradeoff {
    /// From the smallest file to the largest.
    #[serde(rename = "tradeoff")]
    pub curve: Vec<Candidate>,
    /// The one that is planned.
    pub chosen: Candidate,
}

/// The text of error feedback, and how the files are made with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fed {
    /// SHA-256 of the text, and of how it is cut.
    pub sha256: String,
    /// The number of files, if each is made by itself from the original model's hidden states, and not on what was made
    /// of the layers before: their bytes are others then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<u16>,
}

impl Fed {
    /// In the place of a digest where feedback goes by the weights alone.
    pub const NO_TEXT: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    /// The digest of the text, if there is one.
    pub fn text(&self) -> Option<&str> {
        Some(&*self.sha256).filter(|sha256| *sha256 != Self::NO_TEXT)
    }
}

/// The user's choices for a plan.
#[derive(Clone, Debug)]
pub struct Wishes<'a> {
    /// Rules for the types.
    pub recipe: &'a Recipe,
    /// Types that go before the rules.
    pub overrides: &'a [Override],
    /// Measured importances.
    pub imatrix: Option<&'a Imatrix>,
    /// The text for error feedback.
    pub feedback: Option<Fed>,
    /// The user's options for the model.
    pub options: Options,
    /// How to divide the file.
    pub split: Split,
}

impl<'a> Wishes<'a> {
    /// A recipe and nothing else.
    pub fn new(recipe: &'a Recipe) -> Self {
        Self {
            recipe,
            overrides: &[],
            imatrix: None,
            feedback: None,
            options: Options::default(),
            split: Split::Whole,
        }
    }
}

impl Plan {
    /// Chooses types and lays out the files.
    ///
    /// # Errors
    /// If the recipe does not cover the model, an override matches nothing, or the model cannot be split so.
    pub fn new(mut model: Model, source: Fingerprint, wishes: Wishes) -> Result<Self> {
        let Wishes { recipe, overrides, imatrix, feedback, options, split } = wishes;
        let presence = if imatrix.is_some() { Presence::Present } else { Presence::Absent };
        let mut choices = choose(&model, recipe, overrides, presence)?;
        let mut warnings = model.warnings.clone();
        warnings.extend(requantize::check(&model, &choices, options.allow_requantize)?);

        for place in model.add_factors(&choices.iter().map(|choice| choice.format).collect::<Vec<_>>()) {
            choices.insert(place, Choice::of_factors());
        }

        if let Some(tensor) = model.with_factors().filter(|_| feedback.is_some()) {
            return Err(Error::Unsupported(format!(
                "{} has factors in a tensor beside it, which --feedback cannot take into account; make the file without it, \
                 or of a source without them (of a checkpoint in NVFP4, another type than \"source\" takes them in)",
                tensor.name
            )));
        }

        // The file type says what most weights are.
        let pairs = model.tensors.iter().zip(&choices);
        let copied = pairs.filter(|(tensor, choice)| tensor.stored == Some(choice.format));
        let copied: u64 = copied.map(|(tensor, _)| tensor.weights()).sum();
        let most = copied > model.weights() / 2 && model.metadata.get("general.file_type").is_some();
        let metadata = &mut model.metadata;
        if !most {
            let said = recipe.file_type.filter(|_| !recipe.is_of_source());
            let file_type = said.or_else(|| most_weights(&model.tensors, &choices)).or(recipe.file_type);
            metadata.set("general.file_type", Value::U32(file_type.unwrap_or_default()));
        }
        metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
        metadata.set("quantpress.version", env!("CARGO_PKG_VERSION").into());
        metadata.set("quantpress.recipe", recipe.name.as_str().into());
        metadata.set("quantpress.source.sha256", Value::String(source.sha256()));
        warnings.extend(recipe.dead_rules(&model, overrides));
        warnings.extend(without_effect(&choices, imatrix.is_some(), feedback.is_some()));
        let metadata = &mut model.metadata;
        let overrides: Vec<String> = overrides.iter().map(Override::to_string).collect();
        if !overrides.is_empty() {
            metadata.set("quantpress.overrides", Value::Strings(overrides.clone()));
        }
        let mut fingerprint = None;
        if let Some(imatrix) = imatrix {
            metadata.set("quantize.imatrix.entries_count", Value::U32(imatrix.entries() as u32));
            if let Some(chunks) = imatrix.chunks {
                metadata.set("quantize.imatrix.chunks_count", Value::U32(chunks));
            }
            let sha256 = imatrix.fingerprint();
            metadata.set("quantpress.imatrix.sha256", Value::String(sha256.clone()));
            fingerprint = Some(sha256);
        }
        if let Some(Fed { sha256, parts }) = &feedback {
            metadata.set("quantpress.feedback.sha256", Value::String(sha256.clone()));
            if let Some(parts) = parts {
                metadata.set("quantpress.feedback.parts", Value::U32((*parts).into()));
            }
        }

        let infos: Vec<TensorInfo> = model
            .tensors
            .iter()
            .zip(&choices)
            .map(|(tensor, choice)| TensorInfo {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                format: choice.format,
            })
            .collect();
        let files = split
            .files(&model.metadata, &infos)
            .map_err(|problem| Error::Argument(format!("the file cannot be split like this: {problem}")))?;
        for file in &files {
            let bytes = file.layout.header.len() as u64;
            if bytes > MAX_HEADER {
                let problem = format!(
                    "the header would have {bytes} bytes, most of them the tokenizer's; files with more than {MAX_HEADER} \
                     are not read"
                );
                return Err(Error::Unsupported(problem));
            }
        }
        let recipe = recipe.name.clone();
        Ok(Self {
            model,
            recipe,
            choices,
            overrides,
            source,
            imatrix: fingerprint,
            feedback,
            options,
            split,
            files,
            tradeoff: None,
            warnings,
        })
    }

    /// The file that a tensor is in and its first byte there, by its place in the model.
    pub fn place(&self, tensor: usize) -> (usize, u64) {
        let file = self.files.partition_point(|file| file.tensors.end <= tensor);
        let File { tensors, layout } = &self.files[file];
        (file, layout.offsets[tensor - tensors.start])
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.layout.file_size).sum()
    }

    /// Type of a tensor by its place in the model.
    pub fn format(&self, tensor: usize) -> Format {
        self.choices[tensor].format
    }

    /// Bytes of a tensor's data, by its place in the model.
    pub fn bytes(&self, tensor: usize) -> u64 {
        let plan = &self.model.tensors[tensor];
        self.format(tensor).row_bytes(plan.columns()) * (plan.weights() / plan.columns())
    }

    /// Bytes of all tensors' data, without header and padding.
    pub fn tensor_bytes(&self) -> u64 {
        (0..self.choices.len()).map(|tensor| self.bytes(tensor)).sum()
    }

    /// Bits per weight over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        self.tensor_bytes() as f64 * 8.0 / self.model.weights() as f64
    }
}

/// llama.cpp's number of the type that most weights get.
fn most_weights(tensors: &[TensorPlan], choices: &[Choice]) -> Option<u32> {
    let mut weights: BTreeMap<Format, u64> = BTreeMap::new();
    for (tensor, choice) in tensors.iter().zip(choices) {
        *weights.entry(choice.format).or_default() += tensor.weights();
    }
    weights
        .into_iter()
        .max_by_key(|(format, count)| (*count, *format))
        .and_then(|(format, _)| format.file_type())
}

/// Warnings about options that change no weight with the types that were chosen.
fn without_effect(choices: &[Choice], imatrix: bool, feedback: bool) -> Vec<Warning> {
    let all = |is_one: fn(Format) -> bool| choices.iter().all(|choice| is_one(choice.format));
    let said = |option: &str, types: &str, why: &str| {
        Warning::new(Error::Argument(format!("{option} has no effect: all types are {types}, {why}")))
    };
    let mut found = Vec::new();
    if imatrix && all(|format| format.is_float() || format == Format::Q8_0) {
        found.push(said("--imatrix", "F32, F16, BF16 or Q8_0", "for which no importances are looked at"));
    }
    if feedback && all(Format::is_float) {
        found.push(said("--feedback", "F32, F16 or BF16", "whose errors are not fed back"));
    }
    found
}
