//! The layers in order: hidden states of the whole text go through one block of weights after another.

use std::ops::Range;

use dense_kernels::{Dense, View};

use super::attention::Attention;
use super::experts::Experts;
use super::ffn::Ffn;
use super::norm::normalise;
use super::rope::Rope;
use super::shape::Shape;
use super::states::States;
use super::weights::Weights;
use crate::error::Result;

/// Tokens that go through a block together, rounded to whole chunks. Fixed, so that no result depends on the machine.
const BATCH: usize = 2048;

/// What some tensors of a layer multiply: rows of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The layer.
    pub layer: usize,
    /// Names without `blk.N.` and `.weight`; more than one where they share inputs.
    pub tensors: &'a [&'a str],
    /// Expert or head.
    pub slice: usize,
    /// A row for each token.
    pub inputs: View<'a>,
}

impl Input<'_> {
    /// The whole name of one of the tensors.
    pub fn full_name(&self, tensor: &str) -> String {
        match tensor {
            "output" => "output.weight".to_owned(),
            tensor => format!("blk.{}.{tensor}.weight", self.layer),
        }
    }
}

/// Sees the inputs of every matrix, in a fixed order.
pub trait Observer {
    /// Sees some rows of inputs.
    ///
    /// # Errors
    /// Ends the pass.
    fn see(&mut self, input: Input<'_>) -> Result<()>;

    /// Whether the latents that attention mixes (the inputs of attn_v_b) are to be kept for it.
    fn wants_mixed(&self) -> bool {
        true
    }

    /// Experts with fewer tokens than this are shown the tokens that their router scores highest among the others.
    fn least_tokens(&self) -> usize {
        0
    }

    /// Sees inputs of an expert that did not go there.
    ///
    /// # Errors
    /// Ends the pass.
    fn see_extra(&mut self, _input: Input<'_>) -> Result<()> {
        Ok(())
    }
}

/// Looks away.
#[derive(Clone, Copy, Debug)]
pub struct Ignore;

impl Observer for Ignore {
    fn see(&mut self, _input: Input<'_>) -> Result<()> {
        Ok(())
    }

    fn wants_mixed(&self) -> bool {
        false
    }
}

/// A text on its way through a model.
#[derive(Debug)]
pub struct Pass {
    shape: Shape,
    rope: Rope,
    context: usize,
    memory: u64,
    states: States,
}

/// A block of a layer, as [`Pass`] computes it.
pub type Compute = fn(&mut Pass, &dyn Weights, usize, &mut dyn Observer, bool) -> Result<()>;

impl Pass {
    /// The blocks of a layer in order, and whether they are FFNs.
    pub const BLOCKS: [(Compute, bool); 2] = [(Self::attention, false), (Self::ffn, true)];

    /// The embeddings of `tokens`, chunks of `context` after one another; hidden states beyond `memory` bytes go to disk.
    ///
    /// # Errors
    /// If they cannot be read.
    ///
    /// # Panics
    /// If the tokens are no whole chunks.
    pub fn new(
        weights: &dyn Weights,
        shape: Shape,
        tokens: &[u32],
        context: usize,
        memory: u64,
    ) -> Result<Self> {
        assert!(tokens.len().is_multiple_of(context), "{} tokens in chunks of {context}", tokens.len());
        weights.check("token_embd.weight", 0, [shape.vocabulary, shape.hidden])?;
        let mut pass = Self::resume(shape, tokens.len(), context, memory)?;
        let mut row = vec![0.0; pass.shape.hidden];
        for (place, &token) in tokens.iter().enumerate() {
            weights.read("token_embd.weight", 0, token as usize..token as usize + 1, &mut row)?;
            pass.states.write(place, &row)?;
        }
        Ok(pass)
    }

    /// A pass whose hidden states are still to be written.
    ///
    /// # Errors
    /// If there is no room for them.
    pub fn resume(shape: Shape, tokens: usize, context: usize, memory: u64) -> Result<Self> {
        let rope = Rope::new(context, shape.rope, shape.theta, shape.yarn.as_ref());
        let states = States::new(tokens, shape.hidden, memory / 4)?;
        Ok(Self { shape, rope, context, memory, states })
    }

    /// The model's sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Hidden states after the last block.
    pub fn states(&mut self) -> &mut States {
        &mut self.states
    }

    /// One whole layer.
    ///
    /// # Errors
    /// If its weights cannot be read, or the observer gives up.
    pub fn layer(&mut self, weights: &dyn Weights, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        self.attention(weights, layer, observer, true)?;
        self.ffn(weights, layer, observer, true)
    }

    /// A layer's attention; what it adds is kept or, if only the observer matters, not.
    ///
    /// # Errors
    /// As [`layer`](Self::layer).
    pub fn attention(
        &mut self,
        weights: &dyn Weights,
        layer: usize,
        observer: &mut dyn Observer,
        keep: bool,
    ) -> Result<()> {
        let shape = self.shape.clone();
        let attention = Attention::read(weights, &shape, layer)?;
        for batch in self.batches() {
            let mut states = self.states.read(batch.clone())?;
            let sum = attention.apply(states.clone(), self.context, &self.rope, observer)?;
            if keep {
                add(&mut states, &sum);
                self.states.write(batch.start, states.values())?;
            }
        }
        Ok(())
    }

    /// A layer's FFN, dense or of experts; as [`attention`](Self::attention).
    ///
    /// # Errors
    /// As [`layer`](Self::layer).
    pub fn ffn(
        &mut self,
        weights: &dyn Weights,
        layer: usize,
        observer: &mut dyn Observer,
        keep: bool,
    ) -> Result<()> {
        let shape = self.shape.clone();
        let norm = weights.vector(&format!("blk.{layer}.ffn_norm.weight"), shape.hidden)?;
        if layer >= shape.dense_layers {
            let mut normed = States::new(self.states.rows(), shape.hidden, self.memory / 4)?;
            let experts = Experts::read(weights, &shape, layer)?;
            let mut routed = experts.routed();
            for batch in self.batches() {
                let mut states = self.states.read(batch.clone())?;
                let mut inputs = states.clone();
                normalise(&mut inputs, norm.values(), shape.eps);
                normed.write(batch.start, inputs.values())?;
                let sum = experts.shared(&inputs, batch.start, &mut routed, observer)?;
                if keep {
                    add(&mut states, &sum);
                    self.states.write(batch.start, states.values())?;
                }
            }
            drop(experts);
            return routed.apply(
                weights,
                &shape,
                layer,
                &mut normed,
                keep.then_some(&mut self.states),
                observer,
            );
        }
        let ffn = Ffn::read(weights, &shape, layer, "", 0)?;
        for batch in self.batches() {
            let mut states = self.states.read(batch.clone())?;
            let mut inputs = states.clone();
            normalise(&mut inputs, norm.values(), shape.eps);
            let sum = ffn.apply(&inputs, observer)?;
            if keep {
                add(&mut states, &sum);
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

fn add(states: &mut Dense, sum: &Dense) {
    for (state, sum) in states.values_mut().iter_mut().zip(sum.values()) {
        *state += sum;
    }
}
