//! From errors of tensors to damage of the model, comparable across tensors. Pure; docs/recipes.md derives the formulas.

use super::estimated::Estimated;
use super::seen::Seen;
use super::{Measured, Table};
use crate::model::{Model, Role, TensorPlan};

/// What a tensor's relative error is multiplied by to give its expected damage, in the model's order; 0 for tensors
/// that the table does not have.
pub fn coefficients(model: &Model, table: &Table) -> Vec<f64> {
    let entries: Vec<Entry> =
        model.tensors.iter().filter_map(|tensor| Some((tensor, table.get(&tensor.name)?))).collect();
    let (seen, estimated) = (Seen::new(table, &entries), Estimated::new(&entries));
    let mut entries = entries.iter().peekable();
    let coefficient =
        |tensor: &TensorPlan| match (entries.next_if(|(known, _)| known.name == tensor.name), &seen) {
            (None, _) => 0.0,
            (Some((_, entry)), Some(seen)) => seen.coefficient(tensor, entry),
            (Some((_, entry)), None) => estimated.coefficient(tensor, entry),
        };
    model.tensors.iter().map(coefficient).collect()
}

/// A tensor and what was measured of it.
pub type Entry<'a> = (&'a TensorPlan, &'a Measured);

/// Layer, and attention before FFN.
pub type Block = (u32, bool);

/// The block of a layer that a tensor is in; None for embedding, head and what is outside of blocks.
pub fn block(tensor: &TensorPlan) -> Option<Block> {
    match (tensor.layer, tensor.role) {
        (Some(layer), Role::Attention) => Some((layer, false)),
        (Some(layer), Role::DenseFfn | Role::SharedExperts | Role::Experts) => Some((layer, true)),
        _ => None,
    }
}

/// Whether the tensor's output is what the block adds to the residual stream.
pub fn writes(tensor: &TensorPlan) -> bool {
    matches!(tensor.class(), "attn_output" | "ffn_down" | "ffn_down_exps" | "ffn_down_shexp")
}
