//! `qwen3moe`: Qwen3-30B-A3B, 235B-A22B, Coder. Grouped attention with normalised queries and keys; every layer has
//! routed experts, and none is shared.

use super::fields::{
    Field, GENERAL,
    Treatment::{Ignored, Only, Read},
    check,
};
use super::grouped::{self, DENSE, Defaults, QWEN, Sizes, full_attention, plain, without_mtp};
use super::{Described, Family, Prediction, StoredExperts, rope};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::keys::{MAX_WIDTH, Reader, Writer};
use crate::model::layer::{Attention, Experts, Ffn, Form, Gating, Grouped, Pairing, QkNorm, Rope, Router};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "qwen3moe",
    architectures: &["Qwen3MoeForCausalLM"],
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
    ("head_dim", Read),
    ("moe_intermediate_size", Read),
    ("num_experts", Read),
    // What transformers 5 writes instead.
    ("num_local_experts", Read),
    ("num_experts_per_tok", Read),
    ("attention_bias", Only("false")),
    // llama.cpp always divides by the sum, and wants experts in every layer.
    ("norm_topk_prob", Only("true")),
    ("decoder_sparse_step", Only("1")),
    ("mlp_only_layers", Only("[]")),
    ("router_aux_loss_coef", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
];

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let mut warnings = check(config, &[FIELDS, DENSE, QWEN, GENERAL])?;
    warnings.extend(rope::warnings(config, grouped::ROPE)?);
    without_mtp(options, FAMILY.arch)?;
    full_attention(config)?;
    // The class's default is not what GGUF means.
    if !config.has("norm_topk_prob") {
        let problem = "is missing, which means false; only true has a GGUF form";
        return Err(Error::Unsupported(config.says("norm_topk_prob", problem)));
    }
    let sizes = Sizes::read(config, &Defaults { kv_heads: Some(4), width: None, eps: 1e-6 })?;
    let (theta, yarn) = rope::read_or(config, 10000.0)?;
    let rope = Rope { yarn, ..Rope::new(sizes.width, theta, Pairing::Halves) };
    let count = grouped::expert_count(config, 128)?;
    let used = config.find_count("num_experts_per_tok", count)?.unwrap_or(8);
    let width = config.find_count("moe_intermediate_size", MAX_WIDTH)?.unwrap_or(768);
    let experts = experts([count, used, width], 1.0);
    let layer = |_| layer(sizes.attention(), &experts);
    let model = Description { experts: Some(experts.clone()), ..sizes.model(FAMILY.arch, rope, layer) };
    Ok(Described::of(model, warnings))
}

fn layer(attention: Grouped, experts: &Experts) -> Layer {
    Layer {
        attention: Attention::Grouped(Grouped { qk_norm: Some(QkNorm::Head), ..attention }),
        ffn: Ffn::Experts(experts.clone()),
    }
}

fn experts([count, used, width]: [u32; 3], scale: f32) -> Experts {
    let gating = Gating::Softmax;
    let router = Router { used, groups: None, gating, normalised: true, scale, bias: false };
    Experts { count, width, router, shared: None, form: Form::default(), by_id: None }
}

fn write(model: &Description, keys: &mut Writer) {
    keys.general(model);
    if let Some(Layer { attention: Attention::Grouped(grouped), .. }) = model.layers.first() {
        keys.grouped(grouped, model.eps);
    }
    if let Some(experts) = &model.experts {
        keys.routed(experts);
    }
    keys.rope(&model.rope);
}

fn read(keys: &Reader) -> Result<Description> {
    let found = keys.experts("expert_feed_forward_length", Gating::Softmax, true)?;
    let experts = experts([found.count, found.router.used, found.width], found.router.scale);
    let [heads, kv_heads, width] = keys.grouped()?;
    let rope = keys.rope(keys.rope_columns(width)?, Pairing::Halves)?;
    keys.general(rope, Some(experts.clone()), |_| layer(plain(heads, kv_heads, width), &experts))
}
