//! `qwen2moe`: Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B. Routed experts whose weights are not normalised, and a shared one
//! behind a gate of its own.

use super::fields::{
    Field, GENERAL,
    Treatment::{Ignored, Only, Read},
    check,
};
use super::grouped::{self, DENSE, Defaults, QWEN, Sizes, full_attention, plain, without_mtp};
use super::{Described, Family, Prediction, StoredExperts, rope};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::keys::{MAX_WIDTH, Reader, Writer};
use crate::model::layer::{Attention, Experts, Ffn, Form, Gating, Grouped, Pairing, Rope, Router, Shared};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "qwen2moe",
    architectures: &["Qwen2MoeForCausalLM"],
    instead: &[],
    stored: Pairing::Halves,
    names: &[],
    experts: StoredExperts::Each,
    prediction: Prediction::Behind,
    less_one: false,
    describe,
    write,
    read,
};

const FIELDS: &[Field] = &[
    ("num_experts", Read),
    // What transformers 5 writes instead.
    ("num_local_experts", Read),
    ("num_experts_per_tok", Read),
    ("moe_intermediate_size", Read),
    ("shared_expert_intermediate_size", Read),
    // llama.cpp never divides by the sum, and wants experts in every layer and biases.
    ("norm_topk_prob", Only("false")),
    ("decoder_sparse_step", Only("1")),
    ("mlp_only_layers", Only("[]")),
    ("qkv_bias", Only("true")),
    // llama.cpp wants a head of its own.
    ("tie_word_embeddings", Only("false")),
    ("router_aux_loss_coef", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
];

const SHARED: &str = "expert_shared_feed_forward_length";

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let mut warnings = check(config, &[FIELDS, DENSE, QWEN, GENERAL])?;
    warnings.extend(rope::warnings(config, grouped::ROPE)?);
    without_mtp(options, FAMILY.arch)?;
    full_attention(config)?;
    let sizes = Sizes::read(config, &Defaults { kv_heads: Some(16), width: None, eps: 1e-6 })?;
    let (theta, yarn) = rope::read_or(config, 10000.0)?;
    let rope = Rope { yarn, ..Rope::new(sizes.width, theta, Pairing::Halves) };
    let count = grouped::expert_count(config, 60)?;
    let used = config.find_count("num_experts_per_tok", count)?.unwrap_or(4);
    let width = config.find_count("moe_intermediate_size", MAX_WIDTH)?.unwrap_or(1408);
    let shared = config.find_count("shared_expert_intermediate_size", MAX_WIDTH)?.unwrap_or(5632);
    let experts = experts([count, used, width, shared], 1.0);
    let layer = |_| layer(sizes.attention(), &experts);
    let model = Description { experts: Some(experts.clone()), ..sizes.model(FAMILY.arch, rope, layer) };
    Ok(Described::of(model, warnings))
}

fn layer(attention: Grouped, experts: &Experts) -> Layer {
    Layer {
        attention: Attention::Grouped(Grouped { biases: true, ..attention }),
        ffn: Ffn::Experts(experts.clone()),
    }
}

fn experts([count, used, width, shared]: [u32; 4], scale: f32) -> Experts {
    let gating = Gating::Softmax;
    let router = Router { used, groups: None, gating, normalised: false, scale, bias: false };
    Experts {
        count,
        width,
        router,
        shared: Some(Shared { count: 1, width: shared, gated: true }),
        form: Form::default(),
        by_id: None,
    }
}

fn write(model: &Description, keys: &mut Writer) {
    grouped::write(model, keys);
    if let Some(experts) = &model.experts {
        keys.routed(experts);
        keys.count(SHARED, experts.shared.as_ref().map_or(0, |shared| shared.width));
    }
}

fn read(keys: &Reader) -> Result<Description> {
    let found = keys.experts("expert_feed_forward_length", Gating::Softmax, false)?;
    let shared = keys.count(SHARED, MAX_WIDTH)?;
    let sizes = [found.count, found.router.used, found.width, shared];
    let experts = experts(sizes, found.router.scale);
    let [heads, kv_heads, width] = keys.grouped()?;
    let rope = keys.rope(keys.rope_columns(width)?, Pairing::Halves)?;
    keys.general(rope, Some(experts.clone()), |_| layer(plain(heads, kv_heads, width), &experts))
}
