//! Warnings about contradictions between config.json and the checkpoint's tensors. The file is made by what llama.cpp
//! will compute.

use super::fields::Class;
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Warning;
use crate::model::Description;
use crate::model::arch::whole::Names;
use crate::model::layer::Attention;

/// A warning for each contradiction. `declared_mtp` layers for multi-token prediction are said to be there.
pub fn doubts(
    checkpoint: &Checkpoint,
    class: &Class,
    model: &Description,
    declared_mtp: u32,
) -> Vec<Warning> {
    let config = checkpoint.config();
    let mut found = Vec::new();
    let mut doubt = |field: &str, problem: String| {
        found.push(Warning::new(config.fault(field, problem)));
    };
    if let Some(name) = text(config, "model_type")
        && !class.types.contains(&name.as_str())
    {
        let known = class.types.join(" or ");
        doubt("model_type", format!("is \"{name}\"; {} is {known}, and it counts", class.architecture));
    }
    for layer in model.layers.iter().take(1) {
        let Attention::Latent(latent) = &layer.attention else { continue };
        let heads = u64::from(latent.heads);
        if let Some(kv_heads) = number(config, "num_key_value_heads").filter(|&n| n != heads && n != 1) {
            doubt(
                "num_key_value_heads",
                format!("is {kv_heads}, of {heads} heads; here all of them share one latent"),
            );
        }
        let query = u64::from(latent.nope + model.rope.columns);
        if let Some(width) = number(config, "qk_head_dim").filter(|&n| n != query) {
            doubt(
                "qk_head_dim",
                format!("is {width}; qk_nope_head_dim and qk_rope_head_dim are {query} together, and count"),
            );
        }
    }
    if config.value("topk_method").is_some_and(|method| method == "group_limited_greedy")
        && model.experts.as_ref().is_some_and(|experts| experts.router.groups.is_some())
    {
        let problem = "is \"group_limited_greedy\", which scores a group of experts by the best of them; llama.cpp scores it by \
                       its two best, so now and then it will choose others";
        doubt("topk_method", problem.to_owned());
    }
    let stored = stored_mtp(checkpoint, model.layers.len() as u32);
    if (1..declared_mtp).contains(&stored) {
        let problem = format!("is {declared_mtp}, but the checkpoint has only {stored} of these layers");
        doubt("num_nextn_predict_layers", problem);
    }
    found
}

/// Layers for multi-token prediction that the checkpoint has behind the others.
pub fn stored_mtp(checkpoint: &Checkpoint, layers: u32) -> u32 {
    let names = Names::of(checkpoint);
    let is_one = |layer: &u32| {
        checkpoint.get(&names.stored(&format!("model.layers.{layer}.eh_proj.weight"))).is_some()
    };
    (layers..super::MAX_LAYERS).take_while(is_one).count() as u32
}

fn text(config: &Config, field: &str) -> Option<String> {
    config.value(field)?.as_str().map(str::to_owned)
}

fn number(config: &Config, field: &str) -> Option<u64> {
    config.value(field)?.as_u64()
}
