//! The layers in order: the hidden states of the whole text go through one half of a layer after another.

mod in_turn;

use std::ops::Range;
use std::sync::Arc;

use dense_kernels::{Dense, Reuse};
use rayon::iter::IndexedParallelIterator;
use rayon::slice::ParallelSliceMut;

pub use self::in_turn::InTurn;
use super::back::Behind;
use super::milestones::Milestones;
use super::routed::{Open, Routed};
use super::states::{States, copy};
use crate::error::Result;
use crate::model::layer::{Chunks, Ffn, Gradients, Observer, Show, Turns, normalise, normalise_back};
use crate::model::{Description, EMBEDDING, Half, ROPE_DIVISORS, TensorPlan, Weights};
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
    /// Batches and experts need matrices of the same sizes, one after the other.
    _reuse: Reuse,
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
            let mut rows = Dense::to_fill(tokens.len(), hidden);
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
        let _reuse = Reuse::of(memory);
        Ok(Self { model: model.clone(), context, memory, states, turns: None, _reuse })
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
        self.half_and_back(half, weights, layer, observer, keep, None)
    }

    /// The same; and back again, if gradients behind the half are known.
    ///
    /// # Errors
    /// As [`layer`](Self::layer), and that there is no way back through the kind of the layer.
    ///
    /// # Panics
    /// If what a half with routed experts adds is to be kept, and gradients before it as well.
    pub fn half_and_back(
        &mut self,
        half: Half,
        weights: &Weights,
        layer: usize,
        observer: &dyn Observer,
        keep: bool,
        mut behind: Option<Behind<'_>>,
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
            return self.each(|first, states| {
                if let Some(behind) = &mut behind
                    && let Some(gradients) = behind.batch(&(first..first + states.rows()))?
                {
                    let states = first_rows(states, gradients.rows());
                    let back = attention.back(&states, &gradients, &text, behind.show(observer))?;
                    back.map_or(Ok(()), |back| behind.add(first, back))?;
                    show_written(observer, weights, layer, half, &gradients)?;
                }
                attention.apply(copied(states), &text, show)
            });
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
                let ffn = Ffn::dense_at(&model, layer, *width, *biases).open(weights)?;
                self.each(|first, states| {
                    let inputs = normed(states);
                    if let Some(behind) = &mut behind
                        && let Some(gradients) = behind.batch(&(first..first + states.rows()))?
                    {
                        let rows = gradients.rows();
                        let inputs = first_rows(&inputs, rows);
                        let back = ffn.back(&inputs, &gradients, &vec![1.0; rows], behind.show(observer))?;
                        if let Some((mut back, _)) = back {
                            normalise_back(&mut back, &first_rows(states, rows), norm.values(), model.eps);
                            behind.add(first, back)?;
                        }
                        show_written(observer, weights, layer, half, &gradients)?;
                    }
                    ffn.apply(&inputs, show)
                })
            }
            Ffn::Experts(experts) => {
                let mut inputs = States::new(self.states.rows(), self.states.columns(), self.memory / 4)?;
                let mut routed = Routed::new(experts.count, observer.least_tokens());
                let mut inner = match &behind {
                    Some(behind) => Some(behind.inner(experts.count as usize, self.memory / 4)?),
                    None => None,
                };
                let open = experts.open(weights, &model, layer)?;
                self.each(|first, states| {
                    let normed = normed(states);
                    inputs.write(first, normed.values())?;
                    let (routes, shared) = both(
                        "router and shared experts",
                        || open.router().route(&normed, observer),
                        || open.shared(&normed, show),
                    );
                    routed.add(first, routes?);
                    if let (Some(behind), Some(inner)) = (&behind, &mut inner)
                        && let Some(gradients) = behind.batch(&(first..first + states.rows()))?
                    {
                        let inputs = first_rows(&normed, gradients.rows());
                        let back = open.shared_back(&inputs, &gradients, behind.show(observer))?;
                        back.map_or(Ok(()), |back| inner.put(first, &back))?;
                        show_written(observer, weights, layer, half, &gradients)?;
                    }
                    shared
                })?;
                // Nothing more is needed of router and shared experts, unless gradients go back through them.
                let open = inner.as_ref().filter(|inner| inner.is_wanted()).map(|_| open);
                work_trace::step("experts");
                let states = keep.then_some(&mut self.states);
                let all = Open { experts, weights, quantized: None, model: &model, layer };
                observer.chosen(&all.gate_and_up()?, &routed.tokens())?;
                routed.apply(&all, &inputs, states, inner.as_mut(), observer, self.memory)?;
                let (Some(open), Some(inner), Some(behind)) = (open, inner, &mut behind) else {
                    return Ok(());
                };
                assert!(!keep, "the states before the half are needed");
                work_trace::step("norm and router back");
                self.each(|first, states| {
                    let Some((mut back, of_weights)) = inner.sums(first..first + states.rows())? else {
                        return Ok(None);
                    };
                    let rows = first..first + back.rows();
                    let of_router = open.router().back(&inputs.read(rows.clone())?, &of_weights);
                    combine("add", &mut back, &of_router, |sum, x| sum + x);
                    normalise_back(&mut back, &first_rows(states, rows.len()), norm.values(), model.eps);
                    behind.add(first, back)?;
                    Ok(None)
                })
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

/// Shows gradients behind a half as those at the outputs of all that adds to the states there.
fn show_written(
    observer: &dyn Observer,
    weights: &Weights,
    layer: usize,
    half: Half,
    gradients: &Dense,
) -> Result<()> {
    let writes = |tensor: &TensorPlan| {
        let part = tensor.part;
        tensor.layer == Some(layer as u32) && part.half == Some(half) && part.writes_stream
    };
    let tensors = weights.tensors().iter().enumerate();
    let places: Vec<usize> = tensors.filter(|(_, tensor)| writes(tensor)).map(|(place, _)| place).collect();
    observer.see_gradients(Gradients { tensors: &places, slice: 0, rows: gradients.view() })
}

/// The first rows once more.
fn first_rows(of: &Dense, rows: usize) -> Dense {
    let mut out = Dense::to_fill(rows, of.columns());
    copy(out.values_mut(), &of.values()[..rows * of.columns()], of.columns());
    out
}

/// The same values once more.
fn copied(states: &Dense) -> Dense {
    let mut out = Dense::to_fill(states.rows(), states.columns());
    copy(out.values_mut(), states.values(), states.columns());
    out
}
