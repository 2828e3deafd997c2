//! Damage where a text was run: what blocks add to the residual stream, and how matrices answer their real inputs.

use super::damage::{Block, Entry, block, reads, writes};
use super::{Added, Measured, Table};
use crate::model::{Role, TensorPlan};

/// What the text said.
///
/// A relative error r of a matrix with alignment A is an error r / A of what it really gives, and the block's share of that
/// reaches the stream, to stay as it is: what the weights make of their inputs is like a signal to the later blocks.
pub struct Seen<'a> {
    blocks: &'a [Added],
    entries: &'a [Entry<'a>],
}

impl<'a> Seen<'a> {
    /// Of all tensors; None if no text was run.
    pub fn new(table: &'a Table, entries: &'a [Entry<'a>]) -> Option<Self> {
        (!table.blocks.is_empty()).then_some(Self { blocks: &table.blocks, entries })
    }

    /// Of one tensor.
    pub fn coefficient(&self, tensor: &TensorPlan, entry: &Measured) -> f64 {
        let Some(block) = block(tensor) else {
            return if tensor.role == Role::Embedding { self.first() } else { 1.0 / alignment(entry) };
        };
        self.part(block, tensor.role) / alignment(entry) * self.through(tensor)
    }

    /// The share of a block's part (routed experts, or shared ones) in the stream.
    fn part(&self, block: Block, role: Role) -> f64 {
        let share =
            self.blocks.iter().find(|added| (added.layer, added.ffn) == block).map_or(0.0, |b| b.share);
        let real = |entry: &Measured| entry.energy.unwrap_or(1.0) * alignment(entry);
        let parts = || self.of(block).filter(|(tensor, _)| writes(tensor));
        let all: f64 = parts().map(|(_, entry)| real(entry)).sum();
        let own: f64 = parts().filter(|(tensor, _)| tensor.role == role).map(|(_, entry)| real(entry)).sum();
        if all > 0.0 { share * own / all } else { share }
    }

    /// What the down projection leaves of errors of gate and up, beside what it makes of their product.
    fn through(&self, tensor: &TensorPlan) -> f64 {
        let Some(block) = block(tensor).filter(|(_, ffn)| *ffn && !writes(tensor)) else { return 1.0 };
        let down = self.of(block).find(|(other, _)| writes(other) && other.role == tensor.role);
        down.map_or(1.0, |(_, entry)| 1.0 / alignment(entry))
    }

    /// What the first block leaves of errors of the embedding. They are like no signal, so it answers them as much less as
    /// its first matrices would one with independent columns.
    fn first(&self) -> f64 {
        let Some(added) = self.blocks.first() else { return 1.0 };
        let readers = self.of((added.layer, added.ffn)).filter(|(tensor, _)| reads(tensor));
        let answers: Vec<f64> = readers.map(|(_, entry)| 1.0 / alignment(entry)).collect();
        if answers.is_empty() {
            return 1.0;
        }
        let (share, answer) = (added.share.min(1.0), answers.iter().sum::<f64>() / answers.len() as f64);
        1.0 - share + share * answer
    }

    fn of(&self, wanted: Block) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(move |(tensor, _)| block(tensor) == Some(wanted))
    }
}

/// How much more energy a matrix gives its real input than an independent one.
fn alignment(entry: &Measured) -> f64 {
    entry.alignment.filter(|a| *a > 0.0).unwrap_or(1.0)
}
