//! From errors of tensors to damage of the model, comparable across tensors. Pure; docs/recipes.md derives the formula.

use super::{Measured, Table};
use crate::model::{Model, Role, TensorPlan};

/// What a tensor's relative error is multiplied by to give its expected damage, in the model's order; 0 for tensors
/// that the table does not have.
///
/// A block (attention or FFN) of energy E, added to a residual stream of energy R, with a relative error r, leaves a
/// relative error r E / R there, which the normalised later blocks neither grow nor heal.
pub fn coefficients(model: &Model, table: &Table) -> Vec<f64> {
    let entries: Vec<Option<&Measured>> =
        model.tensors.iter().map(|tensor| table.get(&tensor.name)).collect();
    let parts = Parts::new(model, &entries);
    let coefficient = |(tensor, entry): (&TensorPlan, &Option<&Measured>)| {
        let Some(entry) = entry else { return 0.0 };
        match block(tensor) {
            None => 1.0,
            Some(block) => {
                let own = parts.energy(block, tensor.role);
                own / entry.alignment.unwrap_or(1.0) / parts.residual(block)
            }
        }
    };
    model.tensors.iter().zip(&entries).map(coefficient).collect()
}

/// What the blocks add to the residual stream.
struct Parts {
    /// Energy of the embedding.
    first: f64,
    /// Of a block that was not measured.
    mean: f64,
    list: Vec<Part>,
}

struct Part {
    block: Block,
    role: Role,
    /// With independent columns, as errors are.
    energy: f64,
    /// How many times that the signal has.
    alignment: f64,
}

impl Parts {
    fn new(model: &Model, entries: &[Option<&Measured>]) -> Self {
        let tensors = || model.tensors.iter().zip(entries);
        let energy = |entry: &Option<&Measured>| entry.and_then(|entry| entry.energy).filter(|e| *e > 0.0);
        let known: Vec<f64> =
            tensors().filter(|(tensor, _)| writes(tensor)).filter_map(|(_, entry)| energy(entry)).collect();
        // Where the importances of a block were not measured, it counts as a mean one.
        let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        let embedding = tensors().find(|(tensor, _)| tensor.role == Role::Embedding);
        let first =
            embedding.and_then(|(_, entry)| energy(entry)).filter(|_| !known.is_empty()).unwrap_or(mean);

        // The alignment of what a block adds is not to be seen in the importances; that of its inner tensors is.
        let aligned = || tensors().filter_map(|(tensor, entry)| Some((tensor, (*entry)?.alignment?)));
        let usual = match aligned().count() {
            0 => 1.0,
            count => aligned().map(|(_, alignment)| alignment).sum::<f64>() / count as f64,
        };
        let part = |(tensor, entry): (&TensorPlan, &Option<&Measured>)| {
            let block = block(tensor).filter(|_| writes(tensor))?;
            let same = |other: &TensorPlan| (other.layer, other.role) == (tensor.layer, tensor.role);
            let alignment =
                aligned().find(|(other, _)| same(other)).map_or(usual, |(_, alignment)| alignment);
            Some(Part { block, role: tensor.role, energy: energy(entry).unwrap_or(mean), alignment })
        };
        Self { first, mean, list: tensors().filter_map(part).collect() }
    }

    /// Of the part of a block.
    fn energy(&self, block: Block, role: Role) -> f64 {
        let part = self.list.iter().find(|part| (part.block, part.role) == (block, role));
        part.map_or(self.mean, |part| part.energy)
    }

    /// Of the residual stream after a block.
    fn residual(&self, block: Block) -> f64 {
        let before = self.list.iter().filter(|part| part.block <= block);
        self.first + before.map(|part| part.energy * part.alignment).sum::<f64>()
    }
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
