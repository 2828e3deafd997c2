//! `qwen35` and, with experts, `qwen35moe`: Qwen3.5, 3.6, 3.8. Three of four layers are gated delta nets; the others
//! attend to all tokens, and have a gate on what their heads put out.

use super::fields::{
    Field, GENERAL,
    Treatment::{Ignored, Only, Read},
    check,
};
use super::grouped::{self, DENSE, Defaults, Sizes, plain, rotated};
use super::{Described, Family, Prediction, StoredExperts, Without, rope, whole};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::model::keys::{MAX_EXPERTS, MAX_HEAD, MAX_HEADS, MAX_WIDTH, Reader, Writer};
use crate::model::layer::{
    Attention, Delta, Experts, Ffn, Form, Gating, Grouped, POST_ATTENTION_NORM, Pairing, QkNorm, Rope,
    Router, Shared,
};
use crate::model::{Description, Layer, Options};

/// The class of the dense models.
pub const TEXT: &str = "Qwen3_5ForCausalLM";
/// The class of those with experts.
pub const TEXT_WITH_EXPERTS: &str = "Qwen3_5MoeForCausalLM";

pub const FAMILY: Family = Family {
    arch: "qwen35",
    architectures: &[TEXT],
    instead: &[],
    stored: Pairing::Halves,
    names: &[],
    experts: StoredExperts::Each,
    prediction: Prediction::Apart(&[
        ("eh_proj.weight", "fc.weight"),
        ("enorm.weight", "pre_fc_norm_embedding.weight"),
        ("hnorm.weight", "pre_fc_norm_hidden.weight"),
        ("shared_head.norm.weight", "norm.weight"),
    ]),
    less_one: true,
    describe,
    write,
    read,
};

/// Those with experts in every layer.
pub const WITH_EXPERTS: Family = Family { arch: "qwen35moe", architectures: &[TEXT_WITH_EXPERTS], ..FAMILY };

const FIELDS: &[Field] = &[
    ("head_dim", Read),
    ("layer_types", Read),
    ("full_attention_interval", Read),
    ("linear_conv_kernel_dim", Read),
    ("linear_key_head_dim", Read),
    ("linear_value_head_dim", Read),
    ("linear_num_key_heads", Read),
    ("linear_num_value_heads", Read),
    ("partial_rotary_factor", Read),
    ("mtp_num_hidden_layers", Read),
    ("mtp_use_dedicated_embeddings", Only("false")),
    ("attn_output_gate", Only("true")),
    ("attention_bias", Only("false")),
    ("mlp_only_layers", Only("[]")),
    ("mamba_ssm_dtype", Ignored("tensors have their own types")),
];

const EXPERTS: &[Field] = &[
    ("num_experts", Read),
    // What transformers 5 writes instead.
    ("num_local_experts", Read),
    ("num_experts_per_tok", Read),
    ("moe_intermediate_size", Read),
    ("shared_expert_intermediate_size", Read),
    // The class divides by the sum whatever is said, and so does llama.cpp.
    ("norm_topk_prob", Only("true")),
    ("decoder_sparse_step", Only("1")),
    ("router_aux_loss_coef", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
];

const ROPE: &[Field] =
    &[("partial_rotary_factor", Read), ("mrope_section", Read), ("mrope_interleaved", Only("true"))];

/// Pairs of columns for the places of images where config.json says nothing, as llama.cpp's converter has them.
const SECTIONS: [u32; 4] = [11, 11, 10, 0];

const LINEAR: &str = "linear_attention";
const FULL: &str = "full_attention";

/// What the names of tensors for multi-token prediction have in common.
const MTP: &str = "mtp.";

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let is_sparse = whole::architectures(config)?.iter().any(|name| name == TEXT_WITH_EXPERTS);
    let own: &[Field] = if is_sparse { EXPERTS } else { &[] };
    let mut warnings = check(config, &[FIELDS, own, DENSE, GENERAL, whole::fields(config)])?;
    warnings.extend(rope::warnings(config, &[ROPE, grouped::ROPE].concat())?);
    let defaults = Defaults { kv_heads: Some(if is_sparse { 2 } else { 4 }), width: Some(256), eps: 1e-6 };
    let sizes = match is_sparse {
        true => Sizes::without_dense(config, &defaults)?,
        false => Sizes::read(config, &defaults)?,
    };
    let columns = rotated(config, sizes.width, 0.25)?;
    let (theta, yarn) = rope::read_or(config, 10000.0)?;
    let sections = Some(sections(config)?);
    let rope = Rope { yarn, sections, ..Rope::new(columns, theta, Pairing::Halves) };
    let attends = kinds(config, sizes.layers)?;
    let kept = predicting(checkpoint, options)?;
    let delta = delta(config)?;
    let experts = is_sparse.then(|| experts(config)).transpose()?;
    let ffn = ffn(experts.as_ref(), sizes.ffn_width);
    let layer = |full: bool| layer(full, &sizes.attention(), &delta, &ffn);
    let arch = if is_sparse { WITH_EXPERTS.arch } else { FAMILY.arch };
    let model = Description {
        ffn_norm: POST_ATTENTION_NORM,
        experts: experts.clone(),
        mtp: if kept { vec![layer(true)] } else { Vec::new() },
        ..sizes.model(arch, rope, |number| layer(attends[number as usize]))
    };
    let has_mtp = checkpoint.tensors().any(|tensor| tensor.name.contains(MTP));
    let reason = "of the layer for multi-token prediction, which --keep-mtp keeps";
    let without = (has_mtp && !kept).then_some(Without { part: MTP, layers: None, reason });
    Ok(Described { without: without.into_iter().collect(), ..Described::of(model, warnings) })
}

/// Pairs of columns for the places of images.
fn sections(config: &Config) -> Result<[u32; 4]> {
    const FIELD: &str = "mrope_section";
    let given = config.has("rope_parameters").then(|| config.object("rope_parameters")).transpose()?;
    let Some(place) = given.filter(|place| place.has(FIELD)) else { return Ok(SECTIONS) };
    let found: Vec<u32> = place.get(FIELD)?;
    if found.is_empty() || found.len() > SECTIONS.len() || found.iter().any(|pairs| *pairs > MAX_HEAD) {
        return Err(place.fault(FIELD, format!("is {found:?}; expected three small numbers")));
    }
    let mut sections = [0; 4];
    sections[..found.len()].copy_from_slice(&found);
    Ok(sections)
}

/// Of each layer whether it attends to all tokens.
fn kinds(config: &Config, layers: u32) -> Result<Vec<bool>> {
    const FIELD: &str = "layer_types";
    let given: Option<Vec<String>> = config.find(FIELD)?;
    let kinds: Vec<bool> = match &given {
        Some(kinds) => {
            if let Some(kind) = kinds.iter().find(|kind| ![LINEAR, FULL].contains(&kind.as_str())) {
                let problem = format!("has \"{kind}\"; known here are \"{LINEAR}\" and \"{FULL}\"");
                return Err(Error::Unsupported(config.says(FIELD, &problem)));
            }
            if kinds.len() != layers as usize {
                let problem = format!("names {} layers, but there are {layers}", kinds.len());
                return Err(config.fault(FIELD, problem));
            }
            kinds.iter().map(|kind| kind == FULL).collect()
        }
        None => {
            let every = config.find_count("full_attention_interval", u32::MAX)?.unwrap_or(4).max(1);
            (1..=layers).map(|number| number.is_multiple_of(every)).collect()
        }
    };
    // What metadata say of a kind is read off its first layer.
    if !(kinds.contains(&true) && kinds.contains(&false)) {
        let field = if given.is_some() { FIELD } else { "full_attention_interval" };
        let problem = "makes all layers of one kind; a file of this architecture has both";
        return Err(Error::Unsupported(config.says(field, problem)));
    }
    Ok(kinds)
}

/// Whether the layer for multi-token prediction is kept.
fn predicting(checkpoint: &Checkpoint, options: &Options) -> Result<bool> {
    const FIELD: &str = "mtp_num_hidden_layers";
    let Some(option) = options.asks_for_mtp() else { return Ok(false) };
    let config = checkpoint.config();
    match config.find::<u32>(FIELD)? {
        Some(0) => {
            let problem = "config.json says that there are no layers for multi-token prediction";
            Err(Error::Argument(format!("{option}: {problem}")))
        }
        Some(count) if count > 1 => {
            let problem = format!("is {count}; one layer for multi-token prediction has a GGUF form");
            Err(Error::Unsupported(config.says(FIELD, &problem)))
        }
        _ => Ok(true),
    }
}

fn delta(config: &Config) -> Result<Delta> {
    let count = |field: &str, most, usual| Ok::<_, Error>(config.find_count(field, most)?.unwrap_or(usual));
    let key_heads = count("linear_num_key_heads", MAX_HEADS, 16)?;
    let value_heads = count("linear_num_value_heads", MAX_HEADS, 32)?;
    if !value_heads.is_multiple_of(key_heads) {
        let problem = format!("is {value_heads}, of which {key_heads} heads of keys are no divisor");
        return Err(config.fault("linear_num_value_heads", problem));
    }
    let width = count("linear_key_head_dim", MAX_HEAD, 128)?;
    let value = count("linear_value_head_dim", MAX_HEAD, 128)?;
    if value != width {
        let problem = format!("is {value}, and keys have {width} columns; only the same has a GGUF form");
        return Err(Error::Unsupported(config.says("linear_value_head_dim", &problem)));
    }
    Ok(Delta { key_heads, value_heads, width, kernel: count("linear_conv_kernel_dim", 64, 4)? })
}

fn experts(config: &Config) -> Result<Experts> {
    let count = grouped::expert_count(config, 256)?;
    let used = config.find_count("num_experts_per_tok", count)?.unwrap_or(8);
    let width = config.find_count("moe_intermediate_size", MAX_WIDTH)?.unwrap_or(512);
    let shared = config.find_count("shared_expert_intermediate_size", MAX_WIDTH)?.unwrap_or(512);
    Ok(routed([count, used, width, shared], 1.0))
}

fn routed([count, used, width, shared]: [u32; 4], scale: f32) -> Experts {
    let gating = Gating::Softmax;
    let router = Router { used, groups: None, gating, normalised: true, scale, bias: false };
    let shared = Some(Shared { count: 1, width: shared, gated: true });
    Experts { count, width, router, shared, form: Form::default(), by_id: None }
}

fn ffn(experts: Option<&Experts>, width: u32) -> Ffn {
    match experts {
        Some(experts) => Ffn::Experts(experts.clone()),
        None => Ffn::Dense { width, biases: false },
    }
}

fn layer(full: bool, attention: &Grouped, delta: &Delta, ffn: &Ffn) -> Layer {
    let attention = match full {
        true => Attention::Grouped(Grouped { qk_norm: Some(QkNorm::Head), gated: true, ..attention.clone() }),
        false => Attention::Delta(delta.clone()),
    };
    Layer { attention, ffn: ffn.clone() }
}

const SHARED: &str = "expert_shared_feed_forward_length";
const RECURRENT: &str = "attention.recurrent_layers";
const INTERVAL: &str = "full_attention_interval";
const DIMENSIONS: &str = "rope.dimension_sections";

fn write(model: &Description, keys: &mut Writer) {
    keys.blocks(model);
    if model.ffn_width > 0 {
        keys.count("feed_forward_length", model.ffn_width);
    }
    let attention = || model.blocks().map(|layer| &layer.attention);
    for attention in attention() {
        if let Attention::Grouped(grouped) = attention {
            keys.grouped(grouped, model.eps);
            break;
        }
    }
    keys.rope(&model.rope);
    keys.count("rope.dimension_count", model.rope.columns);
    if let Some(sections) = model.rope.sections {
        keys.set(DIMENSIONS, Value::I32s(sections.map(|pairs| pairs as i32).to_vec()));
    }
    for attention in attention() {
        if let Attention::Delta(delta) = attention {
            keys.count("ssm.conv_kernel", delta.kernel);
            keys.count("ssm.state_size", delta.width);
            keys.count("ssm.group_count", delta.key_heads);
            keys.count("ssm.time_step_rank", delta.value_heads);
            keys.count("ssm.inner_size", delta.value_heads * delta.width);
            break;
        }
    }
    let recurrent: Vec<bool> = attention().map(|kind| matches!(kind, Attention::Delta(_))).collect();
    // Older llama.cpp reads this alone.
    keys.count(INTERVAL, recurrent.iter().take_while(|recurrent| **recurrent).count() as u32 + 1);
    keys.set(RECURRENT, Value::Bools(recurrent));
    if let Some(experts) = &model.experts {
        keys.routed(experts);
        keys.count(SHARED, experts.shared.as_ref().map_or(0, |shared| shared.width));
    }
    if !model.mtp.is_empty() {
        keys.count("nextn_predict_layers", model.mtp.len() as u32);
    }
}

fn read(keys: &Reader) -> Result<Description> {
    let [heads, kv_heads, width] = keys.grouped()?;
    let delta = Delta {
        key_heads: keys.count("ssm.group_count", MAX_HEADS)?,
        value_heads: keys.count("ssm.time_step_rank", MAX_HEADS)?,
        width: keys.count("ssm.state_size", MAX_HEAD)?,
        kernel: keys.count("ssm.conv_kernel", 64)?,
    };
    let values = keys.count("ssm.inner_size", u32::MAX)?;
    if !delta.value_heads.is_multiple_of(delta.key_heads) || values != delta.value_heads * delta.width {
        return Err((keys.fault)(format!(
            "{}.ssm.inner_size is {values}; {} heads of {} columns for {} heads of keys were expected",
            keys.arch, delta.value_heads, delta.width, delta.key_heads
        )));
    }
    let experts = match keys.find_count("expert_count", MAX_EXPERTS)?.unwrap_or(0) {
        0 => None,
        _ => {
            let found = keys.experts("expert_feed_forward_length", Gating::Softmax, true)?;
            let shared = keys.count(SHARED, MAX_WIDTH)?;
            Some(routed([found.count, found.router.used, found.width, shared], found.router.scale))
        }
    };
    let ffn = ffn(experts.as_ref(), keys.find_count("feed_forward_length", MAX_WIDTH)?.unwrap_or(0));
    let every = keys.find_count(INTERVAL, u32::MAX)?.unwrap_or(4).max(1);
    let recurrent = match (keys.value)(&format!("{}.{RECURRENT}", keys.arch)) {
        Some(Value::Bools(recurrent)) => Some(recurrent),
        _ => None,
    };
    let blocks = keys.count("block_count", u32::MAX)?;
    let mtp = keys.find_count("nextn_predict_layers", blocks)?.unwrap_or(0);
    let is_full = |number: u32| match &recurrent {
        Some(recurrent) => !recurrent.get(number as usize).copied().unwrap_or(false),
        None => number >= blocks - mtp || (number + 1).is_multiple_of(every),
    };
    let mut rope = keys.rope(keys.rope_columns(width)?, Pairing::Halves)?;
    if let Some(Value::I32s(pairs)) = (keys.value)(&format!("{}.{DIMENSIONS}", keys.arch)) {
        rope.sections = pairs
            .iter()
            .map(|pairs| u32::try_from(*pairs).ok())
            .collect::<Option<Vec<u32>>>()
            .and_then(|pairs| pairs.try_into().ok());
    }
    let attention = plain(heads, kv_heads, width);
    let layer = |number| layer(is_full(number), &attention, &delta, &ffn);
    let model = keys.general(rope, experts.clone(), layer)?;
    Ok(Description { ffn_norm: POST_ATTENTION_NORM, ..model })
}
