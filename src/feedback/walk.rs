//! The order of the work: attention runs with its original weights to collect covariances, is quantized, and runs again
//! with the quantized weights; an FFN runs once, and each of its matrices is quantized before what it gives is needed. A
//! part of a split comes to its first layer through the original model's.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::ledger::Ledger;
use super::press::Press;
use super::run::{Feedback, Step};
use super::stretches::Stretch;
use crate::error::Result;
use crate::forward::{Behind, GradientFolder, Head, InTurn, Inputs, Observer, Pass, Saved, States, Weights};
use crate::log;
use crate::model::{Half, Role, TensorPlan};

/// The way through the layers.
pub struct Walk<'a> {
    feedback: &'a Feedback<'a>,
    /// Quantizes.
    pub press: &'a Press<'a>,
    /// The weights behind what is quantized: those of the job as they are in its file.
    quantized: &'a Weights<'a>,
    /// What is still to be quantized.
    pub ledger: &'a Ledger<'a>,
    saved: &'a Saved,
    /// Layers that this run does not go through.
    skipped: AtomicUsize,
}

impl<'a> Walk<'a> {
    /// At its beginning.
    pub fn new(
        feedback: &'a Feedback<'a>,
        press: &'a Press<'a>,
        quantized: &'a Weights<'a>,
        ledger: &'a Ledger<'a>,
        saved: &'a Saved,
    ) -> Self {
        Self { feedback, press, quantized, ledger, saved, skipped: AtomicUsize::new(0) }
    }

    /// The tensors of all stretches that have inputs.
    ///
    /// # Errors
    /// If something cannot be read or written, or the user wants to stop.
    pub fn all(&self, stretches: &[Stretch]) -> Result<()> {
        let layers = stretches.last().map_or(0, Stretch::all);
        stretches.iter().try_for_each(|stretch| self.stretch(stretch, layers))
    }

    /// The tensors of a stretch, layer after layer; the job goes through `layers` in all.
    fn stretch(&self, stretch: &Stretch, layers: usize) -> Result<()> {
        let Self { press, ledger, .. } = *self;
        let of_layer = |tensor: &TensorPlan, layer: usize| tensor.layer == Some(layer as u32);
        let is_open = |&layer: &usize| ledger.any_open(|tensor| of_layer(tensor, layer));
        let open_head = stretch.head && ledger.any_open(TensorPlan::is_head);
        let first_open = match (stretch.layers.clone().find(is_open), open_head) {
            (Some(layer), _) => layer,
            (None, true) => stretch.layers.end,
            (None, false) => {
                self.skipped.fetch_add(stretch.layers.end, Ordering::Relaxed);
                return Ok(());
            }
        };
        let (mut pass, from) = self.begin(stretch, first_open)?;
        let earlier = self.skipped.fetch_add(from, Ordering::Relaxed) + from;
        for layer in from..stretch.layers.end {
            if layer < stretch.layers.start {
                pass.layer(&press.original, layer, &Passer(ledger))?;
            } else {
                self.layer(&mut pass, layer)?;
            }
            work_trace::step("keep states");
            ledger.record()?;
            let done = stretch.earlier + layer + 1;
            self.saved.keep(done, pass.states(), &[])?;
            (self.feedback.told)(Step { done, earlier, layers });
        }
        if open_head {
            let watcher = press.watcher(ledger, TensorPlan::is_head)?;
            Head::observe(&press.original, &mut pass, &watcher)?;
            watcher.finish()?;
        }
        Ok(())
    }

    /// Quantizes a layer and goes through it.
    fn layer(&self, pass: &mut Pass, layer: usize) -> Result<()> {
        let Self { press, ledger, quantized, .. } = *self;
        for half in Half::ALL {
            tracing::debug!(layer, ?half, "feedback");
            let of_half = |tensor: &TensorPlan| tensor.is_of(layer, half);
            if !ledger.any_open(of_half) {
                pass.half(half, quantized, layer, &Passer(ledger), true)?;
                continue;
            }
            let watcher = press.watcher(ledger, of_half)?;
            let gradients = self.gradients(pass, layer, half)?;
            let behind = gradients.as_ref().map(Behind::shown);
            match half {
                Half::Attention => {
                    pass.half_and_back(half, &press.original, layer, &watcher, false, behind)?;
                    drop(gradients);
                    work_trace::step("covariances");
                    watcher.finish()?;
                    press.plainly(ledger, |tensor, _| of_half(tensor))?;
                    pass.half(half, quantized, layer, &Passer(ledger), true)?;
                }
                Half::Ffn => {
                    // Nobody shows the inputs of these.
                    press.plainly(ledger, |tensor, _| of_half(tensor) && tensor.role == Role::Router)?;
                    let turn = InTurn { original: &press.original, quantized, observer: &watcher };
                    pass.ffn_in_turn(&turn, layer, behind.as_ref())?;
                    watcher.finish()?;
                    // Experts that no token went to.
                    press.plainly(ledger, |tensor, _| of_half(tensor))?;
                }
            }
        }
        Ok(())
    }

    /// The original model's gradients at the states behind a half, if they are known.
    fn gradients(&self, pass: &mut Pass, layer: usize, half: Half) -> Result<Option<States>> {
        let columns = pass.states().columns();
        let read = |folder: &GradientFolder| folder.behind(layer, half, columns, self.feedback.memory / 4);
        self.feedback.gradients.map(read).transpose()
    }

    /// The hidden states from which a stretch is gone through, and the number of layers behind them: those of an
    /// earlier run, if nothing before them is open; a milestone on the way to the stretch; or the embeddings.
    fn begin(&self, stretch: &Stretch, first_open: usize) -> Result<(Pass, usize)> {
        let Feedback { tokens, context, memory, milestones, .. } = *self.feedback;
        let model = self.press.plan.model.describe()?;
        let kept = self.saved.layers()?.unwrap_or(0);
        let kept = kept.checked_sub(stretch.earlier).filter(|&layers| layers <= first_open).unwrap_or(0);
        let start = stretch.layers.start;
        let milestone = milestones.map_or(Ok(None), |milestones| milestones.last(start))?.unwrap_or(0);
        if milestones.is_some() && kept.max(milestone) < start {
            log::warn(format_args!(
                "--states has none before layer {start}; the checkpoint's layers from {} on are gone through first",
                kept.max(milestone)
            ));
        }
        if kept.max(milestone) == 0 {
            // On the way to a stretch the model is the original, whoever makes its embedding.
            let weights = if start == 0 { self.quantized } else { &self.press.original };
            return Ok((Pass::new(weights, model, tokens, context, memory)?, 0));
        }
        tracing::debug!(kept, milestone, start, "layers that are behind");
        let mut pass = Pass::resume(model, tokens.len(), context, memory)?;
        match milestones.filter(|_| milestone > kept) {
            Some(milestones) => milestones.restore(milestone, pass.states())?,
            None => self.saved.restore(stretch.earlier + kept, pass.states())?,
        }
        Ok((pass, kept.max(milestone)))
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
