//! The order of the work: each half of a layer runs with its original weights to collect covariances, is quantized,
//! and runs again with the quantized weights.

use super::ledger::Ledger;
use super::press::Press;
use super::quantized::Quantized;
use super::written::Written;
use crate::checkpoint::Seen;
use crate::covariance::{Covariance, Known, metrics};
use crate::error::{Error, Result};
use crate::forward::{Head, Inputs, Observer, Pass, Saved, Weights};
use crate::gguf::beside;
use crate::identity::Identity;
use crate::model::{Description, Half, Input, Role, Slices, TensorPlan};
use crate::pipeline::{Budget, Job, Made, Method, Session, Stages, Work, run_by};
use crate::threads;

/// The method, with the text whose inputs the covariances are of.
#[derive(Clone, Copy)]
pub struct Feedback<'a> {
    /// Chunks of `context` tokens.
    pub tokens: &'a [u32],
    /// Tokens in a chunk.
    pub context: usize,
    /// Bytes for hidden states, and for the covariances of experts that are worked on together.
    pub memory: u64,
    /// Hears of finished layers, and of how many were when the run began.
    pub told: &'a (dyn Fn(usize, usize) + Sync),
}

impl Method for Feedback<'_> {
    fn work(&self, job: &Job, work: &Work, session: &mut Session, _: Budget) -> Result<Option<Stages>> {
        if job.part.is_some() {
            let problem =
                "error feedback needs what it made of the layers before, so a part is not made alone";
            return Err(Error::Argument(problem.into()));
        }
        // The work and the state of the shards are recorded in the journal.
        let identity = Identity::new([("the run", session.fingerprint())]);
        let saved = Saved::open(beside(&session.name, ".feedback"), identity, Seen::default())?;
        let (outputs, keeper) = session.parts(job, work);
        let written = Written::new(work, &keeper);
        let ledger = Ledger::new(job, work, outputs, keeper, &written);
        if ledger.any_open(|_| true) {
            let tensors = &job.plan.model.tensors;
            let press = Press {
                plan: job.plan,
                importances: job.importances,
                original: Weights::new(job.store, &tensors[..]),
                memory: self.memory,
            };
            let quantized = Quantized::new(job.plan, work, outputs, &written);
            let as_written: Vec<TensorPlan> = tensors.iter().map(TensorPlan::as_written).collect();
            let quantized = Weights::new(&quantized, as_written);
            let done = self.layers(&press, &quantized, &ledger, &saved);
            // An error of the work goes before one of recording what it did.
            let recorded = ledger.record();
            if let Err(error) = done.and(recorded) {
                saved.leave();
                return Err(error);
            }
        }
        saved.remove()?;
        Ok(None)
    }

    fn reads_back(&self) -> bool {
        true
    }
}

impl Feedback<'_> {
    /// Bytes for [`Self::memory`] where nobody says otherwise; what is beyond goes to a temporary file.
    pub const MEMORY: u64 = 4_000_000_000;

    /// Does the job with error feedback, on its threads; see [`run_by`]. Its plan has the text's digest
    /// ([`Text::digest`](crate::model::Text::digest)).
    ///
    /// # Errors
    /// As [`run_by`], and if the job is only a part of a split: each layer needs what was made of those before it.
    pub fn run(&self, job: &Job) -> Result<Made> {
        threads::on(job.threads, || run_by(job, self))?
    }

    /// All tensors, layer after layer.
    fn layers(&self, press: &Press, quantized: &Weights, ledger: &Ledger, saved: &Saved) -> Result<()> {
        let model = press.plan.model.describe()?;
        press.plainly(ledger, |_, format| format.is_float())?;
        embedding(press, model, ledger)?;

        let layers = model.layers.len();
        let of_layer = |tensor: &TensorPlan, layer: usize| tensor.layer == Some(layer as u32);
        let first_open = (0..layers).find(|&layer| ledger.any_open(|tensor| of_layer(tensor, layer)));
        // States that were kept are of use if all layers before them are done.
        let kept = saved.layers()?.unwrap_or(0);
        let earlier = if kept <= first_open.unwrap_or(layers) { kept } else { 0 };
        let mut pass = if earlier > 0 {
            let mut pass = Pass::resume(model, self.tokens.len(), self.context, self.memory)?;
            saved.restore(earlier, pass.states())?;
            pass
        } else {
            Pass::new(quantized, model, self.tokens, self.context, self.memory)?
        };
        for layer in earlier..layers {
            for half in Half::ALL {
                let of_half = |tensor: &TensorPlan| of_layer(tensor, layer) && tensor.part.half == Some(half);
                if ledger.any_open(of_half) {
                    let watcher = press.watcher(ledger);
                    pass.half(half, &press.original, layer, &watcher, false)?;
                    work_trace::step("covariances");
                    watcher.finish()?;
                    press.plainly(ledger, |tensor, _| of_half(tensor))?;
                }
                pass.half(half, quantized, layer, &Passer(ledger), true)?;
            }
            work_trace::step("keep states");
            ledger.record()?;
            saved.keep(layer + 1, pass.states(), &[])?;
            (self.told)(layer + 1, earlier);
        }
        let is_head = |tensor: &TensorPlan| tensor.role == Role::Output && tensor.layer.is_none();
        if ledger.any_open(is_head) {
            let watcher = press.watcher(ledger);
            Head::observe(&press.original, &mut pass, &watcher)?;
            watcher.finish()?;
        }
        press.plainly(ledger, |_, _| true)
    }
}

/// Looks at nothing, but stops when the user wants to.
struct Passer<'a, 'b>(&'a Ledger<'b>);

impl Observer for Passer<'_, '_> {
    fn see(&self, _input: Inputs<'_>) -> Result<()> {
        self.0.go_on()
    }

    fn wants_mixed(&self) -> bool {
        false
    }
}

/// The embedding. It has no inputs; the cost of an error in a row is what the first layer's matrices make of it. So
/// in the place of the covariance is the sum of W^T W over these matrices, columns times the gains of the norm
/// between; routed experts, which read the same as the shared ones, are left out. Later layers and the head are left
/// out too: with them in the sum the divergence was higher (docs/records/2026-11-feedback.md).
fn embedding(press: &Press, model: &Description, ledger: &Ledger) -> Result<()> {
    let tensors = &press.plan.model.tensors;
    let is_embedding = |tensor: &TensorPlan| tensor.role == Role::Embedding && tensor.layer.is_none();
    let Some(embedding) = tensors.iter().position(is_embedding) else { return Ok(()) };
    if !ledger.is_open(embedding, 0) {
        return Ok(());
    }
    let reads = |tensor: &&TensorPlan| {
        let part = tensor.part;
        tensor.layer == Some(0) && part.input == Input::Stream && part.slices != Slices::Experts
    };
    let mut readers: Vec<&TensorPlan> = tensors.iter().filter(reads).collect();
    readers.sort_by_key(|tensor| tensor.part.order);
    let hidden = model.hidden as usize;
    let mut sum = Covariance::new(hidden);
    for reader in readers {
        let mut matrix = press.original.matrix(&reader.name, 0, [reader.rows() as usize, hidden])?;
        let norm =
            tensors.iter().find(|tensor| Some(&*tensor.slices[0].tensor) == reader.input_norm.as_deref());
        if let Some(norm) = norm {
            let gains = press.original.vector(&norm.name, hidden)?;
            for row in matrix.values_mut().chunks_exact_mut(hidden) {
                row.iter_mut().zip(gains.values()).for_each(|(weight, gain)| *weight *= gain);
            }
        }
        sum.add(matrix.view());
    }
    let (tokens, metrics) = (0, &metrics(sum.mean())?[..]);
    press.with_feedback(ledger, &[Known { tensor: embedding, slice: 0, tokens, metrics }])
}
