//! `deepseek2`: DeepSeek V2, V2-Lite, V3, V3.1, R1, Moonlight, Kimi-K2. Latent attention (MLA), routed experts.

mod doubts;
mod fields;

use self::doubts::{doubts, stored_mtp};
use self::fields::{CLASSES, Class, FIELDS};
use super::builder::{Builder, Target};
use super::fields::{GENERAL, check};
use super::{Family, Model, Options, rope, sampling};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};
use crate::model::Role;
use crate::model::size_label::size_label;
use crate::model::tokenizer::Tokenizer;

pub const FAMILY: Family =
    Family { architectures: &[CLASSES[0].architecture, CLASSES[1].architecture], plan };

const ARCH: &str = "deepseek2";

// llama.cpp's own limits, and bounds that keep every product of shapes inside of u64.
const MAX_LAYERS: u32 = 512;
const MAX_EXPERTS: u32 = 1024;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_VOCABULARY: u32 = 1 << 20;

/// The shape of the model, from config.json.
struct Shape {
    vocabulary: u32,
    hidden: u32,
    layers: u32,
    /// Layers for multi-token prediction: those in the checkpoint, and those that are kept.
    declared_mtp: u32,
    mtp_layers: u32,
    dense_layers: u32,
    dense_width: u32,
    heads: u32,
    /// None in V2-Lite and Moonlight, whose query has one full matrix.
    q_rank: Option<u32>,
    kv_rank: u32,
    nope: u32,
    rope: u32,
    value: u32,
    tied: bool,
    experts: Experts,
}

struct Experts {
    count: u32,
    used: u32,
    shared: u32,
    width: u32,
    /// 1 softmax, 2 sigmoid.
    gating: u32,
    groups: Option<[u32; 2]>,
    scale: f32,
    normalised: bool,
    /// The router adds a learnt bias when it selects (V3's "noaux_tc").
    biased: bool,
}

impl Shape {
    /// `stored_mtp` is what the checkpoint has of layers for multi-token prediction, if config.json does not say.
    fn read(
        config: &Config,
        class: &Class,
        keep_mtp: bool,
        stored_mtp: impl FnOnce(u32) -> u32,
    ) -> Result<Self> {
        let layers = config.count("num_hidden_layers", MAX_LAYERS)?;
        let dense_layers: u32 = config.get("first_k_dense_replace")?;
        if dense_layers > layers {
            let problem = format!("is {dense_layers}, but there are {layers} layers");
            return Err(config.fault("first_k_dense_replace", problem));
        }
        // One number, or as newer configurations have it, a flag for each layer.
        let every = config.value("moe_layer_freq").cloned().unwrap_or_else(|| 1.into());
        let flags = || (0..layers).map(|layer| u32::from(layer >= dense_layers)).collect::<Vec<_>>();
        if every != 1 && every != serde_json::Value::from(flags()) {
            let problem = format!(
                "is {every}; experts in every layer after the first dense ones, which is 1, have a GGUF form"
            );
            return Err(Error::Unsupported(config.says("moe_layer_freq", &problem)));
        }
        let activation: String = config.get("hidden_act")?;
        if activation != "silu" {
            let problem = format!("config.json: hidden_act is \"{activation}\"; llama.cpp computes silu");
            return Err(Error::Unsupported(problem));
        }
        let mtp: u32 = config.find("num_nextn_predict_layers")?.unwrap_or_else(|| stored_mtp(layers));
        if mtp > MAX_LAYERS - layers {
            let problem =
                format!("is {mtp}; with {layers} layers, at most {} fit llama.cpp", MAX_LAYERS - layers);
            return Err(config.fault("num_nextn_predict_layers", problem));
        }
        if keep_mtp && mtp == 0 {
            let problem = "--keep-mtp: config.json says that there are no layers for multi-token prediction";
            return Err(Error::Argument(problem.into()));
        }
        Ok(Self {
            vocabulary: config.count("vocab_size", MAX_VOCABULARY)?,
            hidden: config.count("hidden_size", MAX_WIDTH)?,
            layers,
            declared_mtp: mtp,
            mtp_layers: if keep_mtp { mtp } else { 0 },
            dense_layers,
            dense_width: config.count("intermediate_size", MAX_WIDTH)?,
            heads: config.count("num_attention_heads", 1 << 12)?,
            q_rank: config.find_count("q_lora_rank", MAX_WIDTH)?,
            kv_rank: config.count("kv_lora_rank", MAX_WIDTH)?,
            nope: config.count("qk_nope_head_dim", 1 << 13)?,
            rope: config.count("qk_rope_head_dim", 1 << 13)?,
            value: config.count("v_head_dim", 1 << 13)?,
            tied: config.find("tie_word_embeddings")?.unwrap_or(false),
            experts: Experts::read(config, class)?,
        })
    }

    /// All layers that are written (block_count).
    fn blocks(&self) -> u32 {
        self.layers + self.mtp_layers
    }
}

impl Experts {
    fn read(config: &Config, class: &Class) -> Result<Self> {
        let count = config.count("n_routed_experts", MAX_EXPERTS)?;
        // llama.cpp can compute other ways of routing than the class; a file of one of them would be another model.
        let computes = |field: &str, found: String, known: &[&str]| match known.contains(&found.as_str()) {
            true => Ok(found),
            false => {
                let known = known.join(" or ");
                let problem =
                    format!("is \"{found}\"; {} computes {known}, whatever is said", class.architecture);
                Err(Error::Unsupported(config.says(field, &problem)))
            }
        };
        let scoring = config.find("scoring_func")?.unwrap_or_else(|| class.scoring.to_owned());
        let scoring = computes("scoring_func", scoring, &[class.scoring])?;
        let gating = if scoring == "softmax" { 1 } else { 2 };
        let method = config.find("topk_method")?.unwrap_or_else(|| class.methods[0].to_owned());
        let method = computes("topk_method", method, class.methods)?;
        let declared = config.find_count("n_group", count)?;
        let groups = match declared.or(class.groups.map(|[groups, _]| groups)) {
            // Nothing is asked of groups then.
            Some(groups) if groups > 1 && method == "greedy" => None,
            Some(groups) if !count.is_multiple_of(groups) => {
                return Err(config.fault(
                    "n_group",
                    match declared {
                        Some(_) => format!("is {groups}, which does not divide {count} experts"),
                        None => format!("is missing, and the class's {groups} do not divide {count} experts"),
                    },
                ));
            }
            Some(groups) => {
                let usual = class.groups.map(|[_, used]| used).filter(|used| *used <= groups);
                let used = config.find_count("topk_group", groups)?.or(usual);
                Some([groups, used.map_or_else(|| config.count("topk_group", groups), Ok)?])
            }
            None => None,
        };
        Ok(Self {
            count,
            used: config.count("num_experts_per_tok", count)?,
            shared: config.count("n_shared_experts", MAX_EXPERTS)?,
            width: config.count("moe_intermediate_size", MAX_WIDTH)?,
            gating,
            groups,
            scale: config.positive("routed_scaling_factor")?,
            normalised: config.find("norm_topk_prob")?.unwrap_or(class.normalised),
            biased: method == "noaux_tc",
        })
    }
}

fn plan(checkpoint: &Checkpoint, options: &Options) -> Result<Model> {
    let config = checkpoint.config();
    let architectures: Vec<String> = config.get("architectures")?;
    let class = CLASSES.iter().find(|class| architectures.iter().any(|name| name == class.architecture));
    let class = class.expect("the family is chosen by its architectures");
    let mut warnings = check(config, &[FIELDS, GENERAL])?;
    let shape = Shape::read(config, class, options.keep_mtp, |layers| stored_mtp(checkpoint, layers))?;
    warnings.extend(checkpoint.warnings().iter().cloned());
    warnings.extend(doubts(checkpoint, class, &shape)?);
    warnings.extend(rope::warnings(config)?);
    let mut builder = Builder::new(checkpoint);
    top(&mut builder, &shape)?;
    for layer in 0..shape.blocks() {
        attention(&mut builder, &shape, layer)?;
        if layer < shape.dense_layers {
            dense(&mut builder, &shape, layer)?;
        } else {
            experts(&mut builder, &shape, layer)?;
        }
        if layer >= shape.layers {
            multi_token_prediction(&mut builder, &shape, layer)?;
        }
    }
    let tensors = builder.finish(|name| {
        // Only the layers for multi-token prediction that config.json declares; any others are not to be lost.
        let mtp = shape.blocks()..shape.layers + shape.declared_mtp;
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
        layer.is_some_and(|layer: u32| mtp.contains(&layer)) || (shape.tied && name == "lm_head.weight")
    })?;

    let routed: u64 = tensors.iter().filter(|t| t.role == Role::Experts).map(|t| t.weights()).sum();
    let all: u64 = tensors.iter().map(|t| t.weights()).sum();
    let count = u64::from(shape.experts.count);
    let label = size_label(all - routed, routed / count, if routed > 0 { count } else { 0 });
    let tokenizer = Tokenizer::read(checkpoint, shape.vocabulary, options.pre.as_deref())?;
    warnings.extend(tokenizer.warnings());
    Ok(Model {
        arch: ARCH,
        metadata: metadata(checkpoint, &shape, options, label, tokenizer)?,
        tensors,
        layers: shape.blocks(),
        dense_layers: shape.dense_layers,
        experts: [shape.experts.count, shape.experts.used],
        kv_per_token: shape.kv_rank + shape.rope,
        warnings,
        left_out: checkpoint.left_out().to_vec(),
    })
}

/// Embedding, final norm, head.
fn top(builder: &mut Builder, shape: &Shape) -> Result<()> {
    let target = |name, role| Target { layer: None, name, role };
    let vocabulary = [shape.vocabulary, shape.hidden];
    let embedding = target("token_embd.weight", Role::Embedding);
    builder.matrix(embedding, "model.embed_tokens.weight".into(), vocabulary, None)?;
    builder.vector(target("output_norm.weight", Role::Norm), "model.norm.weight".into(), shape.hidden)?;
    if !shape.tied {
        let head = target("output.weight", Role::Output);
        builder.matrix(head, "lm_head.weight".into(), vocabulary, Some("model.norm.weight"))?;
    }
    Ok(())
}

/// Latent attention: low-rank query and key-value projections, with kv_b split by head into K and V.
fn attention(builder: &mut Builder, shape: &Shape, layer: u32) -> Result<()> {
    let source = |name: &str| format!("model.layers.{layer}.{name}.weight");
    let target = |name| Target { layer: Some(layer), name, role: Role::Attention };
    let norm = |name| Target { layer: Some(layer), name, role: Role::Norm };
    let input = source("input_layernorm");
    builder.vector(norm("attn_norm.weight"), input.clone(), shape.hidden)?;

    let query = shape.heads * (shape.nope + shape.rope);
    if let Some(rank) = shape.q_rank {
        let q_a = source("self_attn.q_a_proj");
        builder.matrix(target("attn_q_a.weight"), q_a, [rank, shape.hidden], Some(&input))?;
        let q_a_norm = source("self_attn.q_a_layernorm");
        builder.vector(norm("attn_q_a_norm.weight"), q_a_norm.clone(), rank)?;
        let q_b = source("self_attn.q_b_proj");
        builder.matrix(target("attn_q_b.weight"), q_b, [query, rank], Some(&q_a_norm))?;
    } else {
        let q = source("self_attn.q_proj");
        builder.matrix(target("attn_q.weight"), q, [query, shape.hidden], Some(&input))?;
    }

    let kv_a = source("self_attn.kv_a_proj_with_mqa");
    let kv_a_shape = [shape.kv_rank + shape.rope, shape.hidden];
    builder.matrix(target("attn_kv_a_mqa.weight"), kv_a, kv_a_shape, Some(&input))?;
    let kv_a_norm = source("self_attn.kv_a_layernorm");
    builder.vector(norm("attn_kv_a_norm.weight"), kv_a_norm.clone(), shape.kv_rank)?;

    // Each head has its K rows, then its V rows. K is stored transposed, since llama.cpp multiplies the query by it.
    let kv_b = source("self_attn.kv_b_proj");
    let per_head = u64::from(shape.nope + shape.value);
    let kv_b_shape = [shape.heads * (shape.nope + shape.value), shape.kv_rank];
    let heads = |from: u32, to: u32| {
        (0..u64::from(shape.heads))
            .map(|h| h * per_head + u64::from(from)..h * per_head + u64::from(to))
            .collect()
    };
    let keys = heads(0, shape.nope);
    builder.windows(target("attn_k_b.weight"), &kv_b, kv_b_shape, keys, true, None)?;
    let values = heads(shape.nope, shape.nope + shape.value);
    builder.windows(target("attn_v_b.weight"), &kv_b, kv_b_shape, values, false, Some(&kv_a_norm))?;

    let output = source("self_attn.o_proj");
    builder.matrix(target("attn_output.weight"), output, [shape.hidden, shape.heads * shape.value], None)
}

fn dense(builder: &mut Builder, shape: &Shape, layer: u32) -> Result<()> {
    ffn(builder, shape, layer, "mlp", "", shape.dense_width, Role::DenseFfn)
}

/// Router, routed experts and shared experts.
fn experts(builder: &mut Builder, shape: &Shape, layer: u32) -> Result<()> {
    let source = |name: &str| format!("model.layers.{layer}.mlp.{name}");
    let target = |name, role| Target { layer: Some(layer), name, role };
    let norm = format!("model.layers.{layer}.post_attention_layernorm.weight");
    let Experts { count, width, shared, .. } = shape.experts;

    let router = target("ffn_gate_inp.weight", Role::Router);
    builder.matrix(router, source("gate.weight"), [count, shape.hidden], Some(&norm))?;
    // llama.cpp loads a file without the bias in silence, so its presence is not left to luck.
    let bias = source("gate.e_score_correction_bias");
    if shape.experts.biased || builder.has(&bias) {
        builder.vector(target("exp_probs_b.bias", Role::Router), bias, count)?;
    }
    for (name, output, [rows, columns], norm) in [
        ("gate_proj", "ffn_gate_exps.weight", [width, shape.hidden], Some(&norm)),
        ("up_proj", "ffn_up_exps.weight", [width, shape.hidden], Some(&norm)),
        ("down_proj", "ffn_down_exps.weight", [shape.hidden, width], None),
    ] {
        let sources = (0..count).map(|e| source(&format!("experts.{e}.{name}.weight"))).collect();
        builder.stack(target(output, Role::Experts), sources, [rows, columns], norm.map(String::as_str))?;
    }
    ffn(builder, shape, layer, "mlp.shared_experts", "_shexp", width * shared, Role::SharedExperts)
}

/// gate, up and down of an always-active FFN; also the layer's FFN norm.
fn ffn(
    builder: &mut Builder,
    shape: &Shape,
    layer: u32,
    module: &str,
    suffix: &str,
    width: u32,
    role: Role,
) -> Result<()> {
    let source = |name: &str| format!("model.layers.{layer}.{name}.weight");
    let norm = source("post_attention_layernorm");
    let norm_target = Target { layer: Some(layer), name: "ffn_norm.weight", role: Role::Norm };
    builder.vector(norm_target, norm.clone(), shape.hidden)?;
    for (name, rows, columns, norm) in [
        ("gate", width, shape.hidden, Some(&norm)),
        ("up", width, shape.hidden, Some(&norm)),
        ("down", shape.hidden, width, None),
    ] {
        let target = Target { layer: Some(layer), name: &format!("ffn_{name}{suffix}.weight"), role };
        let matrix = source(&format!("{module}.{name}_proj"));
        builder.matrix(target, matrix, [rows, columns], norm.map(String::as_str))?;
    }
    Ok(())
}

/// What a layer for multi-token prediction has beside an ordinary one.
fn multi_token_prediction(builder: &mut Builder, shape: &Shape, layer: u32) -> Result<()> {
    let source = |name: &str| format!("model.layers.{layer}.{name}.weight");
    let target = |name, role| Target { layer: Some(layer), name, role };
    for (name, output) in [
        ("enorm", "nextn.enorm.weight"),
        ("hnorm", "nextn.hnorm.weight"),
        ("shared_head.norm", "nextn.shared_head_norm.weight"),
    ] {
        builder.vector(target(output, Role::Norm), source(name), shape.hidden)?;
    }
    let eh_proj = target("nextn.eh_proj.weight", Role::Mtp);
    builder.matrix(eh_proj, source("eh_proj"), [shape.hidden, 2 * shape.hidden], None)?;
    // Copies of embedding and head, which some checkpoints leave out.
    for (name, output, role) in [
        ("embed_tokens", "nextn.embed_tokens.weight", Role::Embedding),
        ("shared_head.head", "nextn.shared_head_head.weight", Role::Output),
    ] {
        if builder.has(&source(name)) {
            builder.matrix(target(output, role), source(name), [shape.vocabulary, shape.hidden], None)?;
        }
    }
    Ok(())
}

fn metadata(
    checkpoint: &Checkpoint,
    shape: &Shape,
    options: &Options,
    size_label: String,
    tokenizer: Tokenizer,
) -> Result<Metadata> {
    let config = checkpoint.config();
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", ARCH.into());
    metadata.set("general.type", "model".into());
    sampling::describe(checkpoint, &mut metadata)?;
    if let Some(name) = &options.name {
        metadata.set("general.name", name.as_str().into());
    }
    metadata.set("general.size_label", Value::String(size_label));

    let mut set = |key: &str, value| metadata.set(format!("{ARCH}.{key}"), value);
    let e = &shape.experts;
    set("block_count", Value::U32(shape.blocks()));
    set("context_length", Value::U32(config.count("max_position_embeddings", u32::MAX)?));
    set("embedding_length", Value::U32(shape.hidden));
    set("feed_forward_length", Value::U32(shape.dense_width));
    set("attention.head_count", Value::U32(shape.heads));
    // One latent head, shared by all.
    set("attention.head_count_kv", Value::U32(1));
    set("attention.layer_norm_rms_epsilon", Value::F32(config.positive("rms_norm_eps")?));
    set("attention.key_length", Value::U32(shape.kv_rank + shape.rope));
    set("attention.value_length", Value::U32(shape.kv_rank));
    set("attention.key_length_mla", Value::U32(shape.nope + shape.rope));
    set("attention.value_length_mla", Value::U32(shape.value));
    if let Some(rank) = shape.q_rank {
        set("attention.q_lora_rank", Value::U32(rank));
    }
    set("attention.kv_lora_rank", Value::U32(shape.kv_rank));
    set("vocab_size", Value::U32(shape.vocabulary));
    set("leading_dense_block_count", Value::U32(shape.dense_layers));
    set("expert_count", Value::U32(e.count));
    set("expert_used_count", Value::U32(e.used));
    set("expert_shared_count", Value::U32(e.shared));
    set("expert_feed_forward_length", Value::U32(e.width));
    if let Some([groups, used]) = e.groups {
        set("expert_group_count", Value::U32(groups));
        set("expert_group_used_count", Value::U32(used));
    }
    set("expert_gating_func", Value::U32(e.gating));
    set("expert_weights_scale", Value::F32(e.scale));
    if e.normalised {
        set("expert_weights_norm", Value::Bool(true));
    }
    if shape.mtp_layers > 0 {
        set("nextn_predict_layers", Value::U32(shape.mtp_layers));
    }
    set("rope.dimension_count", Value::U32(shape.rope));
    rope::describe(config, &mut set)?;
    tokenizer.describe(&mut metadata);
    Ok(metadata)
}
