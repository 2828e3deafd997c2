//! Expected damage from the importance matrix alone, where no text was run.

use super::Measured;
use super::damage::{Block, Entry, block};
use crate::model::{Role, TensorPlan};

/// Estimates of what the blocks add to the residual stream.
///
/// A block (attention or FFN) of energy E, added to a residual stream of energy R, with a relative error r, leaves a
/// relative error r E / R there. We assume that later blocks, which normalise the stream, pass it on unchanged.
pub struct Estimated {
    /// Energy of the embedding.
    first: f64,
    /// Energy that is assumed of a block without measured importances.
    mean: f64,
    list: Vec<Part>,
}

struct Part {
    block: Block,
    role: Role,
    /// Energy that inputs with independent columns would give, as errors have it.
    energy: f64,
    /// How many times that energy the real output has.
    alignment: f64,
}

impl Estimated {
    /// For the tensors of a table.
    pub fn new(entries: &[Entry]) -> Self {
        let energy = |entry: &Measured| entry.energy.filter(|e| *e > 0.0);
        let known: Vec<f64> = entries
            .iter()
            .filter(|(tensor, _)| tensor.part.writes_stream)
            .filter_map(|(_, entry)| energy(entry))
            .collect();
        // Where the importances of a block were not measured, it counts as a mean one.
        let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        let embedding = entries.iter().find(|(tensor, _)| tensor.role == Role::Embedding);
        let first =
            embedding.and_then(|(_, entry)| energy(entry)).filter(|_| !known.is_empty()).unwrap_or(mean);

        // The alignment of the matrices that write to the stream cannot be estimated from importances; that of the
        // inner ones can.
        let aligned = || entries.iter().filter_map(|(tensor, entry)| Some((tensor, entry.alignment?)));
        let usual = match aligned().count() {
            0 => 1.0,
            count => aligned().map(|(_, alignment)| alignment).sum::<f64>() / count as f64,
        };
        let part = |(tensor, entry): &Entry| {
            let block = block(tensor).filter(|_| tensor.part.writes_stream)?;
            let same = |other: &TensorPlan| (other.layer, other.role) == (tensor.layer, tensor.role);
            let alignment =
                aligned().find(|(other, _)| same(other)).map_or(usual, |(_, alignment)| alignment);
            Some(Part { block, role: tensor.role, energy: energy(entry).unwrap_or(mean), alignment })
        };
        Self { first, mean, list: entries.iter().filter_map(part).collect() }
    }

    /// The factor from a tensor's relative error to its expected damage.
    pub fn coefficient(&self, tensor: &TensorPlan, entry: &Measured) -> f64 {
        let Some(block) = block(tensor) else { return 1.0 };
        self.energy(block, tensor.role) / entry.alignment.unwrap_or(1.0) / self.residual(block)
    }

    /// Energy of the routed, the shared or the only part of a block.
    fn energy(&self, block: Block, role: Role) -> f64 {
        let part = self.list.iter().find(|part| (part.block, part.role) == (block, role));
        part.map_or(self.mean, |part| part.energy)
    }

    /// Energy of the residual stream after a block.
    fn residual(&self, block: Block) -> f64 {
        let before = self.list.iter().filter(|part| part.block <= block);
        self.first + before.map(|part| part.energy * part.alignment).sum::<f64>()
    }
}
