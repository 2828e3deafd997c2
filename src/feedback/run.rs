//! The method from beginning to end: what needs no inputs, then the layers, then what is left.

use super::ledger::Ledger;
use super::press::Press;
use super::quantized::Quantized;
use super::stretches::{Stretch, stretches};
use super::walk::Walk;
use super::written::Written;
use crate::checkpoint::Seen;
use crate::covariance::{Covariance, DAMPING, Estimate, Known, metrics};
use crate::error::Result;
use crate::forward::{GradientFolder, Milestones, Saved, Weights};
use crate::gguf::beside;
use crate::identity::Identity;
use crate::model::{Description, Input, Role, Slices, TensorPlan};
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
    /// Hidden states of the original model that a part may begin from.
    pub milestones: Option<&'a Milestones>,
    /// Gradients of the original model at its hidden states, by which the errors of rows are weighed against one another.
    pub gradients: Option<&'a GradientFolder>,
    /// Hears of layers that the pass has gone through.
    pub told: &'a (dyn Fn(Step) + Sync),
}

/// How far the pass has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Layers that are behind it.
    pub done: usize,
    /// Those of them that were when this run began, or that are not gone through because their states are there.
    pub earlier: usize,
    /// All that the job goes through: of a part also the original layers before its own.
    pub layers: usize,
}

impl Method for Feedback<'_> {
    fn work(&self, job: &Job, work: &Work, session: &mut Session, _: Budget) -> Result<Option<Stages>> {
        // The work and the state of the shards are recorded in the journal.
        let identity = Identity::new([("the run", session.fingerprint())]);
        let saved = Saved::open(beside(&session.name, ".feedback"), identity, Seen::default())?;
        let (outputs, keeper) = session.parts(job, work);
        let written = Written::new(work, &keeper);
        let ledger = Ledger::new(job, work, outputs, keeper, &written);
        if ledger.any_open(|_| true) {
            let press = Press::new(job, self.memory);
            let quantized = Quantized::new(job, work, outputs, &written);
            let quantized = Weights::new(&quantized, Quantized::tensors(job));
            let walk = Walk::new(self, &press, &quantized, &ledger, &saved);
            let done = all(&walk, &stretches(job));
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
    /// As [`run_by`], and if milestones are of something else.
    pub fn run(&self, job: &Job) -> Result<Made> {
        if let Some(milestones) = self.milestones {
            // States of something else are found before the work.
            stretches(job).iter().try_for_each(|stretch| milestones.last(stretch.layers.start).map(drop))?;
        }
        threads::on(job.threads, || run_by(job, self))?
    }
}

/// All tensors of the job, stretch after stretch.
fn all(walk: &Walk, stretches: &[Stretch]) -> Result<()> {
    let Walk { press, ledger, .. } = *walk;
    press.plainly(ledger, |_, format| format.is_float())?;
    embedding(press, press.plan.model.describe()?, ledger)?;
    walk.all(stretches)?;
    press.plainly(ledger, |_, _| true)
}

/// The embedding. It has no inputs; the cost of an error in a row is what the first layer's matrices make of it. So
/// in the place of the covariance is the sum of W^T W over these matrices, columns times the gains of the norm
/// between; routed experts, which read the same as the shared ones, are left out. Later layers and the head are left
/// out too: with them in the sum the divergence was higher (docs/records/2026-11-feedback.md).
pub fn embedding(press: &Press, model: &Description, ledger: &Ledger) -> Result<()> {
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
    let (tokens, metrics) = (0, &metrics(Estimate::known(sum.mean()), DAMPING)?[..]);
    press.with_feedback(ledger, &[Known { tensor: embedding, slice: 0, tokens, metrics, coupling: None }])
}
