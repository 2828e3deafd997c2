//! The layers in order: the hidden states of the whole text go through one half of a layer after another.

use std::ops::Range;
use std::sync::Arc;

use dense_kernels::Dense;
use rayon::iter::IndexedParallelIterator;
use rayon::slice::ParallelSliceMut;

use super::milestones::Milestones;
use super::routed::{Open, Routed};
use super::states::{States, copy};
use crate::error::Result;
use crate::model::layer::{Chunks, Ffn, Form, Observer, OpenGated, Show, Turns, normalise};
use crate::model::{Description, EMBEDDING, Half, ROPE_DIVISORS, Weights};
use crate::threads::{self, both, combine};

/// Tokens that go through a block together, rounded to whole chunks. Fixed, so that no result depends on the machine.
const BATCH: usize = 2048;

/// Tokens whose embeddings are read before they are kept.
const EMBEDDED: usize = 1024;

/// The forward pass of a text: its hidden states, and how far they have come.
#[derive(Debug)]
pub struct Pass {
    model: Description,
    context: usize,
    memory: u64,
    states: States,
    /// The rotations of a chunk's positions, which all layers have in common; made when first needed.
    turns: Option<Arc<Turns>>,
}

impl Pass {
    /// The embeddings of `tokens`, chunks of `context` after one another; hidden states beyond `memory` bytes go to
    /// disk.
    ///
    /// # Errors
    /// If they cannot be read.
    ///
    /// # Panics
    /// If the tokens are no whole chunks.
    pub fn new(
        weights: &Weights,
        model: &Description,
        tokens: &[u32],
        context: usize,
        memory: u64,
    ) -> Result<Self> {
        assert!(tokens.len().is_multiple_of(context), "{} tokens in chunks of {context}", tokens.len());
        weights.check(EMBEDDING, 0, [model.vocabulary as usize, model.hidden as usize])?;
        let mut pass = Self::resume(model, tokens.len(), context, memory)?;
        let hidden = model.hidden as usize;
        for (part, tokens) in tokens.chunks(EMBEDDED).enumerate() {
            let mut rows = Dense::zeros(tokens.len(), hidden);
            threads::try_map(
                "embed",
                rows.values_mut().par_chunks_mut(hidden).zip(tokens),
                |(row, &token)| weights.read(EMBEDDING, 0, token as usize..token as usize + 1, row),
            )?;
            pass.states.write(part * EMBEDDED, rows.values())?;
        }
        Ok(pass)
    }

    /// A pass whose hidden states are still to be written.
    ///
    /// # Errors
    /// If there is no room for them.
    pub fn resume(model: &Description, tokens: usize, context: usize, memory: u64) -> Result<Self> {
        let states = States::new(tokens, model.hidden as usize, memory / 4)?;
        Ok(Self { model: model.clone(), context, memory, states, turns: None })
    }

    /// The states before a layer, from the nearest ones that are kept: from the embeddings, if none are.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`layer`](Self::layer), and if the states are not as they were kept.
    pub fn before(
        layer: usize,
        weights: &Weights,
        model: &Description,
        (tokens, context, memory): (&[u32], usize, u64),
        milestones: &Milestones,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let from = milestones.last(layer)?;
        let mut pass = match from {
            Some(from) => {
                let mut pass = Self::resume(model, tokens.len(), context, memory)?;
                milestones.restore(from, pass.states())?;
                pass
            }
            None => Self::new(weights, model, tokens, context, memory)?,
        };
        for layer in from.unwrap_or(0)..layer {
            pass.layer(weights, layer, observer)?;
        }
        Ok(pass)
    }

    /// What the model is.
    pub fn model(&self) -> &Description {
        &self.model
    }

    /// Hidden states after the last block.
    pub fn states(&mut self) -> &mut States {
        &mut self.states
    }

    /// One whole layer.
    ///
    /// # Errors
    /// If its weights cannot be read, or the observer gives up.
    pub fn layer(&mut self, weights: &Weights, layer: usize, observer: &dyn Observer) -> Result<()> {
        Half::ALL.into_iter().try_for_each(|half| self.half(half, weights, layer, observer, true))
    }

    /// Half a layer; what it adds is kept or, if only the observer matters, not.
    ///
    /// # Errors
    /// As [`layer`](Self::layer).
    pub fn half(
        &mut self,
        half: Half,
        weights: &Weights,
        layer: usize,
        observer: &dyn Observer,
        keep: bool,
    ) -> Result<()> {
        let model = self.model.clone();
        let kinds = &model.layers[layer];
        let show = Show { observer, outputs: keep };
        tracing::debug!(layer, ?half, keep, tokens = self.states.rows(), "forward");
        if half == Half::Attention {
            work_trace::step("attention");
            let attention = kinds.attention.open(weights, &model, layer)?;
            let (length, turns) = (self.context, self.turns(weights)?);
            let text = Chunks { length, turns: &turns };
            return self.each(|_, states| attention.apply(copied(states), &text, show));
        }
        work_trace::step("FFN");
        let norm = Ffn::norm(weights, &model, layer)?;
        let normed = |states: &Dense| {
            let mut inputs = copied(states);
            normalise(&mut inputs, norm.values(), model.eps);
            inputs
        };
        match &kinds.ffn {
            Ffn::Dense { width, biases } => {
                let form = Form { biases: *biases, ..Form::default() };
                let ffn = OpenGated::open(weights, [model.hidden, *width], layer, "", 0, form)?;
                self.each(|_, states| ffn.apply(&normed(states), show))
            }
            Ffn::Experts(experts) => {
                let mut inputs = States::new(self.states.rows(), self.states.columns(), self.memory / 4)?;
                let mut routed = Routed::new(experts.count, observer.least_tokens());
                let open = experts.open(weights, &model, layer)?;
                self.each(|first, states| {
                    let normed = normed(states);
                    inputs.write(first, normed.values())?;
                    let (routes, shared) = both(
                        "router and shared experts",
                        || open.route(&normed, observer),
                        || open.shared(&normed, show),
                    );
                    routed.add(first, routes?);
                    shared
                })?;
                drop(open);
                work_trace::step("experts");
                let states = keep.then_some(&mut self.states);
                let open = Open { experts, weights, model: &model, layer };
                routed.apply(&open, &inputs, states, observer, self.memory)
            }
        }
    }

    /// The rotations of a chunk's positions.
    fn turns(&mut self, weights: &Weights) -> Result<Arc<Turns>> {
        if let Some(turns) = &self.turns {
            return Ok(Arc::clone(turns));
        }
        let rope = &self.model.rope;
        let divisors = match rope.divided {
            true => weights.vector(ROPE_DIVISORS, rope.columns as usize / 2)?.values().to_vec(),
            false => Vec::new(),
        };
        let turns = Arc::new(self.model.layers[0].attention.turns(rope, self.context, &divisors));
        self.turns = Some(Arc::clone(&turns));
        Ok(turns)
    }

    /// Calls `compute` with the first token and the states of each batch; adds what it returns to the states.
    fn each(&mut self, mut compute: impl FnMut(usize, &Dense) -> Result<Option<Dense>>) -> Result<()> {
        for batch in self.batches() {
            let mut states = self.states.read(batch.clone())?;
            if let Some(sum) = compute(batch.start, &states)? {
                combine("add", &mut states, &sum, |state, sum| state + sum);
                self.states.write(batch.start, states.values())?;
            }
        }
        Ok(())
    }

    /// The tokens by whole chunks.
    fn batches(&self) -> Vec<Range<usize>> {
        let step = (BATCH / self.context).max(1) * self.context;
        let tokens = self.states.rows();
        (0..tokens).step_by(step).map(|start| start..tokens.min(start + step)).collect()
    }
}

/// The same values once more.
fn copied(states: &Dense) -> Dense {
    let mut out = Dense::zeros(states.rows(), states.columns());
    copy(out.values_mut(), states.values(), states.columns());
    out
}
