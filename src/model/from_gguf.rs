//! The model that a GGUF file holds: its tensors under their names, its metadata as it is, whatever the architecture.
//!
//! Of an architecture that has a description, tensors play the parts that they have there, so that the forward pass
//! runs on the file. Of all others only names are asked: roles and norms are read off llama.cpp's names, which are
//! alike in all architectures. What llama-quantize leaves as it is, is carried over bit for bit.

use std::collections::HashMap;

use super::{Description, Model, Options, Part, Role, TensorPlan, layer_and_class, side};
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::error::Result;
use crate::gguf::{Metadata, Value};
use crate::llama_quantize::{Facts, protected};

/// Keys of what was done to a file before, which are not true of the one that is made of it.
const STALE: [&str; 3] = ["split.", "quantize.", "quantpress."];

/// The norms that are directly before a matrix, by their names without layer and suffix; the first that the block has.
/// Where a norm is an RMS norm, its gains say something of the inputs that follow it.
const NORMS: [(&[&str], &[&str]); 5] = [
    (&["attn_q", "attn_k", "attn_v", "attn_qkv", "attn_q_a", "attn_kv_a_mqa"], &["attn_norm"]),
    (&["attn_q_b"], &["attn_q_a_norm"]),
    (&["attn_v_b", "attn_kv_b"], &["attn_kv_a_norm"]),
    (
        &[
            "ffn_gate",
            "ffn_up",
            "ffn_gate_exps",
            "ffn_up_exps",
            "ffn_gate_up_exps",
            "ffn_gate_shexp",
            "ffn_up_shexp",
        ],
        &["ffn_norm", "post_attention_norm"],
    ),
    (&["output"], &["output_norm"]),
];

/// Plans the tensors of the file, whose headers were checked when it was opened.
///
/// # Errors
/// If only layers for multi-token prediction are wanted, and there are none.
pub fn plan(checkpoint: &Checkpoint, metadata: &Metadata, options: &Options) -> Result<Model> {
    let mut metadata = metadata.clone();
    metadata.remove(|key| STALE.iter().any(|stale| key.starts_with(stale)));
    if let Some(name) = &options.name {
        metadata.set("general.name", name.as_str().into());
    }
    if let Some(pre) = &options.pre {
        metadata.set("tokenizer.ggml.pre", pre.as_str().into());
    }
    let facts = Facts::of(&metadata);
    let number = |key: &str| of_arch(&metadata, &facts, key).and_then(Value::first_integer).unwrap_or(0);
    let small = |key: &str| u32::try_from(number(key)).unwrap_or(0);
    let kv_per_token = u32::try_from(kv_per_token(&number)).unwrap_or(u32::MAX);
    let (dense_layers, used) = (small("leading_dense_block_count"), small("expert_used_count"));
    let mut tensors: Vec<TensorPlan> =
        checkpoint.tensors().map(|tensor| by_name(&facts.arch, tensor)).collect();
    if of_arch(&metadata, &facts, "attention.layer_norm_rms_epsilon").is_some() {
        for tensor in &mut tensors {
            tensor.input_norm = norm_before(checkpoint, tensor);
        }
    }
    let description = Description::of_plan(&metadata, &tensors).ok();
    if let Some(description) = &description {
        play(description, &mut tensors);
    }
    if options.mtp_only {
        let own = side::own_layers(&metadata, facts.layers, &tensors)?;
        side::keep(&mut tensors, own);
        side::mark(&mut metadata);
    }
    Ok(Model {
        layers: facts.layers,
        dense_layers,
        experts: [facts.experts, used],
        kv_per_token: description.as_ref().map_or(kv_per_token, Description::cache_per_token),
        arch: facts.arch,
        description,
        metadata,
        tensors,
        left_out: Vec::new(),
        warnings: Vec::new(),
    })
}

/// A number of the architecture.
fn of_arch<'a>(metadata: &'a Metadata, facts: &Facts, key: &str) -> Option<&'a Value> {
    metadata.get(&format!("{}.{key}", facts.arch))
}

/// Gives tensors the roles and parts that the description has for them.
fn play(description: &Description, tensors: &mut [TensorPlan]) {
    let specs =
        description.specs().enumerate().map(|(order, (layer, spec))| (spec.full_name(layer), (order, spec)));
    let specs: HashMap<String, _> = specs.collect();
    for tensor in tensors {
        if let Some((order, spec)) = specs.get(&tensor.name) {
            tensor.part = Part { order: *order, ..spec.part };
            tensor.role = spec.role;
            tensor.input_norm = spec.norm.map(|norm| match tensor.layer {
                Some(layer) => format!("blk.{layer}.{norm}"),
                None => norm.to_owned(),
            });
        }
    }
}

/// The norm whose output is the tensor's input, if its name says so and it is a gain for each column.
fn norm_before(checkpoint: &Checkpoint, tensor: &TensorPlan) -> Option<String> {
    let norms = NORMS.iter().find(|(classes, _)| classes.contains(&tensor.class()))?.1;
    let name = |norm: &&str| match tensor.layer {
        Some(layer) => format!("blk.{layer}.{norm}.weight"),
        None => format!("{norm}.weight"),
    };
    let found = norms.iter().map(name).find(|name| checkpoint.get(name).is_some())?;
    (checkpoint.get(&found)?.shape == [tensor.columns()]).then_some(found)
}

/// Numbers that a token adds to the cache of one layer's keys and values.
fn kv_per_token(number: &dyn Fn(&str) -> u64) -> u64 {
    let heads = number("attention.head_count").max(1);
    let width = |key| match number(key) {
        0 => number("embedding_length") / heads,
        width => width,
    };
    number("attention.head_count_kv") * (width("attention.key_length") + width("attention.value_length"))
}

/// A tensor whose role is read off its name.
fn by_name(arch: &str, tensor: &Tensor) -> TensorPlan {
    let shape: Vec<u64> = tensor.shape.iter().rev().copied().collect();
    let stored = match tensor.dtype {
        Dtype::Gguf(format) => Some(format),
        _ => None,
    };
    let kept = match stored {
        Some(format) if !format.is_decoded() => Some("can only be carried over as it is"),
        _ => protected(arch, &tensor.name, &shape),
    };
    let (layer, class) = layer_and_class(&tensor.name);
    let role = match role(class) {
        // llama-quantize chooses its type, so readers take others than F32.
        role if role.is_f32() && kept.is_none() => Role::Other,
        role => role,
    };
    TensorPlan {
        stored,
        kept,
        ..TensorPlan::of_file(tensor.name.clone(), layer, role, Part::default(), shape)
    }
}

/// What a tensor does, by its name without layer and suffix.
fn role(class: &str) -> Role {
    match class {
        "token_embd" => Role::Embedding,
        "output" => Role::Output,
        _ if class.starts_with("nextn.") => Role::Mtp,
        _ if class.contains("norm") => Role::Norm,
        _ if class.starts_with("ffn_gate_inp") || class.starts_with("exp_probs_b") => Role::Router,
        _ if class.ends_with("_exps") => Role::Experts,
        _ if class.ends_with("_shexp") => Role::SharedExperts,
        _ if class.starts_with("ffn_") => Role::DenseFfn,
        _ if class.starts_with("attn_") => Role::Attention,
        _ => Role::Other,
    }
}
