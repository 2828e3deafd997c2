//! `glm4moe`: GLM-4.5, 4.5-Air, 4.6, 4.7. Half of each head is rotated; experts as DeepSeek's, the first layers dense.

use super::fields::{
    Field, GENERAL,
    Treatment::{Ignored, Only, Read},
    check,
};
use super::grouped::{self, DENSE, Defaults, Sizes, plain, rotated};
use super::{Described, Family, Prediction, StoredExperts, rope};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::model::keys::{MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, Reader, Writer};
use crate::model::layer::{
    Attention, Experts, Ffn, Form, Gating, Grouped, Groups, POST_ATTENTION_NORM, Pairing, QkNorm, Rope,
    Router, Shared,
};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "glm4moe",
    architectures: &["Glm4MoeForCausalLM"],
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
    ("attention_bias", Read),
    ("use_qk_norm", Read),
    ("partial_rotary_factor", Read),
    ("moe_intermediate_size", Read),
    ("n_routed_experts", Read),
    // What transformers 5 writes besides.
    ("num_local_experts", Ignored("n_routed_experts counts")),
    ("num_experts_per_tok", Read),
    ("n_shared_experts", Read),
    ("n_group", Read),
    ("topk_group", Read),
    ("norm_topk_prob", Read),
    ("routed_scaling_factor", Read),
    ("first_k_dense_replace", Read),
    ("num_nextn_predict_layers", Read),
    ("scoring_func", Only("\"sigmoid\"")),
    ("topk_method", Only("\"noaux_tc\"")),
    ("router_aux_loss_coef", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
];

const ROPE: &[Field] = &[("partial_rotary_factor", Read)];

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let mut warnings = check(config, &[FIELDS, DENSE, GENERAL])?;
    warnings.extend(rope::warnings(config, &[ROPE, grouped::ROPE].concat())?);
    let sizes = Sizes::read(config, &Defaults { kv_heads: Some(8), width: None, eps: 1e-5 })?;
    let columns = rotated(config, sizes.width, 0.5)?;
    let (theta, yarn) = rope::read_or(config, 10000.0)?;
    let rope = Rope { yarn, ..Rope::new(columns, theta, Pairing::Halves) };
    let flag = |field: &str| Ok::<_, Error>(config.find::<bool>(field)?.unwrap_or(false));
    let attention = Grouped {
        biases: flag("attention_bias")?,
        qk_norm: flag("use_qk_norm")?.then_some(QkNorm::Head),
        ..sizes.attention()
    };
    let dense: u32 = config.find("first_k_dense_replace")?.unwrap_or(1);
    if dense > sizes.layers {
        let problem = format!("is {dense}, but there are {} layers", sizes.layers);
        return Err(config.fault("first_k_dense_replace", problem));
    }
    let mtp: u32 = config.find("num_nextn_predict_layers")?.unwrap_or(1);
    if mtp > MAX_LAYERS - sizes.layers {
        let problem = format!(
            "is {mtp}; with {} layers, at most {} fit llama.cpp",
            sizes.layers,
            MAX_LAYERS - sizes.layers
        );
        return Err(config.fault("num_nextn_predict_layers", problem));
    }
    if let Some(option) = options.asks_for_mtp().filter(|_| mtp == 0) {
        let problem = "config.json says that there are no layers for multi-token prediction";
        return Err(Error::Argument(format!("{option}: {problem}")));
    }
    let kept = if options.asks_for_mtp().is_some() { mtp } else { 0 };
    let experts = experts(config)?;
    let layer = |number: u32| layer(&attention, number < dense, sizes.ffn_width, &experts);
    let layers = sizes.layers;
    let model = Description {
        ffn_norm: POST_ATTENTION_NORM,
        experts: Some(experts.without_bias()),
        mtp: (layers..layers + kept).map(layer).collect(),
        ..sizes.model(FAMILY.arch, rope, layer)
    };
    Ok(Described { left_out: layers + kept..layers + mtp, ..Described::of(model, warnings) })
}

fn layer(attention: &Grouped, dense: bool, width: u32, experts: &Experts) -> Layer {
    let ffn = match dense {
        true => Ffn::Dense { width, biases: false },
        false => Ffn::Experts(experts.clone()),
    };
    Layer { attention: Attention::Grouped(attention.clone()), ffn }
}

fn experts(config: &Config) -> Result<Experts> {
    let count = config.find_count("n_routed_experts", MAX_EXPERTS)?.unwrap_or(128);
    let width = config.find_count("moe_intermediate_size", MAX_WIDTH)?.unwrap_or(1408);
    let shared = grouped::shared_experts(config)?.unwrap_or(1);
    let groups = config.find_count("n_group", count)?.unwrap_or(1);
    if !count.is_multiple_of(groups) {
        return Err(config.fault("n_group", format!("is {groups}, which does not divide {count} experts")));
    }
    let scale = "routed_scaling_factor";
    let router = Router {
        used: config.find_count("num_experts_per_tok", count)?.unwrap_or(8),
        groups: Some(Groups { count: groups, used: config.find_count("topk_group", groups)?.unwrap_or(1) }),
        gating: Gating::Sigmoid,
        normalised: config.find("norm_topk_prob")?.unwrap_or(true),
        scale: if config.has(scale) { config.positive(scale)? } else { 1.0 },
        bias: true,
    };
    let shared = Shared { count: shared, width: width * shared, gated: false };
    Ok(Experts { count, width, router, shared: Some(shared), form: Form::default(), by_id: None })
}

fn write(model: &Description, keys: &mut Writer) {
    grouped::write(model, keys);
    keys.count("rope.dimension_count", model.rope.columns);
    keys.count("leading_dense_block_count", model.dense_layers());
    if let Some(experts) = &model.experts {
        let router = &experts.router;
        keys.count("expert_count", experts.count);
        keys.count("expert_used_count", router.used);
        keys.count("expert_shared_count", experts.shared.as_ref().map_or(0, |shared| shared.count));
        keys.count("expert_feed_forward_length", experts.width);
        if let Some(Groups { count, used }) = router.groups {
            keys.count("expert_group_count", count);
            keys.count("expert_group_used_count", used);
        }
        keys.count("expert_gating_func", router.gating as u32);
        keys.number("expert_weights_scale", router.scale);
        keys.set("expert_weights_norm", Value::Bool(router.normalised));
    }
    if !model.mtp.is_empty() {
        keys.count("nextn_predict_layers", model.mtp.len() as u32);
    }
}

fn read(keys: &Reader) -> Result<Description> {
    keys.gating(Gating::Sigmoid, Some(Gating::Sigmoid))?;
    let found =
        keys.experts("expert_feed_forward_length", Gating::Sigmoid, keys.flag("expert_weights_norm"))?;
    let [heads, kv_heads, width] = keys.grouped()?;
    let ffn_width = keys.ffn_width()?;
    let dense = keys.find_count("leading_dense_block_count", MAX_LAYERS)?.unwrap_or(0);
    let layer = |number: u32| {
        let attention = Grouped {
            biases: keys.has(number, "attn_q.bias"),
            qk_norm: keys.has(number, "attn_q_norm.weight").then_some(QkNorm::Head),
            ..plain(heads, kv_heads, width)
        };
        let router = Router { bias: keys.has(number, "exp_probs_b.bias"), ..found.router };
        layer(&attention, number < dense, ffn_width, &Experts { router, ..found.clone() })
    };
    let rope = keys.rope(keys.rope_columns(width)?, Pairing::Halves)?;
    let model = keys.general(rope, Some(found.clone()), layer)?;
    Ok(Description { ffn_norm: POST_ATTENTION_NORM, ..model })
}
