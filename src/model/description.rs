//! What a model is: plain data, made by its family from config.json or read back from GGUF metadata. What a forward
//! pass computes, which tensors there are and what the metadata say follows from it.

use super::layer::{Attention, Experts, FFN_NORM, Ffn, Rope, Streams};
use super::part::Half;
use super::spec::{Source, Spec};
use super::tensor::Role;
use crate::error::Error;

/// A whole model: its sizes, position encoding and layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// GGUF's name of the architecture.
    pub arch: &'static str,
    /// Token ids.
    pub vocabulary: u32,
    /// Numbers of a hidden state.
    pub hidden: u32,
    /// Tokens of the longest text that the model was made for.
    pub context: u32,
    /// The epsilon of the norms, added to the mean square.
    pub eps: f32,
    /// Width of the FFN of dense layers; metadata have it where no layer is dense, too.
    pub ffn_width: u32,
    /// GGUF name, within a layer, of the gains of the norm before the FFN.
    pub ffn_norm: &'static str,
    /// Position encoding.
    pub rope: Rope,
    /// Whether the embedding is the head as well.
    pub tied: bool,
    /// The experts of the layers that have some: all have the same, but for the bias of the router, which is said
    /// there. Metadata have their sizes even where no layer has experts.
    pub experts: Option<Experts>,
    /// The layers in order.
    pub layers: Vec<Layer>,
    /// Layers for multi-token prediction, which come after the others and which a plain forward pass leaves out.
    pub mtp: Vec<Layer>,
    /// The token that begins a text, if texts begin with one.
    pub bos: Option<u32>,
    /// Streams of hidden states, if there is more than one.
    pub streams: Option<Streams>,
}

/// One layer: attention and FFN, each added to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Attention.
    pub attention: Attention,
    /// The FFN.
    pub ffn: Ffn,
}

/// GGUF name of the embedding.
pub const EMBEDDING: &str = "token_embd.weight";
/// GGUF name of the final norm's gains.
pub const FINAL_NORM: &str = "output_norm.weight";
/// GGUF name of the head.
pub const HEAD: &str = "output.weight";
/// GGUF name of what the frequencies of rotations are divided by.
pub const ROPE_DIVISORS: &str = "rope_freqs.weight";

impl Description {
    /// Every layer that a file may hold, those for multi-token prediction last.
    pub fn blocks(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().chain(&self.mtp)
    }

    /// Every tensor in the order in which a forward pass uses them, with its layer: first what is outside of the
    /// layers.
    pub fn specs(&self) -> impl Iterator<Item = (Option<u32>, Spec)> + '_ {
        let layers = (0..).zip(self.blocks()).flat_map(move |(number, layer)| {
            let mut specs = layer.attention.specs(self.hidden, &self.rope);
            let ffn = layer.ffn.specs(self.hidden).into_iter();
            specs.extend(ffn.map(|spec| spec.with_norm(FFN_NORM, self.ffn_norm)));
            if let Some(streams) = self.streams {
                for (name, half) in [("attn", Half::Attention), ("ffn", Half::Ffn)] {
                    specs.extend(streams.specs(name, self.hidden).map(|spec| spec.half(half)));
                }
            }
            if number as usize >= self.layers.len() {
                specs.extend(self.prediction());
            }
            specs.into_iter().map(move |spec| (Some(number), spec))
        });
        self.outside().into_iter().map(|spec| (None, spec)).chain(layers)
    }

    /// Embedding, final norm, head, and divisors of frequencies.
    fn outside(&self) -> Vec<Spec> {
        let table = [self.vocabulary, self.hidden];
        let mut specs = vec![
            Spec::matrix(EMBEDDING, Role::Embedding, "model.embed_tokens.weight", table),
            Spec::vector(FINAL_NORM, "model.norm.weight", self.hidden),
        ];
        if !self.tied {
            let head = Spec::matrix(HEAD, Role::Output, "lm_head.weight", table);
            specs.push(head.reads_stream(FINAL_NORM));
        }
        if let Some(streams) = self.streams {
            specs.extend(streams.outside(self.hidden));
        }
        if self.rope.divided {
            let divisors = Spec::vector(ROPE_DIVISORS, "", self.rope.columns / 2);
            specs.push(Spec { source: Source::Computed, ..divisors });
        }
        specs
    }

    /// The tensors that a layer for multi-token prediction has beside those of an ordinary one.
    fn prediction(&self) -> [Spec; 6] {
        let norm = |name: &str, source: &str| Spec::vector(name, source, self.hidden);
        let table = [self.vocabulary, self.hidden];
        [
            norm("nextn.enorm.weight", "enorm.weight"),
            norm("nextn.hnorm.weight", "hnorm.weight"),
            norm("nextn.shared_head_norm.weight", "shared_head.norm.weight"),
            Spec::matrix("nextn.eh_proj.weight", Role::Mtp, "eh_proj.weight", [self.hidden, 2 * self.hidden]),
            // Copies of embedding and head, which some checkpoints leave out.
            Spec::matrix("nextn.embed_tokens.weight", Role::Embedding, "embed_tokens.weight", table)
                .optional(),
            Spec::matrix("nextn.shared_head_head.weight", Role::Output, "shared_head.head.weight", table)
                .optional(),
        ]
    }

    /// Whether a forward pass computes all of it here.
    pub fn is_computed(&self) -> bool {
        self.layers.iter().all(|layer| layer.attention.is_computed())
    }

    /// The error about a forward pass that there is not.
    pub fn no_forward(&self) -> Error {
        no_forward(self.arch)
    }

    /// The first layers, which have no experts.
    pub fn dense_layers(&self) -> u32 {
        self.layers.iter().take_while(|layer| matches!(layer.ffn, Ffn::Dense { .. })).count() as u32
    }

    /// Numbers that a token adds to the KV cache in the layer that keeps most.
    pub fn cache_per_token(&self) -> u32 {
        let cache = self.blocks().map(|layer| layer.attention.cache_per_token(&self.rope));
        cache.max().unwrap_or(0)
    }

    /// Of each layer the numbers that a token adds to the KV cache, and the window of its attention.
    pub fn caches(&self) -> impl Iterator<Item = (u32, Option<u32>)> + '_ {
        self.blocks().map(|layer| (layer.attention.cache_per_token(&self.rope), layer.attention.window()))
    }

    /// Numbers of the largest buffers that llama.cpp needs for a token that it computes: of attention, or the logits.
    pub fn scratch_per_token(&self) -> u64 {
        let scratch =
            self.layers.iter().map(|layer| layer.attention.scratch_per_token(self.hidden, &self.rope));
        scratch.max().unwrap_or(0).max(self.vocabulary.into())
    }

    /// Tokens of the longest text that is computed here, if there is a bound: beyond it attention chooses among them.
    pub fn dense_length(&self) -> Option<u32> {
        self.layers.iter().filter_map(|layer| layer.attention.dense_length()).min()
    }

    /// The description without what a forward pass does not depend on, and with defaults spelled out: two models for
    /// which this is equal compute the same.
    pub fn computed(&self) -> Self {
        let mut computed =
            Self { tied: false, mtp: Vec::new(), experts: None, rope: self.rope.explicit(), ..self.clone() };
        for layer in &mut computed.layers {
            if let Ffn::Experts(experts) = &mut layer.ffn {
                experts.router.groups = experts.router.groups.filter(|groups| groups.count > 1);
            }
        }
        computed
    }
}

/// The error about a forward pass that there is not.
pub fn no_forward(arch: &str) -> Error {
    Error::Unsupported(format!("there is no forward pass for the architecture \"{arch}\""))
}

/// The name of a tensor in a layer.
pub fn in_layer(layer: usize, tensor: &str) -> String {
    format!("blk.{layer}.{tensor}")
}
