//! Attention on one key and value for all heads, over a window and over what the tokens before it are compressed to
//! (DeepSeek V4). Of its mathematics nothing is here: files are made, and no forward pass computes them.
//!
//! ```text
//! q = W_q_b norm(W_q_a x)                        heads of `width` columns
//! kv = norm(W_kv x)                              one for all heads, of the tokens in the window
//! `ratio` tokens become one more key             by sums with learnt weights; of those 4 tokens long an indexer chooses some
//! output = W_o_b W_o_a o                         W_o_a for each group of heads by itself
//! ```

use super::ATTENTION_NORM;
use crate::model::spec::{Source, Spec};
use crate::model::tensor::Role;

/// Tokens that llama.cpp computes at once: so many more than a window has are kept.
const AT_ONCE: u64 = 512;

/// Why a matrix keeps the type that it has in the checkpoint.
pub const SMALL: &str = "a small matrix that mixes streams or chooses positions";

/// Sizes of compressed attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Compressed {
    /// Heads of queries.
    pub heads: u32,
    /// Columns of a query, and of the key and value.
    pub width: u32,
    /// Rank of the queries.
    pub q_rank: u32,
    /// Groups of heads whose outputs go through a matrix of their own.
    pub groups: u32,
    /// Rank of a group's output.
    pub rank: u32,
    /// Length of the window in tokens.
    pub window: u32,
    /// Tokens that become one key; 0 if none do.
    pub ratio: u32,
    /// Base of the rotations of compressed keys.
    pub theta: f32,
    /// Heads of the indexer, their columns, and the keys that it chooses.
    pub indexer: [u32; 3],
}

impl Compressed {
    /// The ratio of layers with an indexer.
    pub const CHOOSING: u32 = 4;

    /// The tensors of the attention, in the order of use.
    pub fn specs(&self, hidden: u32) -> Vec<Spec> {
        const Q_NORM: &str = "attn_q_a_norm.weight";
        let Self { heads, width, q_rank, groups, rank, ratio, .. } = *self;
        let matrix = |name: &str, from: &str, shape| {
            Spec::matrix(&format!("{name}.weight"), Role::Attention, &format!("{from}.weight"), shape)
        };
        let reading =
            |name: &str, from: &str, rows| matrix(name, from, [rows, hidden]).reads_stream(ATTENTION_NORM);
        let norm = |name: &str, from: &str, length| {
            Spec::vector(&format!("{name}.weight"), &format!("{from}.weight"), length)
        };
        let mut specs = vec![
            Spec::vector("attn_sinks.weight", "self_attn.attn_sink", heads),
            reading("attn_q_a", "self_attn.wq_a", q_rank),
            norm("attn_q_a_norm", "self_attn.q_norm", q_rank),
            matrix("attn_q_b", "self_attn.wq_b", [heads * width, q_rank]).reads_inner(Some(Q_NORM)),
            reading("attn_kv", "self_attn.wkv", width),
            norm("attn_kv_a_norm", "self_attn.kv_norm", width),
        ];
        let places = |name: &str, from: &str, columns| {
            let spec = Spec::matrix(&format!("{name}.weight"), Role::Norm, from, [ratio, columns]);
            spec.kept(SMALL)
        };
        // Of two kinds of sums there are two halves where neighbours overlap.
        let times = if ratio == Self::CHOOSING { 2 } else { 1 };
        if ratio > 0 {
            let from = |part: &str| format!("self_attn.compressor.{part}");
            specs.extend([
                places("attn_compressor_ape", &from("ape"), times * width),
                reading("attn_compressor_kv", &from("wkv"), times * width),
                reading("attn_compressor_gate", &from("wgate"), times * width),
                norm("attn_compressor_norm", &from("norm"), width),
            ]);
        }
        if ratio == Self::CHOOSING {
            let [heads, width, _] = self.indexer;
            let from = |part: &str| format!("self_attn.indexer.{part}");
            specs.extend([
                matrix("indexer.attn_q_b", &from("wq_b"), [heads * width, q_rank]).reads_inner(Some(Q_NORM)),
                reading("indexer.proj", &from("weights_proj"), heads).kept(SMALL),
                places("indexer_compressor_ape", &from("compressor.ape"), 2 * width),
                reading("indexer_compressor_kv", &from("compressor.wkv"), 2 * width).kept(SMALL),
                reading("indexer_compressor_gate", &from("compressor.wgate"), 2 * width).kept(SMALL),
                norm("indexer_compressor_norm", &from("compressor.norm"), width),
            ]);
        }
        let inner = heads * width / groups;
        specs.extend([
            matrix("attn_output_a", "self_attn.wo_a", [groups * rank, inner]).reads_inner(None),
            matrix("attn_output_b", "self_attn.wo_b", [hidden, groups * rank])
                .reads_inner(None)
                .writes_stream(),
        ]);
        specs
    }

    /// Numbers that a token adds to the cache of what is compressed, rounded up.
    pub fn cache_per_token(&self) -> u32 {
        let [_, indexer, _] = self.indexer;
        match self.ratio {
            0 => self.width,
            Self::CHOOSING => (self.width + indexer).div_ceil(Self::CHOOSING),
            ratio => self.width.div_ceil(ratio),
        }
    }

    /// Numbers in F32 that are kept beside that: the window, in 16 bits.
    pub fn state(&self) -> u64 {
        let kept = (u64::from(self.window) + AT_ONCE) * u64::from(self.width);
        if self.ratio == 0 { 0 } else { kept / 2 }
    }

    /// Tokens that it looks back, if nothing is compressed.
    pub fn window(&self) -> Option<u32> {
        (self.ratio == 0).then_some(self.window)
    }

    /// Numbers of llama.cpp's buffers for a token that it computes: queries and what the heads put out.
    pub fn scratch_per_token(&self, hidden: u32) -> u64 {
        2 * u64::from(self.heads) * u64::from(self.width) + u64::from(hidden)
    }

    /// Sizes by name, for messages.
    pub fn sizes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("heads", self.heads.to_string()),
            ("columns of a head", self.width.to_string()),
            ("tokens that become one", self.ratio.to_string()),
        ]
    }
}

/// Streams of hidden states, which every layer reads as one and writes to in its own proportions (hyper-connections).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Streams {
    /// How many there are.
    pub count: u32,
    /// Rounds in which the proportions are made to add up to one.
    pub rounds: u32,
    /// What keeps them from being zero.
    pub eps: f32,
}

impl Streams {
    /// The tensors of a half of a layer.
    pub fn specs(&self, half: &str, hidden: u32) -> [Spec; 3] {
        self.parts(&format!("hc_{half}"), &format!("hc_{half}"), hidden, (2 + self.count) * self.count, 3)
    }

    /// Those behind the last layer.
    pub fn outside(&self, hidden: u32) -> [Spec; 3] {
        self.parts("output_hc", "hc_head", hidden, self.count, 1)
    }

    fn parts(&self, name: &str, from: &str, hidden: u32, mixes: u32, scales: u32) -> [Spec; 3] {
        let full = |part: &str| (format!("{name}_{part}.weight"), format!("{from}_{part}"));
        let vector = |part: &str, length| Spec::vector(&full(part).0, &full(part).1, length);
        let (mixing, source) = full("fn");
        let mixing = Spec::matrix(&mixing, Role::Norm, &source, [mixes, self.count * hidden]);
        [mixing.kept(SMALL), vector("base", mixes), vector("scale", scales)]
    }
}

/// The table that says which experts a token goes to by its id.
pub fn by_id(ids: u32, used: u32) -> Spec {
    let table = Spec::matrix("ffn_gate_tid2eid.weight", Role::Router, "", [ids, used]);
    let source = Source::Integers("mlp.gate.tid2eid".to_owned());
    Spec { source, ..table.kept("whole numbers: the experts of each token id") }
}
