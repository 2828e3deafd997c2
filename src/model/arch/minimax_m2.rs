//! `minimax-m2`: MiniMax-M2, M2.1, M2.5. Queries and keys are normalised over all heads at once and rotated in part;
//! every layer has routed experts, chosen by sigmoids and a bias.

use super::fields::{
    Field, GENERAL,
    Treatment::{Ignored, Only, Read},
    check,
};
use super::grouped::{self, DENSE, Defaults, Sizes, plain, rotated, without_mtp};
use super::{Described, Family, MIXTRAL, Prediction, StoredExperts, rope};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::keys::{MAX_EXPERTS, Reader, Writer};
use crate::model::layer::{Attention, Experts, Ffn, Form, Gating, Grouped, Pairing, QkNorm, Rope, Router};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "minimax-m2",
    architectures: &["MiniMaxM2ForCausalLM"],
    instead: &[],
    stored: Pairing::Halves,
    names: MIXTRAL,
    experts: StoredExperts::Each,
    prediction: Prediction::Behind,
    less_one: false,
    describe,
    write,
    read,
};

const FIELDS: &[Field] = &[
    ("head_dim", Read),
    ("rotary_dim", Read),
    ("partial_rotary_factor", Read),
    ("num_local_experts", Read),
    ("num_experts_per_tok", Read),
    ("scoring_func", Only("\"sigmoid\"")),
    ("use_routing_bias", Only("true")),
    ("use_qk_norm", Only("true")),
    ("qk_norm_type", Only("\"per_layer\"")),
    ("shared_intermediate_size", Only("0")),
    ("shared_moe_mode", Ignored("shared_intermediate_size is 0")),
    ("mlp_intermediate_size", Ignored("all layers have experts")),
    ("layernorm_full_attention_beta", Only("1")),
    ("layernorm_linear_attention_beta", Only("1")),
    ("layernorm_mlp_beta", Only("1")),
    // llama.cpp wants a head of its own.
    ("tie_word_embeddings", Only("false")),
    ("attn_type_list", Read),
    (
        "use_mtp",
        Ignored("the published checkpoints have no such layers, and others are not left out in silence"),
    ),
    ("num_mtp_modules", Ignored("as use_mtp")),
    ("mtp_transformer_layers", Ignored("as use_mtp")),
    ("router_aux_loss_coef", Ignored("of training")),
    ("router_jitter_noise", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
];

const ROPE: &[Field] = &[("partial_rotary_factor", Read)];

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let mut warnings = check(config, &[FIELDS, DENSE, GENERAL])?;
    warnings.extend(rope::warnings(config, &[ROPE, grouped::ROPE].concat())?);
    without_mtp(options, FAMILY.arch)?;
    // 1 is full attention, 0 the linear attention of its predecessor.
    let kinds: Vec<u32> = config.find("attn_type_list")?.unwrap_or_default();
    if let Some(kind) = kinds.iter().find(|kind| **kind != 1) {
        let problem = format!("has {kind}; only 1, full attention, has a GGUF form");
        return Err(crate::error::Error::Unsupported(config.says("attn_type_list", &problem)));
    }
    grouped::for_each_layer(config, "attn_type_list", kinds.len())?;
    let sizes = Sizes::read(config, &Defaults { kv_heads: Some(8), width: Some(128), eps: 1e-6 })?;
    let columns = rotated(config, sizes.width, 1.0)?;
    let (theta, yarn) = rope::read_or(config, 5e6)?;
    let rope = Rope { yarn, ..Rope::new(columns, theta, Pairing::Halves) };
    let count = config.find_count("num_local_experts", MAX_EXPERTS)?.unwrap_or(256);
    let used = config.find_count("num_experts_per_tok", count)?.unwrap_or(8);
    let experts = experts([count, used, sizes.ffn_width], 1.0);
    let layer = |_| layer(sizes.attention(), &experts);
    let model =
        Description { experts: Some(experts.without_bias()), ..sizes.model(FAMILY.arch, rope, layer) };
    Ok(Described::of(model, warnings))
}

fn layer(attention: Grouped, experts: &Experts) -> Layer {
    Layer {
        attention: Attention::Grouped(Grouped { qk_norm: Some(QkNorm::All), ..attention }),
        ffn: Ffn::Experts(experts.clone()),
    }
}

fn experts([count, used, width]: [u32; 3], scale: f32) -> Experts {
    let gating = Gating::Sigmoid;
    let router = Router { used, groups: None, gating, normalised: true, scale, bias: true };
    Experts { count, width, router, shared: None, form: Form::default(), by_id: None }
}

fn write(model: &Description, keys: &mut Writer) {
    grouped::write(model, keys);
    keys.count("rope.dimension_count", model.rope.columns);
    if let Some(experts) = &model.experts {
        keys.routed(experts);
        keys.count("expert_gating_func", experts.router.gating as u32);
    }
}

fn read(keys: &Reader) -> Result<Description> {
    keys.gating(Gating::Sigmoid, None)?;
    let found = keys.experts("expert_feed_forward_length", Gating::Sigmoid, true)?;
    let experts = experts([found.count, found.router.used, found.width], found.router.scale);
    let [heads, kv_heads, width] = keys.grouped()?;
    let rope = keys.rope(keys.rope_columns(width)?, Pairing::Halves)?;
    keys.general(rope, Some(experts.without_bias()), |_| layer(plain(heads, kv_heads, width), &experts))
}
