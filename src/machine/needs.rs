//! How much memory a file needs, by layer: tensors that every token reads, experts, KV cache, buffers.

use crate::model::{Description, Model, Role, TensorPlan};
use crate::recipe::{Choice, Plan};

/// Tokens that llama.cpp computes at once (its default -ub).
const UBATCH: u64 = 512;

/// Tokens by which a cache with a window grows.
const CELLS: u64 = 256;

/// How much memory a file needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of the whole file.
    pub file: u64,
    /// Bytes of the embedding, of which a token reads one row.
    pub embedding: u64,
    /// Bytes of the head and its norm, which every token reads.
    pub head: u64,
    /// The layers in order.
    pub layers: Vec<LayerBytes>,
    /// Routed experts in a layer, and how many of them a token uses; zeros without experts.
    pub experts: [u64; 2],
    /// Tokens that the model was made for.
    pub longest_context: u64,
    /// Numbers of the largest buffers for one token.
    pub activations: u64,
}

/// Bytes of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerBytes {
    /// Attention, shared experts or dense projections, router, norms: what every token reads.
    pub always: u64,
    /// All routed experts.
    pub experts: u64,
    /// What a token adds to the KV cache, in 16-bit numbers.
    pub kv: u64,
    /// Tokens that attention looks back, if it is not all of them.
    pub window: Option<u64>,
    /// What is kept of a text whatever its length.
    pub state: u64,
}

impl LayerBytes {
    /// Bytes of the layer's KV cache for a context. With a window llama.cpp keeps that many tokens and those that it
    /// computes at once, rounded up to whole pages of cells.
    pub fn cache(&self, context: u64) -> u64 {
        let kept = self.window.map_or(context, |window| context.min(window + UBATCH).next_multiple_of(CELLS));
        self.kv * kept + self.state
    }
}

impl Needs {
    /// The needs of the file that a plan makes.
    pub fn of(plan: &Plan) -> Self {
        Self::of_choices(&plan.model, &plan.choices, plan.file_bytes())
    }

    /// The needs of a file of so many bytes with these types, in the model's order.
    pub fn of_choices(model: &Model, choices: &[Choice], file: u64) -> Self {
        let description = model.description.as_ref();
        let alike = LayerBytes { kv: 2 * u64::from(model.kv_per_token), ..LayerBytes::default() };
        let mut layers = vec![alike; model.layers as usize];
        let described = description.into_iter().flat_map(|model| model.caches());
        for (layer, (kv, window)) in layers.iter_mut().zip(described) {
            (layer.kv, layer.window) = (2 * u64::from(kv), window.map(u64::from));
        }
        let blocks = description.into_iter().flat_map(Description::blocks);
        for (layer, block) in layers.iter_mut().zip(blocks) {
            layer.state = 4 * block.attention.state();
        }
        let (mut embedding, mut head) = (0, 0);
        for (tensor, choice) in model.tensors.iter().zip(choices) {
            let bytes = choice.format.row_bytes(tensor.columns()) * (tensor.weights() / tensor.columns());
            let layer = tensor.layer.and_then(|layer| layers.get_mut(layer as usize));
            *match (tensor.role, layer) {
                (Role::Embedding, _) => &mut embedding,
                (Role::Experts, Some(layer)) => &mut layer.experts,
                (_, Some(layer)) => &mut layer.always,
                (_, None) => &mut head,
            } += bytes;
        }
        let vocabulary = model.tensors.iter().find(|tensor| tensor.role == Role::Embedding);
        let logits = vocabulary.map_or(0, TensorPlan::rows);
        Self {
            file,
            embedding,
            head,
            layers,
            experts: model.experts.map(u64::from),
            longest_context: model.longest_context(),
            activations: description.map_or(logits, |model| model.scratch_per_token()),
        }
    }

    /// Bytes that every token reads: all but routed experts and embedding.
    pub fn always(&self) -> u64 {
        self.head + self.layers.iter().map(|layer| layer.always).sum::<u64>()
    }

    /// Bytes of all routed experts.
    pub fn all_experts(&self) -> u64 {
        self.layers.iter().map(|layer| layer.experts).sum()
    }

    /// The bytes that one token reads, of so many bytes of experts.
    pub fn used(&self, experts: u64) -> u64 {
        match self.experts {
            [0, _] => 0,
            [count, used] => (u128::from(experts) * u128::from(used) / u128::from(count)) as u64,
        }
    }

    /// Bytes that a token adds to the KV cache, all layers.
    pub fn kv_per_token(&self) -> u64 {
        self.layers.iter().map(|layer| layer.kv).sum()
    }

    /// Bytes of the KV cache for a context.
    pub fn cache(&self, context: u64) -> u64 {
        self.layers.iter().map(|layer| layer.cache(context)).sum()
    }

    /// Bytes of llama.cpp's compute buffers for a context, with flash attention: activations in F32 and the mask in F32
    /// and F16.
    pub fn compute(&self, context: u64) -> u64 {
        UBATCH * (4 * self.activations + 6 * context)
    }
}
