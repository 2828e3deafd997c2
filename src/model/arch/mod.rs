//! The model families: each is one file, and a line here. A family turns config.json into a [`Description`], and says
//! which metadata keys of its architecture spell that. Tensors, forward pass and all the rest follow from the
//! description.

mod builder;
mod deepseek2;
mod deepseek4;
mod fields;
mod glm4moe;
mod gpt_oss;
mod grouped;
mod llama;
mod minimax_m2;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen3moe;
mod rope;
mod sampling;
pub mod whole;

use super::keys::{Reader, Writer};
use super::layer::Pairing;
use super::{Description, Options};
use crate::checkpoint::{Checkpoint, LeftOut};
use crate::error::{Error, Result, Warning};

pub use builder::Builder;
pub use sampling::describe as describe_sampling;

/// A GGUF architecture and the checkpoints that become it.
pub struct Family {
    /// GGUF's name of the architecture.
    pub arch: &'static str,
    /// Names in config.json's `architectures`.
    pub architectures: &'static [&'static str],
    /// Other architectures that its checkpoints can become if the user asks for it.
    pub instead: &'static [&'static str],
    /// Which columns of a query or key are rotated together in a checkpoint.
    pub stored: Pairing,
    /// What its checkpoints call otherwise than most, one after another the ways in which they do; none if no way is
    /// their own.
    pub names: &'static [Names],
    /// How its checkpoints have routed experts.
    pub experts: StoredExperts,
    /// Where they have layers for multi-token prediction.
    pub prediction: Prediction,
    /// Whether they have the gains of norms less one.
    pub less_one: bool,
    /// Describes a checkpoint; see [`Model::plan`](super::Model::plan) for its errors.
    pub describe: fn(&Checkpoint, &Options) -> Result<Described>,
    /// Writes the architecture's keys.
    pub write: fn(&Description, &mut Writer),
    /// Reads them back.
    pub read: fn(&Reader) -> Result<Description>,
}

/// Where a checkpoint has the layers for multi-token prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// Behind the other layers.
    Behind,
    /// One, by itself: under `mtp.layers.0.`, and what an ordinary layer has not, under `mtp.` and these names.
    Apart(Names),
}

/// Parts of names that are others in some checkpoints than in most.
type Names = &'static [(&'static str, &'static str)];

/// How a checkpoint has the matrices of routed experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredExperts {
    /// Each by itself; or all in one tensor, as transformers 5 may save them: of each expert the rows of gate, then those
    /// of up.
    Each,
    /// All in one tensor, transposed; rows of gate and up alternate in another. Biases likewise.
    Interleaved,
}

impl Family {
    /// The names that its checkpoints may have for what most call `name`.
    fn stored_names(&self, name: &str) -> Vec<String> {
        let renamed =
            |names: &Names| names.iter().fold(name.to_owned(), |name, (usual, own)| name.replace(usual, own));
        if self.names.is_empty() { vec![name.to_owned()] } else { self.names.iter().map(renamed).collect() }
    }
}

/// A checkpoint, described.
pub struct Described {
    /// The description.
    pub model: Description,
    /// Layers for multi-token prediction that the checkpoint may have and that are left out.
    pub left_out: std::ops::Range<u32>,
    /// Warnings about config.json.
    pub warnings: Vec<Warning>,
    /// What the frequencies of rotations are divided by, where that is a tensor.
    pub rope_divisors: Vec<f32>,
    /// Tensors that the checkpoint has and that are left out.
    pub without: Vec<Without>,
    /// Whether texts begin with BOS although the tokenizer's files may not say so.
    pub begins: bool,
}

/// Tensors that are left out.
#[derive(Clone)]
pub struct Without {
    /// What all their names have in common, and no others; but see below.
    pub part: &'static str,
    /// The layers that they are of, if it is not all names with this part.
    pub layers: Option<std::ops::Range<u32>>,
    /// What they are, and why they are not needed.
    pub reason: &'static str,
}

impl Without {
    /// Whether a tensor is one of them.
    pub fn is(&self, name: &str) -> bool {
        let layer = || name.split_once("layers.")?.1.split('.').next()?.parse().ok();
        let of = |layers: &std::ops::Range<u32>| layer().is_some_and(|layer: u32| layers.contains(&layer));
        name.contains(self.part) && self.layers.as_ref().is_none_or(of)
    }
}

impl Described {
    /// A model of which everything is written.
    fn of(model: Description, warnings: Vec<Warning>) -> Self {
        Self {
            model,
            left_out: 0..0,
            warnings,
            rope_divisors: Vec::new(),
            without: Vec::new(),
            begins: false,
        }
    }
}

/// The family of a checkpoint.
///
/// # Errors
/// If config.json names none that is known.
pub fn family(checkpoint: &Checkpoint) -> Result<&'static Family> {
    let architectures = whole::architectures(checkpoint.config())?;
    let is_it =
        |family: &&Family| architectures.iter().any(|name| family.architectures.contains(&name.as_str()));
    FAMILIES.iter().find(is_it).ok_or_else(|| {
        let known = FAMILIES.iter().flat_map(|family| family.architectures).copied();
        let known: Vec<&str> = known.chain(whole::known()).collect();
        Error::Unsupported(format!(
            "config.json: architectures is {architectures:?}; known are {}",
            known.join(", ")
        ))
    })
}

/// The tensors that no model needs, or this one not, by what their names have in common.
pub fn left_out(checkpoint: &Checkpoint, without: &[Without]) -> Vec<LeftOut> {
    let own = without.iter().map(|without| {
        let is_one = |name: &str| without.is(name) && !checkpoint.is_companion(name);
        let count = checkpoint.tensors().filter(|tensor| is_one(&tensor.name)).count();
        LeftOut { tensors: without.part, reason: without.reason, count }
    });
    checkpoint.left_out().iter().cloned().chain(whole::left_out(checkpoint)).chain(own).collect()
}

/// How Mixtral's checkpoints call experts and router, and those of models made after it; and what transformers 5 makes
/// of that.
const MIXTRAL: &[Names] = &[
    &[
        ("mlp.gate.e_score_correction_bias", "block_sparse_moe.e_score_correction_bias"),
        ("mlp.gate.weight", "block_sparse_moe.gate.weight"),
        ("mlp.experts", "block_sparse_moe.experts"),
        ("experts.{}.gate_proj", "experts.{}.w1"),
        ("experts.{}.up_proj", "experts.{}.w3"),
        ("experts.{}.down_proj", "experts.{}.w2"),
    ],
    &[("mlp.gate.e_score_correction_bias", "mlp.e_score_correction_bias")],
];

/// All families.
pub const FAMILIES: &[Family] = &[
    deepseek2::FAMILY,
    deepseek2::V32,
    deepseek2::GLM_DSA,
    deepseek4::FAMILY,
    glm4moe::FAMILY,
    gpt_oss::FAMILY,
    llama::FAMILY,
    llama::OF_MISTRAL3,
    minimax_m2::FAMILY,
    qwen2::FAMILY,
    qwen2moe::FAMILY,
    qwen3::FAMILY,
    qwen35::FAMILY,
    qwen35::WITH_EXPERTS,
    qwen3moe::FAMILY,
];
