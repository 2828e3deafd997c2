//! The order of the work: a block of a layer is watched with its original weights, quantized, and computed again with
//! what it became.

use super::ledger::Ledger;
use super::press::Press;
use super::quantized::Quantized;
use super::written::Written;
use crate::checkpoint::Seen;
use crate::covariance::{Covariance, Known, metrics};
use crate::error::{Error, Result};
use crate::forward::{FromCheckpoint, Head, Input, Observer, Pass, Saved, Shape, Weights};
use crate::gguf::beside;
use crate::identity::Identity;
use crate::pipeline::{Budget, Job, Method, Session, Stages, Work};

/// Tokens whose final states are looked at together.
const BATCH: usize = 2048;

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
            let problem = "--feedback needs what it made of the layers before; make all parts with --split";
            return Err(Error::Argument(problem.into()));
        }
        // What it is of, and how the shards are seen, the journal tells.
        let identity = Identity::new([("the run", session.fingerprint())]);
        let saved = Saved::open(beside(&session.name, ".feedback"), identity, Seen::default())?;
        let (outputs, keeper) = session.parts(job, work);
        let written = Written::new(work, &keeper);
        let mut ledger = Ledger::new(job, work, outputs, keeper, &written);
        if ledger.any_open(|_| true) {
            let places = job.plan.model.places();
            let press = Press {
                plan: job.plan,
                importances: job.importances,
                places: &places,
                original: FromCheckpoint::new(job.checkpoint, &job.plan.model),
            };
            let quantized = Quantized::new(job.plan, work, outputs, &places, &written);
            let done = self.layers(&press, &quantized, &mut ledger, &saved);
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
    /// All tensors, layer after layer.
    fn layers(&self, press: &Press, quantized: &Quantized, ledger: &mut Ledger, saved: &Saved) -> Result<()> {
        let shape = Shape::of_model(&press.plan.model)?;
        press.plainly(ledger, |_, format| format.is_float())?;
        embedding(press, &shape, ledger)?;

        let of_layer = |name: &str, layer: usize| name.starts_with(&format!("blk.{layer}."));
        let first_open = (0..shape.layers).find(|&layer| ledger.any_open(|name| of_layer(name, layer)));
        // States that were kept are of use if all layers before them are done.
        let kept = saved.layers()?.unwrap_or(0);
        let earlier = if kept <= first_open.unwrap_or(shape.layers) { kept } else { 0 };
        let mut pass = if earlier > 0 {
            let mut pass = Pass::resume(shape.clone(), self.tokens.len(), self.context, self.memory)?;
            saved.restore(earlier, pass.states())?;
            pass
        } else {
            Pass::new(quantized, shape.clone(), self.tokens, self.context, self.memory)?
        };
        for layer in earlier..shape.layers {
            for (compute, ffn) in Pass::BLOCKS {
                let of_block = |name: &str| of_layer(name, layer) && name.contains("ffn") == ffn;
                if ledger.any_open(of_block) {
                    let mut watcher = press.watcher(ledger, self.memory);
                    compute(&mut pass, &press.original, layer, &mut watcher, false)?;
                    watcher.finish()?;
                    press.plainly(ledger, |name, _| of_block(name))?;
                }
                compute(&mut pass, quantized, layer, &mut Passer(ledger), true)?;
            }
            ledger.record()?;
            saved.keep(layer + 1, pass.states(), &[])?;
            (self.told)(layer + 1, earlier);
        }
        head(press, &mut pass, ledger, self.memory)?;
        press.plainly(ledger, |_, _| true)
    }
}

/// Looks at nothing, but stops when the user wants to.
struct Passer<'a, 'b>(&'a Ledger<'b>);

impl Observer for Passer<'_, '_> {
    fn see(&mut self, _input: Input<'_>) -> Result<()> {
        self.0.go_on()
    }

    fn wants_mixed(&self) -> bool {
        false
    }
}

/// The embedding. It has no inputs, but readers: an error in a row costs what the first layer's matrices make of it. The
/// metric is the sum of W^T W over them, columns times the gains of the norm between; routed experts, which read what
/// the shared ones read, are left out. Later layers and the head read what the first ones have made of it: with them in
/// the sum the divergence was higher (docs/measurements.md).
fn embedding(press: &Press, shape: &Shape, ledger: &mut Ledger) -> Result<()> {
    let tensor = press.places["token_embd.weight"];
    if !ledger.is_open(tensor, 0) {
        return Ok(());
    }
    let mut readers = Covariance::new(shape.hidden);
    let mut add = |name: &str, norm: &str| -> Result<()> {
        let Some([_, rows, _]) = press.original.extent(name) else { return Ok(()) };
        let mut matrix = press.original.matrix(name, 0, [rows, shape.hidden])?;
        let gains = press.original.vector(norm, shape.hidden)?;
        for row in matrix.values_mut().chunks_exact_mut(shape.hidden) {
            row.iter_mut().zip(gains.values()).for_each(|(weight, gain)| *weight *= gain);
        }
        readers.add(matrix.view());
        Ok(())
    };
    for (name, norm) in [
        ("attn_q_a", "attn_norm"),
        ("attn_q", "attn_norm"),
        ("attn_kv_a_mqa", "attn_norm"),
        ("ffn_gate", "ffn_norm"),
        ("ffn_up", "ffn_norm"),
        ("ffn_gate_inp", "ffn_norm"),
        ("ffn_gate_shexp", "ffn_norm"),
        ("ffn_up_shexp", "ffn_norm"),
    ] {
        add(&format!("blk.0.{name}.weight"), &format!("blk.0.{norm}.weight"))?;
    }
    let (tokens, metrics) = (0, &metrics(readers.mean())?[..]);
    press.with_feedback(ledger, &[Known { tensor, slice: 0, tokens, metrics }])
}

/// The head, on the final states.
fn head(press: &Press, pass: &mut Pass, ledger: &mut Ledger, memory: u64) -> Result<()> {
    if !ledger.any_open(|name| name == "output.weight") {
        return Ok(());
    }
    let head = Head::read(&press.original, pass.shape())?;
    let layer = pass.shape().layers;
    let mut watcher = press.watcher(ledger, memory);
    let states = pass.states();
    for start in (0..states.rows()).step_by(BATCH) {
        let mut inputs = states.read(start..states.rows().min(start + BATCH))?;
        head.normalise(&mut inputs);
        watcher.see(Input { layer, tensors: &["output"], slice: 0, inputs: inputs.view() })?;
    }
    watcher.finish()
}
