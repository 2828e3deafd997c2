//! The kinds of which layers consist. Each has in its own file the numbers that describe it, its tensors ([`Spec`]),
//! its mathematics and the memory that llama.cpp needs for it; a new family combines them, and a new kind is a file
//! here.
//!
//! | file | kind |
//! |---|---|
//! | `latent` | attention on a latent that all heads share (MLA) |
//! | `grouped` | attention with keys and values shared by groups of heads (GQA, MHA) |
//! | `compressed` | attention on one key for all heads, of which those far away are compressed; for files only |
//! | `delta` | a gated delta net, whose memory is one matrix for each head |
//! | `gated` | a gated FFN: of a dense layer, of shared experts, of one routed expert |
//! | `experts` | routed experts, shared ones, and the router |
//! | `rope`, `norm`, `router`, `exp` | what they are made of |

mod compressed;
mod delta;
mod exp;
mod experts;
mod gated;
mod grouped;
mod latent;
mod norm;
mod observer;
mod rope;
mod router;

use std::ops::Range;

use dense_kernels::{Accum, Dense, View, product};

pub use compressed::{Compressed, Streams};
pub use delta::{Delta, no_way_back};
pub use experts::{Experts, OpenExperts, OpenRouter, Route, Shared, SharedGate};
pub use gated::{Activation, Form, GatedAt, OpenDown, OpenGated, OpenInner};
pub use grouped::{Grouped, QkNorm, Temperature};
pub use latent::{Indexer, Latent};
pub use norm::{normalise, normalise_back};
pub use observer::{Gradients, Ignore, Inputs, Observer};
pub use rope::{Pairing, Rope, Turns, Yarn};
pub use router::{Gating, Groups, Router};

use super::Weights;
use super::description::{Description, in_layer};
use super::part::Half;
use super::spec::Spec;
use super::tensor::Role;
use crate::error::Result;
use crate::threads::{self, both, each_rows};

/// Name of the gains of the norm before attention.
const ATTENTION_NORM: &str = "attn_norm.weight";

/// Name of the gains of the norm before the FFN, in most architectures.
pub const FFN_NORM: &str = "ffn_norm.weight";

/// Their name in the others.
pub const POST_ATTENTION_NORM: &str = "post_attention_norm.weight";

/// A layer's attention.
#[derive(Clone, Debug, PartialEq)]
pub enum Attention {
    /// On a latent (MLA).
    Latent(Latent),
    /// With keys and values for groups of heads.
    Grouped(Grouped),
    /// A gated delta net, which does not look back at tokens.
    Delta(Delta),
    /// On one key for all heads, of which those far away are compressed.
    Compressed(Compressed),
}

/// A layer's FFN.
#[derive(Clone, Debug, PartialEq)]
pub enum Ffn {
    /// One for all tokens.
    Dense {
        /// Numbers between its matrices.
        width: u32,
        /// Whether its matrices have biases.
        biases: bool,
    },
    /// Experts, of which a token uses a few.
    Experts(Experts),
}

/// Attention with its weights in memory.
pub trait Attend {
    /// The output that is added to the hidden states of whole chunks of a text, a row for each token; None, and not
    /// computed, if it is not wanted but only shown.
    ///
    /// # Errors
    /// Those of the observer.
    fn apply(&self, states: Dense, text: &Chunks, show: Show<'_>) -> Result<Option<Dense>>;

    /// From gradients at the output to those at the hidden states of whole chunks, as [`apply`](Self::apply) has them;
    /// None if they are only shown.
    ///
    /// # Errors
    /// Those of the observer, and that the kind cannot.
    fn back(&self, states: &Dense, gradients: &Dense, text: &Chunks, show: Show<'_>)
    -> Result<Option<Dense>>;
}

/// What becomes of the inputs and outputs of a half of a layer.
#[derive(Clone, Copy)]
pub struct Show<'a> {
    /// Is shown the inputs of every matrix.
    pub observer: &'a dyn Observer,
    /// Whether the outputs are wanted besides.
    pub outputs: bool,
}

impl Show<'_> {
    /// Shows some rows of inputs while the last matrix of a half makes of them what it does, if that is wanted.
    fn last(
        self,
        tensors: &[usize],
        slice: usize,
        inputs: &Dense,
        matrix: impl FnOnce(View<'_>) -> Dense + Send,
    ) -> Result<Option<Dense>> {
        let see = || self.observer.see(Inputs { tensors, slice, inputs: inputs.view() });
        if !self.outputs {
            return see().map(|()| None);
        }
        let (seen, outputs) = both("outputs", see, || matrix(inputs.view()));
        seen.map(|()| Some(outputs))
    }
}

/// How a text is divided: a token attends to the tokens of its chunk up to itself.
#[derive(Clone, Copy, Debug)]
pub struct Chunks<'a> {
    /// Tokens in a chunk.
    pub length: usize,
    /// The rotations of a chunk's positions.
    pub turns: &'a Turns,
}

impl Attention {
    /// Its tensors, norm included, in the order of use.
    pub fn specs(&self, hidden: u32, rope: &Rope) -> Vec<Spec> {
        let norm = Spec::vector(ATTENTION_NORM, "input_layernorm.weight", hidden);
        let specs = match self {
            Self::Latent(latent) => latent.specs(hidden, rope),
            Self::Grouped(grouped) => grouped.specs(hidden),
            Self::Delta(delta) => delta.specs(hidden),
            Self::Compressed(compressed) => compressed.specs(hidden),
        };
        std::iter::once(norm).chain(specs).map(|spec| spec.half(Half::Attention)).collect()
    }

    /// Numbers that a token adds to the KV cache.
    pub fn cache_per_token(&self, rope: &Rope) -> u32 {
        match self {
            Self::Latent(latent) => latent.cache_per_token(rope),
            Self::Grouped(grouped) => grouped.cache_per_token(),
            Self::Delta(_) => 0,
            Self::Compressed(compressed) => compressed.cache_per_token(),
        }
    }

    /// Numbers in F32 that llama.cpp keeps of a text, whatever its length.
    pub fn state(&self) -> u64 {
        match self {
            Self::Latent(_) | Self::Grouped(_) => 0,
            Self::Delta(delta) => delta.state(),
            Self::Compressed(compressed) => compressed.state(),
        }
    }

    /// Tokens that it looks back, itself included, if it is not all of them.
    pub fn window(&self) -> Option<u32> {
        match self {
            Self::Latent(_) | Self::Delta(_) => None,
            Self::Grouped(grouped) => grouped.window,
            Self::Compressed(compressed) => compressed.window(),
        }
    }

    /// Tokens of the longest text in which every token attends to all before it; None if there is no such bound.
    pub fn dense_length(&self) -> Option<u32> {
        match self {
            Self::Latent(latent) => latent.indexer.as_ref().map(|indexer| indexer.chosen),
            Self::Grouped(_) | Self::Delta(_) | Self::Compressed(_) => None,
        }
    }

    /// Whether a forward pass computes it here.
    pub fn is_computed(&self) -> bool {
        !matches!(self, Self::Compressed(_))
    }

    /// Whether gradients can go back through it.
    pub fn goes_back(&self) -> bool {
        matches!(self, Self::Latent(_) | Self::Grouped(_))
    }

    /// Numbers of llama.cpp's buffers for a token that it computes.
    pub fn scratch_per_token(&self, hidden: u32, rope: &Rope) -> u64 {
        match self {
            Self::Latent(latent) => latent.scratch_per_token(hidden, rope),
            Self::Grouped(grouped) => grouped.scratch_per_token(hidden),
            Self::Delta(delta) => delta.scratch_per_token(hidden),
            Self::Compressed(compressed) => compressed.scratch_per_token(hidden),
        }
    }

    /// The rotations that it needs for positions below `length`; frequencies are divided by the divisors, if there are
    /// some.
    pub fn turns(&self, rope: &Rope, length: usize, divisors: &[f32]) -> Turns {
        match self {
            Self::Latent(_) => Turns::new(length, rope, 1.0, divisors),
            Self::Grouped(_) | Self::Delta(_) | Self::Compressed(_) => {
                Turns::new(length, rope, rope.magnitude(), divisors)
            }
        }
    }

    /// Reads a layer's weights.
    ///
    /// # Errors
    /// If they cannot be read, or have other shapes.
    pub fn open<'a>(
        &'a self,
        weights: &Weights,
        model: &'a Description,
        layer: usize,
    ) -> Result<Box<dyn Attend + 'a>> {
        Ok(match self {
            Self::Latent(latent) => Box::new(latent.open(weights, model, layer)?),
            Self::Grouped(grouped) => Box::new(grouped.open(weights, model, layer)?),
            Self::Delta(delta) => Box::new(delta.open(weights, model, layer)?),
            Self::Compressed(_) => return Err(model.no_forward()),
        })
    }

    /// Its sizes by name, for messages.
    pub fn sizes(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Latent(latent) => latent.sizes(),
            Self::Grouped(grouped) => grouped.sizes(),
            Self::Delta(delta) => delta.sizes(),
            Self::Compressed(compressed) => compressed.sizes(),
        }
    }
}

impl Ffn {
    /// Its tensors, norm included, in the order of use.
    pub fn specs(&self, hidden: u32) -> Vec<Spec> {
        let norm = Spec::vector(FFN_NORM, "post_attention_layernorm.weight", hidden);
        let specs = match self {
            Self::Dense { width, biases } => {
                gated::specs("", "mlp", Role::DenseFfn, [hidden, *width], *biases)
            }
            Self::Experts(experts) => experts.specs(hidden),
        };
        std::iter::once(norm).chain(specs).map(|spec| spec.half(Half::Ffn)).collect()
    }

    /// Which FFN that of a dense layer is.
    pub fn dense_at(model: &Description, layer: usize, width: u32, biases: bool) -> GatedAt {
        let form = Form { biases, ..Form::default() };
        GatedAt { sizes: [model.hidden, width], layer, suffix: "", slice: 0, form }
    }

    /// The gains of the norm before it.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn norm(weights: &Weights, model: &Description, layer: usize) -> Result<Dense> {
        weights.vector(&in_layer(layer, model.ffn_norm), model.hidden as usize)
    }

    /// Its sizes by name, for messages.
    pub fn sizes(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Dense { width, .. } => vec![("width of the FFN", width.to_string())],
            Self::Experts(experts) => experts.sizes(),
        }
    }
}

/// Products of rows of inputs with weights that have a row for each output.
pub fn apply(weights: &Dense, inputs: View<'_>) -> Dense {
    let mut out = Dense::to_fill(inputs.rows(), weights.rows());
    product(out.view_mut(), Accum::Replace, inputs, weights.view().transposed());
    out
}

/// From gradients at what weights, a row for each output, make of rows of inputs, to those at the inputs.
pub fn through(weights: &Dense, gradients: View<'_>) -> Dense {
    let mut out = Dense::to_fill(gradients.rows(), weights.columns());
    product(out.view_mut(), Accum::Replace, gradients, weights.view());
    out
}

/// What each of `heads` makes of the tokens of each chunk, `width` numbers a token: for each token those of all heads.
fn by_heads(
    tokens: usize,
    text: &Chunks,
    [heads, width]: [usize; 2],
    head: impl Fn(usize, Range<usize>) -> Dense + Send + Sync,
) -> Dense {
    let of_all: Vec<[usize; 2]> = (0..tokens)
        .step_by(text.length)
        .flat_map(|start| (0..heads).map(move |head| [start, head]))
        .collect();
    let outputs =
        threads::map("heads", &of_all, |&[start, of]| head(of, start..tokens.min(start + text.length)));
    beside(tokens, text, [heads, width], |chunk, head| &outputs[chunk * heads + head])
}

/// The outputs of heads, a matrix for each chunk and head, beside one another.
fn beside<'a>(
    tokens: usize,
    text: &Chunks,
    [heads, width]: [usize; 2],
    output: impl Fn(usize, usize) -> &'a Dense + Send + Sync,
) -> Dense {
    let mut all = Dense::to_fill(tokens, heads * width);
    each_rows("values", all.values_mut(), heads * width, |first, rows| {
        for (token, row) in (first..).zip(rows.chunks_exact_mut(heads * width)) {
            for (head, values) in row.chunks_exact_mut(width).enumerate() {
                values.copy_from_slice(output(token / text.length, head).row(token % text.length));
            }
        }
    });
    all
}

/// Rows with a bias added to each, if there is one.
fn biased(mut rows: Dense, bias: Option<&Dense>) -> Dense {
    if let Some(bias) = bias {
        let columns = rows.columns();
        each_rows("add a bias", rows.values_mut(), columns, |_, rows| {
            for row in rows.chunks_exact_mut(columns) {
                row.iter_mut().zip(bias.values()).for_each(|(x, bias)| *x += bias);
            }
        });
    }
    rows
}

/// A model of one layer for the tests of layers and passes.
#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::{Layer, TensorPlan};
    use crate::store::InMemory;

    /// Attention with four heads of their own.
    pub const GROUPED: Grouped = Grouped {
        heads: 4,
        kv_heads: 4,
        width: 6,
        qk_norm: None,
        biases: false,
        output_bias: false,
        window: None,
        sinks: false,
        rotated: true,
        gated: false,
        temperature: None,
    };

    /// SplitMix64, as numbers between plus and minus a bound.
    pub struct Random(pub u64);

    impl Random {
        /// The next numbers.
        pub fn values(&mut self, count: usize, bound: f32) -> Vec<f32> {
            let mut value = || {
                self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..count).map(|_| bound * value()).collect()
        }
    }

    /// A model of one layer, with hidden states of ten numbers.
    pub fn model(rope: Rope, layer: Layer) -> Description {
        Description {
            arch: "test",
            vocabulary: 2,
            hidden: 10,
            context: 8,
            eps: 1e-5,
            ffn_width: 8,
            ffn_norm: FFN_NORM,
            rope,
            tied: false,
            experts: None,
            layers: vec![layer],
            mtp: Vec::new(),
            bos: None,
            streams: None,
        }
    }

    /// Random tensors of layer 0, and the store that they are in.
    pub fn tensors(specs: &[Spec], seed: u64) -> (InMemory, Vec<TensorPlan>) {
        let (mut store, mut random) = (InMemory::default(), Random(seed));
        let tensor = |spec: &Spec| {
            let [mut rows, mut columns] = spec.shape.map(u64::from);
            let slices = match &spec.source {
                crate::model::Source::Experts { count, .. } => u64::from(*count),
                crate::model::Source::Heads { heads, transposed, .. } => {
                    if *transposed {
                        std::mem::swap(&mut rows, &mut columns);
                    }
                    u64::from(*heads)
                }
                _ => 1,
            };
            let name = spec.full_name(Some(0));
            store.add(&name, columns, random.values((rows * columns * slices) as usize, 0.7));
            let shape = if slices > 1 { vec![columns, rows, slices] } else { vec![columns, rows] };
            TensorPlan::of_file(name, Some(0), spec.role, spec.part, shape)
        };
        let tensors = specs.iter().map(tensor).collect();
        (store, tensors)
    }

    /// Asserts that numbers are the expected ones, to a rounding or two of the largest.
    #[track_caller]
    pub fn near(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 2e-6 * largest, "{found}, {expected}");
        }
    }
}
