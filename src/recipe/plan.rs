//! The whole decision: every tensor's type, all metadata, every offset. Nothing of it needs a weight to be read.

use quant_kernels::Format;

use super::{Choice, Imatrix, Override, Presence, Recipe, choose};
use crate::error::Result;
use crate::gguf::{Layout, TensorInfo, Value};
use crate::model::Model;

/// GGML's version of its block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// What will be written, to the byte.
#[derive(Debug)]
pub struct Plan {
    /// The tensors and where they come from.
    pub model: Model,
    /// Name of the recipe.
    pub recipe: String,
    /// Types and reasons, in the model's order.
    pub choices: Vec<Choice>,
    /// Header and offsets.
    pub layout: Layout,
}

impl Plan {
    /// Chooses types and lays out the file.
    ///
    /// # Errors
    /// If the recipe does not cover the model, or an override matches nothing.
    pub fn new(
        mut model: Model,
        recipe: &Recipe,
        overrides: &[Override],
        imatrix: Option<&Imatrix>,
    ) -> Result<Self> {
        let presence = if imatrix.is_some() { Presence::Present } else { Presence::Absent };
        let choices = choose(&model, recipe, overrides, presence)?;

        let metadata = &mut model.metadata;
        metadata.set("general.file_type", Value::U32(recipe.file_type));
        metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
        metadata.set("quantpress.version", env!("CARGO_PKG_VERSION").into());
        metadata.set("quantpress.recipe", recipe.name.as_str().into());
        if !overrides.is_empty() {
            let overrides = overrides.iter().map(Override::to_string).collect();
            metadata.set("quantpress.overrides", Value::Strings(overrides));
        }
        if let Some(imatrix) = imatrix {
            metadata.set("quantize.imatrix.entries_count", Value::U32(imatrix.entries() as u32));
            if let Some(chunks) = imatrix.chunks {
                metadata.set("quantize.imatrix.chunks_count", Value::U32(chunks));
            }
            metadata.set("quantpress.imatrix.sha256", Value::String(imatrix.fingerprint()));
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
        let layout = Layout::new(&model.metadata, &infos);
        Ok(Self { model, recipe: recipe.name.clone(), choices, layout })
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
