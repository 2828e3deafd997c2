//! From errors of tensors to damage of the model, comparable across tensors. Pure; docs/recipes.md derives the formula.

use super::Table;
use crate::model::{Model, Role, TensorPlan};

/// What a tensor's relative error is multiplied by to give its expected damage, in the model's order; 0 for tensors
/// that the table does not have.
///
/// A block (attention or FFN) of energy E, added to a residual stream of energy R, with a relative error r, leaves a
/// relative error r E / R there, which the normalised later blocks neither grow nor heal.
pub fn coefficients(model: &Model, table: &Table) -> Vec<f64> {
    let energy = |tensor: &TensorPlan| table.get(&tensor.name).and_then(|measured| measured.energy);
    let writers: Vec<Option<f64>> = model
        .tensors
        .iter()
        .map(|tensor| block(tensor).filter(|_| writes(tensor)).and(energy(tensor)))
        .collect();
    let known: Vec<f64> = writers.iter().flatten().copied().filter(|e| *e > 0.0).collect();
    // Where the importances of a block were not measured, it counts as a mean one.
    let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
    let embedding = model.tensors.iter().find(|tensor| tensor.role == Role::Embedding);
    let first = match embedding.and_then(energy) {
        Some(energy) if !known.is_empty() && energy > 0.0 => energy,
        _ => mean,
    };

    // Energy of each block, and of the parts that add up to it.
    let mut parts: Vec<((Block, Role), f64)> = Vec::new();
    for (tensor, energy) in model.tensors.iter().zip(&writers) {
        if let Some(block) = block(tensor).filter(|_| writes(tensor)) {
            parts.push(((block, tensor.role), energy.unwrap_or(mean)));
        }
    }
    parts.sort_by_key(|part| part.0);
    let residual =
        |block: Block| first + parts.iter().filter(|part| part.0.0 <= block).map(|part| part.1).sum::<f64>();
    let coefficient = |tensor: &TensorPlan| {
        if table.get(&tensor.name).is_none() {
            return 0.0;
        }
        match block(tensor) {
            None => 1.0,
            Some(block) => {
                let own =
                    parts.iter().find(|part| part.0 == (block, tensor.role)).map_or(mean, |part| part.1);
                own / residual(block)
            }
        }
    };
    model.tensors.iter().map(coefficient).collect()
}

/// Layer, and attention before FFN.
type Block = (u32, bool);

/// The block of a layer that a tensor is in; None for embedding, head and what is outside of blocks.
fn block(tensor: &TensorPlan) -> Option<Block> {
    match (tensor.layer, tensor.role) {
        (Some(layer), Role::Attention) => Some((layer, false)),
        (Some(layer), Role::DenseFfn | Role::SharedExperts | Role::Experts) => Some((layer, true)),
        _ => None,
    }
}

/// Whether the tensor's output is what the block adds to the residual stream.
fn writes(tensor: &TensorPlan) -> bool {
    matches!(tensor.class(), "attn_output" | "ffn_down" | "ffn_down_exps" | "ffn_down_shexp")
}
