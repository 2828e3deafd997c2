//! Stage 2, plan: the GGUF tensors and metadata that a checkpoint becomes, before any type is chosen.

mod arch;

mod from_gguf;
mod size_label;
mod tensor;
mod tokenizer;

pub use tensor::{Role, Slice, TensorPlan, layer_and_class};
pub use tokenizer::{Cutter, Encoder, TEXT_PIECE};

use std::collections::HashMap;

use crate::checkpoint::{Checkpoint, LeftOut};
use crate::error::{Error, Result, Warning};
use crate::gguf::Metadata;

/// What the user may ask of the plan.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Keep the layers for multi-token prediction.
    pub keep_mtp: bool,
    /// `general.name`, which no file of a checkpoint says.
    pub name: Option<String>,
    /// `tokenizer.ggml.pre` instead of the recognised one.
    pub pre: Option<String>,
    /// Quantize anew what a GGUF file has in fewer bits than Q8_0.
    pub allow_requantize: bool,
}

/// Everything about the output file but the types of its tensors.
#[derive(Clone, Debug)]
pub struct Model {
    /// GGUF architecture: `deepseek2`.
    pub arch: String,
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
    /// What is suspicious in the checkpoint.
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
            let mut model = from_gguf::plan(checkpoint, metadata, options)?;
            model.tensors.sort_by(|a, b| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
            return Ok(model);
        }
        let architectures: Vec<String> = checkpoint.config().get("architectures")?;
        let family = architectures.iter().find_map(|name| {
            arch::FAMILIES.iter().find(|family| family.architectures.contains(&name.as_str()))
        });
        let Some(family) = family else {
            let known: Vec<&str> = arch::FAMILIES.iter().flat_map(|f| f.architectures).copied().collect();
            return Err(Error::Unsupported(format!(
                "config.json: architectures is {architectures:?}; known are {}",
                known.join(", ")
            )));
        };
        let mut model = (family.plan)(checkpoint, options)?;
        model.tensors.sort_by(|a, b| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
        Ok(model)
    }

    /// Weights in all tensors.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::weights).sum()
    }
}
