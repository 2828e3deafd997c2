//! `gpt-oss`: 20b and 120b. Sinks of attention, a sliding window in every other layer, biases everywhere, and an
//! activation of its own.

use super::fields::{
    Field, GENERAL,
    Treatment::{Ignored, Only, Read},
    check,
};
use super::grouped::{self, DENSE, Defaults, Sizes, plain, without_mtp};
use super::{Described, Family, Prediction, StoredExperts, rope};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::keys::{MAX_EXPERTS, Reader, Writer};
use crate::model::layer::{
    Activation, Attention, Experts, Ffn, Form, Gating, Grouped, POST_ATTENTION_NORM, Pairing, Rope, Router,
    Yarn,
};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "gpt-oss",
    architectures: &["GptOssForCausalLM"],
    instead: &[],
    stored: Pairing::Halves,
    names: &[&[("mlp.gate.", "mlp.router.")]],
    experts: StoredExperts::Interleaved,
    prediction: Prediction::Behind,
    less_one: false,
    describe,
    write,
    read,
};

const FIELDS: &[Field] = &[
    ("head_dim", Read),
    ("attention_bias", Only("true")),
    ("layer_types", Read),
    ("sliding_window", Read),
    ("num_local_experts", Read),
    ("num_experts_per_tok", Read),
    ("experts_per_token", Ignored("num_experts_per_tok counts")),
    ("initial_context_length", Ignored("rope_scaling has it")),
    ("swiglu_limit", Only("7")),
    ("swiglu_alpha", Only("1.702")),
    // llama.cpp wants a head of its own.
    ("tie_word_embeddings", Only("false")),
    ("router_aux_loss_coef", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
];

const ROPE: &[Field] = &[(
    "truncate",
    Ignored("llama.cpp rounds yarn's limits always; the difference is far below that of any type"),
)];

const FORM: Form = Form { biases: true, activation: Activation::Clamped };

const WINDOW: &str = "attention.sliding_window";

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let mut warnings = check(config, &[FIELDS, DENSE, GENERAL])?;
    warnings.extend(rope::warnings(config, &[ROPE, grouped::ROPE].concat())?);
    without_mtp(options, FAMILY.arch)?;
    let sizes = Sizes::read(config, &Defaults { kv_heads: Some(8), width: Some(64), eps: 1e-5 })?;
    let kinds: Vec<String> = config.find("layer_types")?.unwrap_or_default();
    let usual = |layer: usize| if layer.is_multiple_of(2) { "sliding_attention" } else { "full_attention" };
    if !kinds.is_empty() && kinds.len() != sizes.layers as usize {
        let problem = format!("has {} entries for {} layers", kinds.len(), sizes.layers);
        return Err(config.fault("layer_types", problem));
    }
    if let Some(layer) = (0..kinds.len()).find(|&layer| kinds[layer] != usual(layer)) {
        let problem = format!(
            "has \"{}\" for layer {layer}; only sliding_attention in even layers and full_attention in odd ones has a GGUF \
             form",
            kinds[layer]
        );
        return Err(Error::Unsupported(config.says("layer_types", &problem)));
    }
    let window = config.find_count("sliding_window", u32::MAX)?.unwrap_or(128);
    let (theta, mut yarn) = rope::read_or(config, 150_000.0)?;
    if !config.has("rope_parameters") && !config.has("rope_scaling") {
        // The class's own.
        yarn = Some(Yarn {
            factor: 32.0,
            original: 4096,
            beta_fast: None,
            beta_slow: None,
            log_multiplier: None,
            unused_factor: None,
        });
    }
    let rope = Rope { yarn, ..Rope::new(sizes.width, theta, Pairing::Halves) };
    let count = config.find_count("num_local_experts", MAX_EXPERTS)?.unwrap_or(128);
    let used = config.find_count("num_experts_per_tok", count)?.unwrap_or(4);
    let experts = experts([count, used, sizes.ffn_width], 1.0);
    let layer = |number| layer(sizes.attention(), window, number, &experts);
    let model = Description {
        ffn_norm: POST_ATTENTION_NORM,
        experts: Some(experts.clone()),
        ..sizes.model(FAMILY.arch, rope, layer)
    };
    Ok(Described::of(model, warnings))
}

fn layer(attention: Grouped, window: u32, number: u32, experts: &Experts) -> Layer {
    let window = number.is_multiple_of(2).then_some(window);
    let grouped = Grouped { biases: true, output_bias: true, sinks: true, window, ..attention };
    Layer { attention: Attention::Grouped(grouped), ffn: Ffn::Experts(experts.clone()) }
}

fn experts([count, used, width]: [u32; 3], scale: f32) -> Experts {
    let gating = Gating::SoftmaxOfChosen;
    let router = Router { used, groups: None, gating, normalised: false, scale, bias: false };
    Experts { count, width, router, shared: None, form: FORM, by_id: None }
}

fn write(model: &Description, keys: &mut Writer) {
    grouped::write(model, keys);
    if let Some(Layer { attention: Attention::Grouped(Grouped { window: Some(window), .. }), .. }) =
        model.layers.first()
    {
        keys.count(WINDOW, *window);
    }
    if let Some(experts) = &model.experts {
        keys.routed(experts);
    }
}

fn read(keys: &Reader) -> Result<Description> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    if keys.find_count(PATTERN, u32::MAX)?.is_some_and(|every| every != 2) {
        let problem = "the forward pass knows a window in every other layer";
        return Err(Error::Unsupported(format!("{}.{PATTERN} is not 2; {problem}", keys.arch)));
    }
    let window = keys.count(WINDOW, u32::MAX)?;
    let found = keys.experts("expert_feed_forward_length", Gating::SoftmaxOfChosen, false)?;
    let experts = experts([found.count, found.router.used, found.width], found.router.scale);
    let [heads, kv_heads, width] = keys.grouped()?;
    let layer = |number| layer(plain(heads, kv_heads, width), window, number, &experts);
    let rope = keys.rope(keys.rope_columns(width)?, Pairing::Halves)?;
    let model = keys.general(rope, Some(experts.clone()), layer)?;
    Ok(Description { ffn_norm: POST_ATTENTION_NORM, ..model })
}
