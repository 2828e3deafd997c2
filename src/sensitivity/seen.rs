//! Expected damage from what `calibrate --sensitivity` measured: what blocks add to the residual stream, and how much
//! matrices amplify their real inputs.

use super::damage::{Block, Entry, block};
use super::{Added, Measured, Table};
use crate::model::{Half, Input, Role, TensorPlan};

/// Expected damage from what `calibrate --sensitivity` measured.
///
/// A relative error r of a matrix with alignment A is a relative error r / A of its real output. The block adds its
/// share of that to the residual stream, and we assume that later blocks pass it on unchanged.
pub struct Seen<'a> {
    blocks: &'a [Added],
    entries: &'a [Entry<'a>],
}

impl<'a> Seen<'a> {
    /// For the tensors of a table; None if no text was run.
    pub fn new(table: &'a Table, entries: &'a [Entry<'a>]) -> Option<Self> {
        (!table.blocks.is_empty()).then_some(Self { blocks: &table.blocks, entries })
    }

    /// The factor from a tensor's relative error to its expected damage.
    pub fn coefficient(&self, tensor: &TensorPlan, entry: &Measured) -> f64 {
        let Some(block) = block(tensor) else {
            return if tensor.role == Role::Embedding { self.first() } else { 1.0 / alignment(entry) };
        };
        self.part(block, tensor.role) / alignment(entry) * self.through(tensor)
    }

    /// The share of a block's part (routed experts, or shared ones) in the stream.
    fn part(&self, block: Block, role: Role) -> f64 {
        let share = self.blocks.iter().find(|added| added.block() == block).map_or(0.0, |b| b.share);
        let real = |entry: &Measured| entry.energy.unwrap_or(1.0) * alignment(entry);
        let parts = || self.of(block).filter(|(tensor, _)| tensor.part.writes_stream);
        let all: f64 = parts().map(|(_, entry)| real(entry)).sum();
        let own: f64 = parts().filter(|(tensor, _)| tensor.role == role).map(|(_, entry)| real(entry)).sum();
        if all > 0.0 { share * own / all } else { share }
    }

    /// For gate and up: how much less the down projection amplifies their errors than their product. Else 1.
    fn through(&self, tensor: &TensorPlan) -> f64 {
        let inner = |(_, half): &Block| *half == Half::Ffn && !tensor.part.writes_stream;
        let Some(block) = block(tensor).filter(inner) else { return 1.0 };
        let down = self.of(block).find(|(other, _)| other.part.writes_stream && other.role == tensor.role);
        down.map_or(1.0, |(_, entry)| 1.0 / alignment(entry))
    }

    /// What the first block leaves of errors of the embedding: its first matrices amplify them as inputs with
    /// independent columns, so 1 / A times as much as the signal.
    fn first(&self) -> f64 {
        let Some(added) = self.blocks.first() else { return 1.0 };
        let readers = self.of(added.block()).filter(|(tensor, _)| tensor.part.input == Input::Stream);
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

/// The alignment of a tensor; 1 if it was not measured.
fn alignment(entry: &Measured) -> f64 {
    entry.alignment.filter(|a| *a > 0.0).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::checkpoint::Fingerprint;
    use crate::model::Part;

    fn outside(name: &str, role: Role) -> TensorPlan {
        TensorPlan::of_file(name.into(), None, role, Part::default(), vec![8, 8])
    }

    fn tensor(name: &str, role: Role, half: Half, input: Input) -> TensorPlan {
        let part = Part { half: Some(half), input, writes_stream: input == Input::Inner, ..Part::default() };
        TensorPlan::of_file(format!("blk.0.{name}"), Some(0), role, part, vec![8, 8])
    }

    #[test]
    fn damage_is_the_share_of_the_stream_by_the_alignment() {
        let tensors = [
            (outside("token_embd.weight", Role::Embedding), 1.0, None),
            (tensor("attn_q_a.weight", Role::Attention, Half::Attention, Input::Stream), 1.0, Some(4.0)),
            (tensor("attn_output.weight", Role::Attention, Half::Attention, Input::Inner), 9.0, Some(16.0)),
            (tensor("ffn_up_exps.weight", Role::Experts, Half::Ffn, Input::Stream), 1.0, Some(2.0)),
            (tensor("ffn_down_exps.weight", Role::Experts, Half::Ffn, Input::Inner), 6.0, Some(8.0)),
            (tensor("ffn_down_shexp.weight", Role::SharedExperts, Half::Ffn, Input::Inner), 4.0, Some(4.0)),
            (outside("output.weight", Role::Output), 1.0, Some(5.0)),
        ];
        let measured = |(tensor, energy, alignment): &(TensorPlan, f64, Option<f64>)| Measured {
            name: tensor.name.clone(),
            energy: Some(*energy),
            alignment: *alignment,
            errors: BTreeMap::new(),
            gradient: None,
            with_feedback: BTreeMap::new(),
        };
        let source = Fingerprint { settings: String::new(), tensors: String::new(), sample: String::new() };
        let mut table = Table::new(&source, None, 0, tensors.iter().map(measured).collect());
        let known = table.tensors.clone();
        let both: Vec<Entry> = tensors.iter().map(|(tensor, ..)| tensor).zip(&known).collect();
        assert!(Seen::new(&table, &both).is_none(), "no text was run");
        let added = |ffn, share| Added { layer: 0, ffn, share };
        table.blocks = vec![added(false, 0.8), added(true, 0.5)];
        let seen = Seen::new(&table, &both).expect("a text was run");
        let found: Vec<f64> = both.iter().map(|(tensor, entry)| seen.coefficient(tensor, entry)).collect();
        // The routed experts have 48 of the 64 that the FFN adds.
        let expected = [0.4, 0.2, 0.05, 0.375 / 2.0 / 8.0, 0.375 / 8.0, 0.125 / 4.0, 0.2];
        for ((found, expected), (tensor, ..)) in found.iter().zip(expected).zip(&tensors) {
            assert!((found - expected).abs() < 1e-12, "{}: {found}, {expected}", tensor.name);
        }
    }
}
