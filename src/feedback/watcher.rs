//! Sees the inputs of a block's matrices, and quantizes these on the covariances.

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::covariance::{Covariance, Metric};
use super::ledger::Ledger;
use super::press::{Press, metrics};
use crate::error::Result;
use crate::forward::{Input, Observer};
use crate::recipe::Plan;

/// An expert's own inputs count as much as the layer's when it has seen so many.
const STRENGTH: f32 = 128.0;

/// Inputs that some tensors share: their places, the slice, and the covariance.
struct Seen {
    tensors: Vec<usize>,
    slice: usize,
    covariance: Covariance,
}

impl Seen {
    /// Memory to factor it in: the sums, whose place the factor takes, and the half of it that is kept in panels.
    fn working_bytes(&self) -> u64 {
        self.covariance.bytes() * 3 / 2
    }

    /// The tensors and the slice, and what encoding needs of their inputs.
    fn factor(self, plan: &Plan, layer: Option<&Covariance>) -> Result<(Vec<usize>, usize, Vec<Metric>)> {
        let name = &plan.model.tensors[self.tensors[0]].name;
        let mean = match (name.ends_with("_exps.weight"), name.contains("ffn_down")) {
            (false, _) => self.covariance.mean(),
            (true, true) => self.covariance.shrunk(None, STRENGTH),
            (true, false) => self.covariance.shrunk(layer, STRENGTH),
        };
        Ok((self.tensors, self.slice, metrics(mean)?))
    }
}

/// How many of them, from the first on and at least one, can be factored at once in this memory.
fn fitting(seen: &[Seen], memory: u64) -> usize {
    let mut bytes = 0;
    let beyond = |seen: &Seen| {
        bytes += seen.working_bytes();
        bytes > memory
    };
    seen.iter().position(beyond).unwrap_or(seen.len()).max(1)
}

/// Collects covariances; the matrices of experts are quantized when those of as many experts are known as memory has
/// room for, so that one thread can factor one expert's while others do others'.
pub struct Watcher<'a, 'b> {
    press: &'a Press<'a>,
    ledger: &'a mut Ledger<'b>,
    memory: u64,
    seen: Vec<Seen>,
    /// Of all inputs of the layer's experts.
    layer: Option<Covariance>,
    expert: Option<usize>,
}

impl<'a, 'b> Watcher<'a, 'b> {
    /// Has seen nothing yet; `memory` bounds what is factored at once.
    pub fn new(press: &'a Press<'a>, ledger: &'a mut Ledger<'b>, memory: u64) -> Self {
        Self { press, ledger, memory, seen: Vec::new(), layer: None, expert: None }
    }

    /// Quantizes what was seen, as many covariances being factored at once as memory has room for.
    fn flush(&mut self) -> Result<()> {
        let mut rest = std::mem::take(&mut self.seen);
        while !rest.is_empty() {
            let together = fitting(&rest, self.memory);
            let later = rest.split_off(together);
            let (plan, layer) = (self.press.plan, self.layer.as_ref());
            let factored: Vec<_> =
                rest.into_par_iter().map(|seen| seen.factor(plan, layer)).collect::<Result<_>>()?;
            let slices: Vec<(usize, usize, &[Metric])> = factored
                .iter()
                .flat_map(|(tensors, slice, metrics)| {
                    tensors.iter().map(|&tensor| (tensor, *slice, &metrics[..]))
                })
                .collect();
            self.press.with_feedback(self.ledger, &slices)?;
            rest = later;
        }
        Ok(())
    }

    /// Quantizes what is left.
    pub fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

impl Observer for Watcher<'_, '_> {
    fn see(&mut self, input: Input<'_>) -> Result<()> {
        self.ledger.go_on()?;
        let columns = input.inputs.columns();
        if input.tensors[0] == "ffn_gate_inp" {
            self.layer.get_or_insert_with(|| Covariance::new(columns)).add(input.inputs);
            return Ok(());
        }
        if input.tensors[0].ends_with("_exps") && self.expert != Some(input.slice) {
            if self.seen.iter().map(Seen::working_bytes).sum::<u64>() > self.memory {
                self.flush()?;
            }
            self.expert = Some(input.slice);
        }
        let name = |tensor: &&str| match *tensor {
            "output" => "output.weight".to_owned(),
            tensor => format!("blk.{}.{tensor}.weight", input.layer),
        };
        let tensors: Vec<usize> = input
            .tensors
            .iter()
            .filter_map(|tensor| self.press.places.get(name(tensor).as_str()).copied())
            .collect();
        if tensors.iter().all(|&tensor| !self.ledger.is_open(tensor, input.slice)) {
            return Ok(());
        }
        let known = self.seen.iter_mut().find(|seen| seen.tensors == tensors && seen.slice == input.slice);
        match known {
            Some(seen) => seen.covariance.add(input.inputs),
            None => {
                let mut covariance = Covariance::new(columns);
                covariance.add(input.inputs);
                self.seen.push(Seen { tensors, slice: input.slice, covariance });
            }
        }
        Ok(())
    }
}
