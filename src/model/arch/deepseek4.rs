//! `deepseek4`: DeepSeek V4. Files are made; no forward pass computes them here. Every layer has experts, which the first
//! layers choose by a token's id; hidden states are in several streams; keys and values of tokens far away are
//! compressed. Checkpoints have names of their own.

use super::fields::{
    Field, GENERAL, Treatment,
    Treatment::{Ignored, Only, Read, Refused},
    check,
};
use super::rope;
use super::{Described, Family, Prediction, StoredExperts, Without};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::model::description::no_forward;
use crate::model::keys::{
    MAX_EXPERTS, MAX_HEAD, MAX_HEADS, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH, Reader, Writer,
};
use crate::model::layer::{
    Activation, Attention, Compressed, Experts, FFN_NORM, Ffn, Form, Gating, Pairing, Rope, Router, Shared,
    Streams,
};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "deepseek4",
    architectures: &["DeepseekV4ForCausalLM"],
    instead: &[],
    stored: Pairing::Neighbours,
    names: &[&[
        ("model.layers.", "layers."),
        ("model.embed_tokens.", "embed."),
        ("model.norm.", "norm."),
        ("lm_head.", "head."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.", "attn."),
        ("mlp.gate.e_score_correction_bias", "ffn.gate.bias"),
        ("mlp.", "ffn."),
        ("gate_proj", "w1"),
        ("up_proj", "w3"),
        ("down_proj", "w2"),
    ]],
    experts: StoredExperts::Each,
    prediction: Prediction::Behind,
    less_one: false,
    describe,
    write,
    read,
};

const FIELDS: &[Field] = &[
    ("hidden_size", Read),
    ("num_hidden_layers", Read),
    ("num_attention_heads", Read),
    ("num_key_value_heads", Only("1")),
    ("head_dim", Read),
    ("qk_rope_head_dim", Read),
    ("q_lora_rank", Read),
    ("o_groups", Read),
    ("o_lora_rank", Read),
    ("sliding_window", Read),
    ("compress_ratios", Read),
    ("compress_rope_theta", Read),
    ("index_n_heads", Read),
    ("index_head_dim", Read),
    ("index_topk", Read),
    ("hc_mult", Read),
    ("hc_sinkhorn_iters", Read),
    ("hc_eps", Read),
    ("num_hash_layers", Read),
    ("n_routed_experts", Read),
    ("n_shared_experts", Read),
    ("num_experts_per_tok", Read),
    ("moe_intermediate_size", Read),
    ("norm_topk_prob", Read),
    ("routed_scaling_factor", Read),
    ("swiglu_limit", Read),
    ("max_position_embeddings", Read),
    ("rms_norm_eps", Read),
    ("rope_theta", Read),
    ("rope_scaling", Read),
    // As transformers 5 has it, with a part for compressed keys, which no published file has.
    ("rope_parameters", Refused),
    ("num_nextn_predict_layers", Ignored("these layers are left out")),
    ("expert_dtype", Ignored("tensors have their own types")),
    // llama.cpp computes no other.
    ("scoring_func", Only("\"sqrtsoftplus\"")),
    ("topk_method", Only("\"noaux_tc\"")),
    ("n_group", Only("1")),
    ("topk_group", Only("1")),
    ("hidden_act", Only("\"silu\"")),
    ("attention_bias", Only("false")),
    ("mlp_bias", Only("false")),
    ("tie_word_embeddings", Only("false")),
    ("aux_loss_alpha", Ignored("of training")),
    ("seq_aux", Ignored("of training")),
    ("router_aux_loss_coef", Ignored("of training")),
    ("router_jitter_noise", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
];

const IMAGES: Treatment = Ignored("of images");

/// Fields of those that see images.
const VISION: &[Field] = &[
    ("vision_n_layers", IMAGES),
    ("vision_dim", IMAGES),
    ("vision_n_heads", IMAGES),
    ("vision_inter_dim", IMAGES),
    ("vision_patch_size", IMAGES),
    ("vision_downsample_ratio", IMAGES),
    ("vision_rope_theta", IMAGES),
    ("vision_min_pixels", IMAGES),
    ("vision_max_n_token", IMAGES),
    ("vision_max_wh_ratio", IMAGES),
];

/// Why tensors are left out, by what their names have in common.
const LEFT_OUT: [(&str, &str); 4] = [
    ("mtp.", "of layers for multi-token prediction, which llama.cpp takes from a file of their own"),
    ("vision.", "sees images, and the file is of the text model alone"),
    ("aligner.", "sees images, and the file is of the text model alone"),
    ("image_", "sees images, and the file is of the text model alone"),
];

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let mut warnings = check(config, &[FIELDS, VISION, GENERAL])?;
    warnings.extend(rope::warnings(config, &[])?);
    if let Some(option) = options.asks_for_mtp() {
        let problem = "deepseek4 has its layers for multi-token prediction in a file of their own, which is not made here";
        return Err(Error::Argument(format!("{option}: {problem}")));
    }
    let layers = config.count("num_hidden_layers", MAX_LAYERS)?;
    let vocabulary = config.count("vocab_size", MAX_VOCABULARY)?;
    let heads = config.count("num_attention_heads", MAX_HEADS)?;
    let width = config.count("head_dim", MAX_HEAD)?;
    let columns = config.count("qk_rope_head_dim", width)?;
    let groups = config.count("o_groups", heads)?;
    if !heads.is_multiple_of(groups) {
        return Err(config.fault("o_groups", format!("is {groups}, which does not divide {heads} heads")));
    }
    let attention = Compressed {
        heads,
        width,
        q_rank: config.count("q_lora_rank", MAX_WIDTH)?,
        groups,
        rank: config.count("o_lora_rank", MAX_WIDTH)?,
        window: config.count("sliding_window", u32::MAX)?,
        ratio: 0,
        theta: config.positive("compress_rope_theta")?,
        indexer: [
            config.count("index_n_heads", MAX_HEADS)?,
            config.count("index_head_dim", MAX_HEAD)?,
            config.count("index_topk", u32::MAX)?,
        ],
    };
    let ratios = ratios(config, layers)?;
    let hashed = config.find_count("num_hash_layers", layers)?.unwrap_or(0);
    let experts = experts(config)?;
    let layer = |number: u32| {
        let by_id = (number < hashed).then_some(vocabulary);
        let router = Router { bias: by_id.is_none(), ..experts.router };
        Layer {
            attention: Attention::Compressed(Compressed {
                ratio: ratios[number as usize],
                ..attention.clone()
            }),
            ffn: Ffn::Experts(Experts { router, by_id, ..experts.clone() }),
        }
    };
    let (theta, yarn) = rope::read_or(config, 10000.0)?;
    let rope = Rope { yarn, ..Rope::new(columns, theta, Pairing::Neighbours) };
    let streams = Streams {
        count: config.count("hc_mult", 64)?,
        rounds: config.count("hc_sinkhorn_iters", u32::MAX)?,
        eps: config.positive("hc_eps")?,
    };
    let model = Description {
        arch: FAMILY.arch,
        vocabulary,
        hidden: config.count("hidden_size", MAX_WIDTH)?,
        context: config.count("max_position_embeddings", u32::MAX)?,
        eps: config.positive("rms_norm_eps")?,
        ffn_width: 0,
        ffn_norm: FFN_NORM,
        rope,
        tied: false,
        experts: Some(experts.clone()),
        layers: (0..layers).map(layer).collect(),
        mtp: Vec::new(),
        bos: None,
        streams: Some(streams),
    };
    let has = |part: &str| checkpoint.tensors().any(|tensor| tensor.name.contains(part));
    let others = LEFT_OUT.into_iter().filter(|(part, _)| has(part));
    let mut without: Vec<Without> =
        others.map(|(part, reason)| Without { part, layers: None, reason }).collect();
    let unused = Without {
        part: "ffn.gate.bias",
        layers: Some(0..hashed),
        reason: "of routers that are not asked: experts are chosen by a token's id",
    };
    // The bias for images is another.
    if checkpoint.tensors().any(|tensor| unused.is(&tensor.name) && !tensor.name.ends_with("_vl")) {
        without.push(Without { part: "ffn.gate.bias", ..unused });
    }
    Ok(Described { without, ..Described::of(model, warnings) })
}

/// Of each layer the tokens that become one; the layers for multi-token prediction follow in the list.
fn ratios(config: &Config, layers: u32) -> Result<Vec<u32>> {
    const FIELD: &str = "compress_ratios";
    let mut ratios: Vec<u32> = config.get(FIELD)?;
    if ratios.len() < layers as usize {
        let problem = format!("has {} numbers, but there are {layers} layers", ratios.len());
        return Err(config.fault(FIELD, problem));
    }
    ratios.truncate(layers as usize);
    match ratios.iter().find(|ratio| ![0, Compressed::CHOOSING, 128].contains(*ratio)) {
        None => Ok(ratios),
        Some(ratio) => {
            let problem = format!("has {ratio}; 0, {} and 128 have a GGUF form", Compressed::CHOOSING);
            Err(Error::Unsupported(config.says(FIELD, &problem)))
        }
    }
}

fn experts(config: &Config) -> Result<Experts> {
    let count = config.count("n_routed_experts", MAX_EXPERTS)?;
    let width = config.count("moe_intermediate_size", MAX_WIDTH)?;
    let shared = config.count("n_shared_experts", MAX_EXPERTS)?;
    let router = Router {
        used: config.count("num_experts_per_tok", count)?,
        groups: None,
        gating: Gating::RootOfSoftplus,
        normalised: config.find("norm_topk_prob")?.unwrap_or(true),
        scale: config.positive("routed_scaling_factor")?,
        bias: false,
    };
    let activation = Activation::Limited(config.positive("swiglu_limit")?);
    let shared = Some(Shared { count: shared, width: width * shared, gated: false });
    let form = Form { activation, ..Form::default() };
    Ok(Experts { count, width, router, shared, form, by_id: None })
}

fn write(model: &Description, keys: &mut Writer) {
    keys.blocks(model);
    keys.rope(&model.rope);
    keys.count("rope.dimension_count", model.rope.columns);
    let compressed = |layer: &Layer| match &layer.attention {
        Attention::Compressed(compressed) => Some(compressed.clone()),
        _ => None,
    };
    let layers: Vec<Compressed> = model.layers.iter().filter_map(compressed).collect();
    if let Some(attention) = layers.first() {
        keys.count("attention.head_count", attention.heads);
        keys.count("attention.head_count_kv", 1);
        keys.number("attention.layer_norm_rms_epsilon", model.eps);
        keys.count("attention.key_length", attention.width);
        keys.count("attention.value_length", attention.width);
        keys.count("attention.q_lora_rank", attention.q_rank);
        keys.count("attention.sliding_window", attention.window);
        keys.count("attention.output_group_count", attention.groups);
        keys.count("attention.output_lora_rank", attention.rank);
        keys.number("attention.compress_rope_freq_base", attention.theta);
        let [heads, width, chosen] = attention.indexer;
        keys.count("attention.indexer.head_count", heads);
        keys.count("attention.indexer.key_length", width);
        keys.count("attention.indexer.top_k", chosen);
    }
    let ratios = layers.iter().map(|attention| attention.ratio as i32).collect();
    keys.set("attention.compress_ratios", Value::I32s(ratios));
    if let Some(streams) = model.streams {
        keys.count("hyper_connection.count", streams.count);
        keys.count("hyper_connection.sinkhorn_iterations", streams.rounds);
        keys.number("hyper_connection.epsilon", streams.eps);
        keys.count("embedding_length_out", streams.count * model.hidden);
    }
    let is_hashed = |layer: &&Layer| matches!(&layer.ffn, Ffn::Experts(experts) if experts.by_id.is_some());
    keys.count("hash_layer_count", model.layers.iter().take_while(is_hashed).count() as u32);
    if let Some(experts) = &model.experts {
        keys.routed(experts);
        keys.count("expert_shared_count", experts.shared.as_ref().map_or(0, |shared| shared.count));
        keys.count("expert_gating_func", experts.router.gating as u32);
        keys.number("expert_weights_scale", experts.router.scale);
        keys.set("expert_weights_norm", Value::Bool(experts.router.normalised));
        if let Activation::Limited(limit) = experts.form.activation {
            for key in ["swiglu_clamp_exp", "swiglu_clamp_shexp"] {
                keys.set(key, Value::F32s(vec![limit; model.layers.len()]));
            }
        }
    }
}

/// Nothing computes a file of this architecture.
fn read(_: &Reader) -> Result<Description> {
    Err(no_forward(FAMILY.arch))
}
