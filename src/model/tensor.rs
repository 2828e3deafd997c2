//! One output tensor: its name, shape and role, and the rows of the store that it is made of.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use quant_kernels::Format;
use serde::{Deserialize, Serialize};

use super::part::{Half, Part};
use crate::checkpoint::Values;
use crate::store::{Order, Slice};

/// What a tensor does in the model; recipes choose by it and reports sum by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// token_embd: one row is read per token.
    Embedding,
    /// output, the head.
    Output,
    /// attn_*: projections of attention.
    Attention,
    /// ffn_{gate,up,down} of a layer without experts.
    DenseFfn,
    /// ffn_*_shexp: experts that every token uses.
    SharedExperts,
    /// ffn_*_exps: the routed experts.
    Experts,
    /// ffn_gate_inp and exp_probs_b: which experts a token goes to.
    Router,
    /// *_norm: gains of normalisations; and other small things that llama.cpp wants in F32: biases, sinks, convolutions.
    Norm,
    /// nextn.*: what multi-token prediction adds to a layer.
    Mtp,
    /// What a GGUF file has besides: state spaces, projections of images, frequencies.
    Other,
}

impl Role {
    /// The name as recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Output => "output",
            Self::Attention => "attention",
            Self::DenseFfn => "dense-ffn",
            Self::SharedExperts => "shared-experts",
            Self::Experts => "experts",
            Self::Router => "router",
            Self::Norm => "norm",
            Self::Mtp => "mtp",
            Self::Other => "other",
        }
    }

    /// Whether llama.cpp needs F32 here: it aborts on narrower norms, and a coarse router picks other experts.
    pub fn is_f32(self) -> bool {
        matches!(self, Self::Router | Self::Norm)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One tensor of the GGUF file: `ne1` rows of `ne0` weights in each of `slices.len()` matrices, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// Name in the GGUF file.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Layer (`blk.N`), None for tensors outside of the layers.
    pub layer: Option<u32>,
    /// GGUF's shape, row length first.
    pub shape: Vec<u64>,
    /// Where the weights come from: experts or heads in order, else one slice.
    pub slices: Vec<Slice>,
    /// Name in the store of the norm whose output is this tensor's input, where there is one.
    pub input_norm: Option<String>,
    /// Its part in the model.
    pub part: Part,
    /// The type that all its weights have in the store, where that is one of GGUF's.
    pub stored: Option<Format>,
    /// Else the type whose blocks hold the same codes, so that it needs no encoding.
    pub regrouped: Option<Format>,
    /// Name in the store of the numbers, one for each slice, that the weights of these blocks are multiplied by, where
    /// the blocks do not say all. What the store decodes is multiplied already.
    pub scale: Option<Arc<str>>,
    /// Why it keeps that type, if it must: nothing chooses another.
    pub kept: Option<&'static str>,
}

impl TensorPlan {
    /// A tensor as a GGUF file holds it: its slices are rows of itself, one after another.
    pub fn of_file(name: String, layer: Option<u32>, role: Role, part: Part, shape: Vec<u64>) -> Self {
        let rows = shape.get(1).copied().unwrap_or(1);
        let stored: Arc<str> = name.as_str().into();
        let slice = |slice: u64| Slice {
            tensor: Arc::clone(&stored),
            rows: slice * rows..(slice + 1) * rows,
            transposed: false,
            order: Order::Stored,
        };
        let slices = (0..shape.iter().skip(2).product()).map(slice).collect();
        Self {
            name,
            role,
            layer,
            shape,
            slices,
            input_norm: None,
            part,
            stored: None,
            regrouped: None,
            scale: None,
            kept: None,
        }
    }

    /// This tensor as the file holds it that is made of it.
    #[must_use]
    pub fn as_written(&self) -> Self {
        Self::of_file(self.name.clone(), self.layer, self.role, self.part, self.shape.clone())
    }

    /// Whether nothing chooses its type: it keeps the one that it has, or llama.cpp computes it in F32.
    pub fn is_fixed(&self) -> bool {
        self.kept.is_some() || self.role.is_f32()
    }

    /// The numbers of its slices.
    pub fn slice_numbers(&self) -> Range<usize> {
        0..self.slices.len()
    }

    /// Whether it is the head of the model, and not of a layer for multi-token prediction.
    pub fn is_head(&self) -> bool {
        self.role == Role::Output && self.layer.is_none()
    }

    /// Whether it belongs to a half of a layer.
    pub fn is_of(&self, layer: usize, half: Half) -> bool {
        self.layer == Some(layer as u32) && self.part.half == Some(half)
    }

    /// Whether its blocks, written as this type, have the codes and scales of the source.
    pub fn keeps_blocks(&self, format: Format) -> bool {
        self.stored.or(self.regrouped) == Some(format)
    }

    /// Which numbers its weights may be, written as this type.
    pub fn values(&self, format: Format) -> Values {
        match (self.kept.is_some(), matches!(format, Format::F32 | Format::BF16)) {
            // As it was in the file that it is carried over from.
            (true, _) => Values::Any,
            // A router's bias; anywhere else -inf makes NaN of what follows.
            (_, true) if self.role == Role::Router && self.shape.len() == 1 => Values::Any,
            (_, true) => Values::Finite,
            (_, false) => Values::Bounded,
        }
    }

    /// Weights in a row (ne0).
    pub fn columns(&self) -> u64 {
        self.shape[0]
    }

    /// Rows in a slice (ne1).
    pub fn rows(&self) -> u64 {
        self.shape.get(1).copied().unwrap_or(1)
    }

    /// Weights in the tensor.
    pub fn weights(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The name without layer and suffix, alike for all layers: `ffn_down_exps`.
    pub fn class(&self) -> &str {
        layer_and_class(&self.name).1
    }
}

/// The layer that a GGUF name is of, and the name without layer and suffix: `ffn_down_exps`.
pub fn layer_and_class(name: &str) -> (Option<u32>, &str) {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let of_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match of_layer.and_then(|(layer, class)| Some((layer.parse().ok()?, class))) {
        Some((layer, class)) => (Some(layer), class),
        None => (None, name),
    }
}
