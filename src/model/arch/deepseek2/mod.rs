//! `deepseek2`: DeepSeek V2, V2-Lite, V3, V3.1, R1, Moonlight, Kimi-K2 to K2.7, GLM-4.7-Flash. Latent attention (MLA),
//! routed experts. `deepseek32` (V3.2) and `glm-dsa` (GLM-5) have an indexer besides, which chooses the tokens that
//! attention sees; without it they are `deepseek2`.

mod doubts;
mod fields;
mod indexer;

use self::doubts::{doubts, stored_mtp};
use self::fields::{CLASSES, Class, FIELDS, INDEXER, SHARED};
use super::fields::{GENERAL, check};
use super::grouped;
use super::rope::{self, Scaling};
use super::whole::{self, Names};
use super::{Described, Family, Prediction, StoredExperts, Without};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::model::keys::{MAX_EXPERTS, MAX_HEAD, MAX_HEADS, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH};
use crate::model::keys::{Reader, Writer};
use crate::model::layer::{
    Attention, Experts, FFN_NORM, Ffn, Form, Gating, Groups, Indexer, Latent, Pairing, Rope, Router, Shared,
};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "deepseek2",
    architectures: &[CLASSES[0].architecture, CLASSES[1].architecture, CLASSES[2].architecture],
    instead: &[],
    stored: Pairing::Neighbours,
    names: &[],
    experts: StoredExperts::Each,
    prediction: Prediction::Behind,
    less_one: false,
    describe,
    write,
    read,
};

/// DeepSeek V3.2.
pub const V32: Family = Family {
    arch: CLASSES[3].arch,
    architectures: &[CLASSES[3].architecture],
    instead: &[FAMILY.arch],
    ..FAMILY
};

/// GLM-5, 5.1, 5.2.
pub const GLM_DSA: Family = Family {
    arch: CLASSES[4].arch,
    architectures: &[CLASSES[4].architecture],
    instead: &[FAMILY.arch],
    ..FAMILY
};

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let architectures = whole::architectures(config)?;
    let class = CLASSES.iter().find(|class| architectures.iter().any(|name| name == class.architecture));
    let class = class.expect("the family is chosen by its architectures");
    let own: &[_] = match &class.indexer {
        Some(indexer) if indexer.shared => &[INDEXER, SHARED],
        Some(_) => &[INDEXER],
        None => &[],
    };
    let mut warnings = check(config, &[&[FIELDS, GENERAL, whole::fields(config)], own].concat())?;
    let numbers = Numbers::read(checkpoint, class, options)?;
    let experts = experts(config, class)?;
    warnings.extend(rope::warnings(config, &[])?);
    let columns = config.count("qk_rope_head_dim", MAX_HEAD)?;
    // Without an indexer a checkpoint that has one is of the first family.
    let arch = if options.arch.as_deref() == Some(FAMILY.arch) { FAMILY.arch } else { class.arch };
    let without = arch != class.arch;
    let indexers = match &class.indexer {
        Some(of) => indexer::read(config, of, [numbers.layers, numbers.mtp], columns)?,
        None => Vec::new(),
    };
    let latent = Latent {
        heads: config.count("num_attention_heads", MAX_HEADS)?,
        q_rank: config.find_count("q_lora_rank", MAX_WIDTH)?,
        kv_rank: config.count("kv_lora_rank", MAX_WIDTH)?,
        nope: config.count("qk_nope_head_dim", MAX_HEAD)?,
        value: config.count("v_head_dim", MAX_HEAD)?,
        indexer: None,
    };
    if latent.q_rank.is_none() && !indexers.is_empty() {
        let problem = "is missing; queries of an indexer are made of those of low rank";
        return Err(Error::Unsupported(config.says("q_lora_rank", problem)));
    }
    let attention = |number: u32| {
        let indexer = indexers.get(number as usize).filter(|_| !without).cloned();
        Attention::Latent(Latent { indexer, ..latent.clone() })
    };
    let (theta, scaling) = rope::read_any(config, None, class.scalings)?;
    let mut yarn = if let Scaling::Yarn(yarn) = scaling { Some(yarn) } else { None };
    if let Some(yarn) = &mut yarn {
        yarn.log_multiplier = Some(rope::log_multiplier(config)?);
    }
    let width = config.count("intermediate_size", MAX_WIDTH)?;
    let names = Names::of(checkpoint);
    let layer = |number: u32| {
        // llama.cpp loads a file without the bias in silence, so its presence is not left to luck.
        let bias = names.stored(&format!("model.layers.{number}.mlp.gate.e_score_correction_bias"));
        let biased = experts.router.bias || checkpoint.get(&bias).is_some();
        let router = Router { bias: biased, ..experts.router };
        let ffn = match number < numbers.dense {
            true => Ffn::Dense { width, biases: false },
            false => Ffn::Experts(Experts { router, ..experts.clone() }),
        };
        Layer { attention: attention(number), ffn }
    };
    let layers = numbers.layers;
    let kept = if options.asks_for_mtp().is_some() { numbers.mtp } else { 0 };
    let model = Description {
        arch,
        vocabulary: config.count("vocab_size", MAX_VOCABULARY)?,
        hidden: config.count("hidden_size", MAX_WIDTH)?,
        context: config.count("max_position_embeddings", u32::MAX)?,
        eps: config.positive("rms_norm_eps")?,
        ffn_width: width,
        rope: Rope { yarn, ..Rope::new(columns, theta, Pairing::Neighbours) },
        ffn_norm: FFN_NORM,
        tied: config.find("tie_word_embeddings")?.unwrap_or(false),
        layers: (0..layers).map(layer).collect(),
        mtp: (layers..layers + kept).map(layer).collect(),
        bos: None,
        experts: Some(Experts { router: Router { bias: false, ..experts.router }, ..experts.clone() }),
        streams: None,
    };
    warnings.extend(doubts(checkpoint, class, &model, numbers.mtp));
    let reason = "chooses the tokens that attention sees in longer texts; without it every token sees all";
    Ok(Described {
        left_out: layers + kept..layers + numbers.mtp,
        without: Vec::from_iter(without.then_some(Without { part: indexer::PART, layers: None, reason })),
        begins: class.architecture == V32.architectures[0],
        ..Described::of(model, warnings)
    })
}

/// How many layers there are.
struct Numbers {
    layers: u32,
    /// Of those the first ones, which have no experts.
    dense: u32,
    /// Layers for multi-token prediction that the checkpoint has besides.
    mtp: u32,
}

impl Numbers {
    fn read(checkpoint: &Checkpoint, class: &Class, options: &Options) -> Result<Self> {
        let config = checkpoint.config();
        let layers = config.count("num_hidden_layers", MAX_LAYERS)?;
        // Names of the layers' kinds, as transformers 5 has them, or a number.
        let kinds: Option<Vec<String>> = config.find("mlp_layer_types")?;
        let leading = |kinds: &Vec<String>| kinds.iter().take_while(|kind| *kind == "dense").count() as u32;
        let usual = kinds.as_ref().map(leading).or(class.dense);
        let dense: u32 = match config.find("first_k_dense_replace")?.or(usual) {
            Some(dense) => dense,
            None => config.get("first_k_dense_replace")?,
        };
        if dense > layers {
            let problem = format!("is {dense}, but there are {layers} layers");
            return Err(config.fault("first_k_dense_replace", problem));
        }
        let kind = |layer| if layer < dense { "dense" } else { "sparse" };
        if let Some(kinds) = kinds
            && !kinds.iter().map(String::as_str).eq((0..layers).map(kind))
        {
            let problem =
                format!("is {kinds:?}; {dense} dense layers, and experts in all others, have a GGUF form");
            return Err(Error::Unsupported(config.says("mlp_layer_types", &problem)));
        }
        // One number, or as newer configurations have it, a flag for each layer.
        let every = config.value("moe_layer_freq").cloned().unwrap_or_else(|| 1.into());
        let flags = || (0..layers).map(|layer| u32::from(layer >= dense)).collect::<Vec<_>>();
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
        // Where config.json does not say it, the tensors decide.
        let mtp: u32 =
            config.find("num_nextn_predict_layers")?.unwrap_or_else(|| stored_mtp(checkpoint, layers));
        if mtp > MAX_LAYERS - layers {
            let problem =
                format!("is {mtp}; with {layers} layers, at most {} fit llama.cpp", MAX_LAYERS - layers);
            return Err(config.fault("num_nextn_predict_layers", problem));
        }
        if let Some(option) = options.asks_for_mtp().filter(|_| mtp == 0) {
            let problem = "config.json says that there are no layers for multi-token prediction";
            return Err(Error::Argument(format!("{option}: {problem}")));
        }
        Ok(Self { layers, dense, mtp })
    }
}

fn experts(config: &Config, class: &Class) -> Result<Experts> {
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
    let gating = if scoring == "softmax" { Gating::Softmax } else { Gating::Sigmoid };
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
            let used = used.map_or_else(|| config.count("topk_group", groups), Ok)?;
            Some(Groups { count: groups, used })
        }
        None => None,
    };
    let width = config.count("moe_intermediate_size", MAX_WIDTH)?;
    let used = config.count("num_experts_per_tok", count)?;
    let shared = match grouped::shared_experts(config)? {
        Some(shared) => shared,
        None => config.count("n_shared_experts", MAX_EXPERTS)?,
    };
    let router = Router {
        used,
        groups,
        gating,
        normalised: config.find("norm_topk_prob")?.unwrap_or(class.normalised),
        scale: config.positive("routed_scaling_factor")?,
        bias: method == "noaux_tc",
    };
    let shared = Some(Shared { count: shared, width: width * shared, gated: false });
    Ok(Experts { count, width, router, shared, form: Form::default(), by_id: None })
}

/// One latent head, shared by all, is what llama.cpp's cache holds; sizes of the real heads have keys of their own.
fn write(model: &Description, keys: &mut Writer) {
    keys.general(model);
    if let Some(Layer { attention: Attention::Latent(latent), .. }) = model.blocks().next() {
        keys.count("attention.head_count", latent.heads);
        keys.count("attention.head_count_kv", 1);
        keys.number("attention.layer_norm_rms_epsilon", model.eps);
        keys.count("attention.key_length", latent.kv_rank + model.rope.columns);
        keys.count("attention.value_length", latent.kv_rank);
        keys.count("attention.key_length_mla", latent.nope + model.rope.columns);
        keys.count("attention.value_length_mla", latent.value);
        if let Some(rank) = latent.q_rank {
            keys.count("attention.q_lora_rank", rank);
        }
        keys.count("attention.kv_lora_rank", latent.kv_rank);
    }
    keys.count("vocab_size", model.vocabulary);
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
        if router.normalised {
            keys.set("expert_weights_norm", Value::Bool(true));
        }
    }
    if !model.mtp.is_empty() {
        keys.count("nextn_predict_layers", model.mtp.len() as u32);
    }
    keys.count("rope.dimension_count", model.rope.columns);
    keys.rope(&model.rope);
    indexer::write(model, keys);
}

fn read(keys: &Reader) -> Result<Description> {
    let columns = keys.count("rope.dimension_count", MAX_HEAD)?;
    let key = keys.count("attention.key_length_mla", 2 * MAX_HEAD)?;
    let latent = Latent {
        heads: keys.count("attention.head_count", MAX_HEADS)?,
        q_rank: keys.find_count("attention.q_lora_rank", MAX_WIDTH)?.filter(|rank| *rank > 0),
        kv_rank: keys.count("attention.kv_lora_rank", MAX_WIDTH)?,
        nope: key.checked_sub(columns).ok_or_else(|| keys.missing("attention.key_length_mla"))?,
        value: keys.count("attention.value_length_mla", MAX_HEAD)?,
        indexer: None,
    };
    let indexer = if keys.arch == FAMILY.arch { None } else { Some(indexer::read_back(keys)?) };
    let number = keys.find_count("expert_gating_func", u32::MAX)?.unwrap_or(Gating::Softmax as u32);
    let gating = Gating::of(number).filter(|gating| *gating != Gating::SoftmaxOfChosen).ok_or_else(|| {
        Error::Unsupported(format!(
            "{}.expert_gating_func is {number}; the forward pass knows 1 (softmax) and 2 (sigmoid)",
            keys.arch
        ))
    })?;
    let dense = keys.find_count("leading_dense_block_count", MAX_LAYERS)?;
    let dense = dense.ok_or_else(|| keys.missing("leading_dense_block_count"))?;
    let width = keys.count("feed_forward_length", MAX_WIDTH)?;
    let experts = keys.experts("expert_feed_forward_length", gating, keys.flag("expert_weights_norm"))?;
    let layer = |number: u32| {
        let ffn = if number < dense {
            Ffn::Dense { width, biases: false }
        } else {
            let bias = keys.has(number, "exp_probs_b.bias");
            Ffn::Experts(Experts { router: Router { bias, ..experts.router }, ..experts.clone() })
        };
        let own = keys.has(number, "indexer.attn_k.weight");
        let indexer = indexer.clone().map(|indexer| Indexer { own, ..indexer });
        Layer { attention: Attention::Latent(Latent { indexer, ..latent.clone() }), ffn }
    };
    keys.general(keys.rope(columns, Pairing::Neighbours)?, Some(experts.clone()), layer)
}
