//! Stage 2, plan: the GGUF tensors and metadata that a checkpoint becomes, before any type is chosen.

mod arch;
mod card;
mod description;
mod file;
mod from_gguf;
pub mod keys;
pub mod layer;
mod over;
mod part;
mod scales;
pub mod side;
mod size_label;
mod spec;
mod tensor;
mod tokenizer;
mod weights;

pub use crate::store::Slice;
pub use description::{Description, EMBEDDING, FINAL_NORM, HEAD, Layer, ROPE_DIVISORS};
pub use file::ModelFile;
pub use part::{Gated, Half, Input, Part, Slices};
pub use scales::name as factors_of;
pub use spec::{Source, Spec};
pub use tensor::{Role, TensorPlan, layer_and_class};
pub use tokenizer::{Cutter, Encoder, TEXT_PIECE, Text};
pub use weights::Weights;

use std::collections::HashMap;

use quant_kernels::Format;

use crate::checkpoint::{Checkpoint, LeftOut};
use crate::error::{Error, Result, Warning};
use crate::gguf::{Metadata, Value};
use keys::Writer;
use size_label::size_label;
use tokenizer::Tokenizer;

/// The user's options for a plan of the model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Keep the layers for multi-token prediction.
    pub keep_mtp: bool,
    /// Write only these, with embedding, norm and head: a file beside that of the model.
    pub mtp_only: bool,
    /// `general.name`, instead of what the model card says, if it says one.
    pub name: Option<String>,
    /// `tokenizer.ggml.pre` instead of the recognised one.
    pub pre: Option<String>,
    /// GGUF's architecture, for a checkpoint that can become more than one.
    pub arch: Option<String>,
    /// Quantize anew what a GGUF file has in fewer bits than Q8_0.
    pub allow_requantize: bool,
}

impl Options {
    /// The option that asks for the layers for multi-token prediction, if one does.
    pub fn asks_for_mtp(&self) -> Option<&'static str> {
        match (self.mtp_only, self.keep_mtp) {
            (true, _) => Some("--mtp-only"),
            (false, true) => Some("--keep-mtp"),
            (false, false) => None,
        }
    }
}

/// Everything about the output file but the types of its tensors.
#[derive(Clone, Debug)]
pub struct Model {
    /// GGUF architecture: `deepseek2`.
    pub arch: String,
    /// What the model is; None where its architecture has no description, and so no forward pass.
    pub description: Option<Description>,
    /// All keys but those that depend on the recipe.
    pub metadata: Metadata,
    /// In file order: those outside of the layers, then by layer, each by name, as llama-quantize sorts them.
    pub tensors: Vec<TensorPlan>,
    /// Layers, those for multi-token prediction included if kept (block_count).
    pub layers: u32,
    /// The first layers, which have no experts.
    pub dense_layers: u32,
    /// Routed experts in a layer, and how many of them a token uses; zeros without experts.
    pub experts: [u32; 2],
    /// Numbers a token adds to the KV cache in one layer.
    pub kv_per_token: u32,
    /// Tensors that no model needs and that are left out by name.
    pub left_out: Vec<LeftOut>,
    /// Warnings about the checkpoint.
    pub warnings: Vec<Warning>,
}

impl Model {
    /// The places of the tensors, by name.
    pub fn places(&self) -> HashMap<&str, usize> {
        self.tensors.iter().enumerate().map(|(place, tensor)| (&*tensor.name, place)).collect()
    }

    /// The model that a checkpoint holds.
    ///
    /// # Errors
    /// If its architecture is unknown, a field of config.json is missing or absurd, a tensor is missing, has another
    /// shape than the config says, or has no place in the architecture, or the tokenizer cannot be carried over.
    pub fn plan(checkpoint: &Checkpoint, options: &Options) -> Result<Self> {
        if let Some(metadata) = checkpoint.metadata() {
            if let Some(arch) = &options.arch {
                let problem = format!("--arch {arch}: a GGUF file keeps its architecture");
                return Err(Error::Argument(problem));
            }
            options.pre.as_deref().map_or(Ok(()), tokenizer::check_pre)?;
            let mut model = from_gguf::plan(checkpoint, metadata, options)?;
            model.tensors.sort_by(|a, b| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
            return Ok(model);
        }
        let family = arch::family(checkpoint)?;
        if let Some(wanted) = &options.arch
            && wanted != family.arch
            && !family.instead.contains(&wanted.as_str())
        {
            let known = [&[family.arch], family.instead].concat().join(" or ");
            return Err(Error::Argument(format!("--arch {wanted}: this checkpoint can become {known}")));
        }
        let arch::Described {
            model: mut description,
            left_out,
            mut warnings,
            rope_divisors,
            without,
            begins,
        } = (family.describe)(checkpoint, options)?;
        warnings.extend(checkpoint.warnings().iter().cloned());
        warnings.extend(head_of_its_own(checkpoint, &description)?);
        let mut builder = arch::Builder::new(checkpoint, family, &description, &rope_divisors);
        for (layer, spec) in description.specs() {
            builder.add(layer, &spec)?;
        }
        let mut tensors = builder.finish(|name| {
            // Only the layers for multi-token prediction that config.json declares; any others are not to be lost.
            let layer =
                name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
            layer.is_some_and(|layer: u32| left_out.contains(&layer))
                || without.iter().any(|without| without.is(name))
                || (description.tied && name == "lm_head.weight")
        })?;
        if options.mtp_only {
            side::keep(&mut tensors, description.layers.len() as u32);
        }
        let mut tokenizer = Tokenizer::read(checkpoint, description.vocabulary, options.pre.as_deref())?;
        warnings.extend(tokenizer.warnings());
        if begins {
            tokenizer.begin_with_bos();
        }
        description.bos = tokenizer.bos();

        let mut metadata = Metadata::default();
        metadata.set("general.architecture", description.arch.into());
        metadata.set("general.type", "model".into());
        arch::describe_sampling(checkpoint, &mut metadata)?;
        warnings.extend(card::describe(checkpoint, &mut metadata)?);
        if let Some(name) = &options.name {
            metadata.set("general.name", name.as_str().into());
        }
        metadata.set("general.size_label", Value::String(label(&description, &tensors)));
        (family.write)(&description, &mut Writer::new(description.arch, &mut metadata));
        if options.mtp_only {
            side::mark(&mut metadata);
        }
        tokenizer.describe(&mut metadata);
        tensors.sort_by(|a, b| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
        let experts =
            description.experts.as_ref().map_or([0, 0], |experts| [experts.count, experts.router.used]);
        Ok(Self {
            arch: description.arch.to_owned(),
            metadata,
            tensors,
            layers: description.blocks().count() as u32,
            dense_layers: description.dense_layers(),
            experts,
            kv_per_token: description.cache_per_token(),
            left_out: arch::left_out(checkpoint, &without),
            warnings,
            description: Some(description),
        })
    }

    /// Whether a checkpoint can become a file of this architecture, other than the usual one.
    pub fn can_be(checkpoint: &Checkpoint, arch: &str) -> bool {
        let is_folder = checkpoint.metadata().is_none();
        is_folder && arch::family(checkpoint).is_ok_and(|family| family.instead.contains(&arch))
    }

    /// Whether it was planned from a GGUF file, whose tensors have their names already.
    pub fn is_of_gguf(&self) -> bool {
        self.tensors
            .iter()
            .flat_map(|tensor| tensor.slices.first().map(|slice| *slice.tensor == *tensor.name))
            .any(|same| same)
    }

    /// What the model is.
    ///
    /// # Errors
    /// If there is no forward pass for its architecture.
    pub fn describe(&self) -> Result<&Description> {
        let computed = self.description.as_ref().filter(|description| description.is_computed());
        computed.ok_or_else(|| description::no_forward(&self.arch))
    }

    /// Tokens that the model was made for; 0 where its architecture has no description.
    pub fn longest_context(&self) -> u64 {
        self.description.as_ref().map_or(0, |description| description.context.into())
    }

    /// Adds what a file has beside tensors whose blocks do not say all of their weights: the factors of
    /// [`TensorPlan::scale`], before those of them that are of the source's type here. Gives the places where they are
    /// now, in order.
    ///
    /// # Panics
    /// If `formats` is not one for each tensor.
    pub fn add_factors(&mut self, formats: &[Format]) -> Vec<usize> {
        assert_eq!(formats.len(), self.tensors.len(), "a type for each tensor");
        let (mut tensors, mut places) = (Vec::with_capacity(formats.len()), Vec::new());
        for (tensor, format) in std::mem::take(&mut self.tensors).into_iter().zip(formats) {
            if let Some(factors) = scales::beside(&tensor, *format) {
                places.push(tensors.len());
                tensors.push(factors);
            }
            tensors.push(tensor);
        }
        self.tensors = tensors;
        places
    }

    /// The first tensor that has factors in another beside it.
    pub fn with_factors(&self) -> Option<&TensorPlan> {
        let places = self.places();
        let has = |tensor: &&TensorPlan| {
            scales::place(tensor, &self.tensors, |name| places.get(name).copied()).is_some()
        };
        self.tensors.iter().find(has)
    }

    /// Weights in all tensors.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::weights).sum()
    }
}

/// `general.size_label`.
fn label(description: &Description, tensors: &[TensorPlan]) -> String {
    let routed: u64 = tensors.iter().filter(|t| t.role == Role::Experts).map(TensorPlan::weights).sum();
    let all: u64 = tensors.iter().map(TensorPlan::weights).sum();
    let count = description.experts.as_ref().map_or(0, |experts| u64::from(experts.count));
    size_label(all - routed, routed.checked_div(count).unwrap_or(0), if routed > 0 { count } else { 0 })
}

/// A warning, if the checkpoint has a head although config.json says that the embedding is one, and they differ.
fn head_of_its_own(checkpoint: &Checkpoint, model: &Description) -> Result<Option<Warning>> {
    let names = arch::whole::Names::of(checkpoint);
    let [embedding, head] =
        ["model.embed_tokens.weight", "lm_head.weight"].map(|name| checkpoint.get(&names.stored(name)));
    let (true, Some(embedding), Some(head)) = (model.tied, embedding, head) else { return Ok(None) };
    if checkpoint.look_alike(embedding, head)? {
        return Ok(None);
    }
    let problem = "is stored with numbers of its own, though config.json says tie_word_embeddings: it is left out, and the \
                   embedding is the head; if it was trained, set tie_word_embeddings to false";
    Ok(Some(Warning::new(Error::tensor(&head.shard, &head.name, problem))))
}
