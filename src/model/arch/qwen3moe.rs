//! `qwen3moe`: Qwen3-30B-A3B, 235B-A22B, Coder. Grouped attention with normalised queries and keys; every layer has
//! routed experts, and none is shared.

use super::fields::{
    Field, GENERAL,
    Treatment::{Ignored, Only, Read},
    check,
};
use super::{Described, Family, StoredExperts, rope};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::keys::{MAX_EXPERTS, MAX_HEAD, MAX_HEADS, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH};
use crate::model::keys::{Reader, Writer};
use crate::model::layer::{
    Attention, Experts, FFN_NORM, Ffn, Form, Gating, Grouped, Pairing, QkNorm, Rope, Router,
};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "qwen3moe",
    architectures: &["Qwen3MoeForCausalLM"],
    stored: Pairing::Halves,
    names: &[],
    experts: StoredExperts::Each,
    describe,
    write,
    read,
};

const FIELDS: &[Field] = &[
    ("hidden_size", Read),
    ("num_hidden_layers", Read),
    ("num_attention_heads", Read),
    ("num_key_value_heads", Read),
    ("head_dim", Read),
    ("intermediate_size", Read),
    ("moe_intermediate_size", Read),
    ("num_experts", Read),
    // What transformers 5 writes instead.
    ("num_local_experts", Read),
    ("num_experts_per_tok", Read),
    ("max_position_embeddings", Read),
    ("rms_norm_eps", Read),
    ("rope_theta", Read),
    ("rope_scaling", Read),
    ("rope_parameters", Read),
    ("hidden_act", Only("\"silu\"")),
    ("attention_bias", Only("false")),
    // llama.cpp always divides by the sum, and wants experts in every layer.
    ("norm_topk_prob", Only("true")),
    ("decoder_sparse_step", Only("1")),
    ("mlp_only_layers", Only("[]")),
    ("use_sliding_window", Only("false")),
    ("sliding_window", Ignored("use_sliding_window is false")),
    ("max_window_layers", Ignored("use_sliding_window is false")),
    ("router_aux_loss_coef", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
];

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let mut warnings = check(config, &[FIELDS, GENERAL])?;
    warnings.extend(rope::warnings(config, &[])?);
    if options.keep_mtp {
        let problem = "--keep-mtp: qwen3moe has no layers for multi-token prediction";
        return Err(Error::Argument(problem.into()));
    }
    // The class's default is not what GGUF means.
    if !config.has("norm_topk_prob") {
        let problem = "is missing, which means false; only true has a GGUF form";
        return Err(Error::Unsupported(config.says("norm_topk_prob", problem)));
    }
    let hidden = config.count("hidden_size", MAX_WIDTH)?;
    let heads = config.count("num_attention_heads", MAX_HEADS)?;
    let kv_heads = config.count("num_key_value_heads", heads)?;
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("is {kv_heads}, which does not divide {heads} heads");
        return Err(config.fault("num_key_value_heads", problem));
    }
    let width = config.find_count("head_dim", MAX_HEAD)?.unwrap_or(hidden / heads);
    let field = if config.has("num_experts") { "num_experts" } else { "num_local_experts" };
    let count = config.count(field, MAX_EXPERTS)?;
    let used = config.count("num_experts_per_tok", count)?;
    let experts = experts(count, used, config.count("moe_intermediate_size", MAX_WIDTH)?, 1.0);
    let (theta, yarn) = rope::read(config)?;
    let layers = config.count("num_hidden_layers", MAX_LAYERS)?;
    let model = Description {
        arch: FAMILY.arch,
        vocabulary: config.count("vocab_size", MAX_VOCABULARY)?,
        hidden,
        context: config.count("max_position_embeddings", u32::MAX)?,
        eps: config.positive("rms_norm_eps")?,
        ffn_width: config.count("intermediate_size", MAX_WIDTH)?,
        rope: Rope { columns: width, theta, pairing: Pairing::Halves, yarn, divided: false },
        ffn_norm: FFN_NORM,
        tied: config.find("tie_word_embeddings")?.unwrap_or(false),
        layers: (0..layers).map(|_| layer(&attention(heads, kv_heads, width), &experts)).collect(),
        experts: Some(experts),
        mtp: Vec::new(),
        bos: None,
    };
    Ok(Described { model, left_out: 0..0, warnings, rope_divisors: Vec::new() })
}

fn layer(attention: &Grouped, experts: &Experts) -> Layer {
    Layer { attention: Attention::Grouped(attention.clone()), ffn: Ffn::Experts(experts.clone()) }
}

fn attention(heads: u32, kv_heads: u32, width: u32) -> Grouped {
    let qk_norm = Some(QkNorm::Head);
    Grouped {
        heads,
        kv_heads,
        width,
        qk_norm,
        biases: false,
        output_bias: false,
        window: None,
        sinks: false,
        rotated: true,
    }
}

fn experts(count: u32, used: u32, width: u32, scale: f32) -> Experts {
    let gating = Gating::Softmax;
    let router = Router { used, groups: None, gating, normalised: true, scale, bias: false };
    Experts { count, width, router, shared: None, form: Form::default() }
}

fn write(model: &Description, keys: &mut Writer) {
    keys.general(model);
    if let Some(Layer { attention: Attention::Grouped(grouped), .. }) = model.layers.first() {
        keys.grouped(grouped, model.eps);
    }
    if let Some(experts) = &model.experts {
        keys.count("expert_count", experts.count);
        keys.count("expert_used_count", experts.router.used);
        keys.count("expert_feed_forward_length", experts.width);
    }
    keys.rope(&model.rope);
}

fn read(keys: &Reader) -> Result<Description> {
    let found = keys.experts("expert_feed_forward_length", Gating::Softmax, true)?;
    let experts = experts(found.count, found.router.used, found.width, found.router.scale);
    let [heads, kv_heads, width] = keys.grouped()?;
    let attention = attention(heads, kv_heads, width);
    let columns = keys.rope_columns(width)?;
    keys.general(keys.rope(columns, Pairing::Halves)?, Some(experts.clone()), |_| layer(&attention, &experts))
}
