//! `llama`: Llama 2 and 3, Mistral, Mixtral, and the many models in their layout. A checkpoint rotates the halves of a
//! head together, llama.cpp neighbours, so the rows of queries and keys are put in another order.

use super::fields::{
    Field, GENERAL,
    Treatment::{Ignored, Only, Read},
    check,
};
use super::grouped::{self, DENSE, Defaults, Sizes, full_attention, plain, without_mtp};
use super::rope::{self, Scaling};
use super::{Described, Family, Prediction, StoredExperts, whole};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result, Warning};
use crate::model::keys::{MAX_EXPERTS, Reader, Writer};
use crate::model::layer::{
    Attention, Experts, Ffn, Form, Gating, Grouped, Pairing, Rope, Router, Temperature, Yarn,
};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "llama",
    architectures: &["LlamaForCausalLM", "MistralForCausalLM", MIXTRAL],
    instead: &[],
    stored: Pairing::Halves,
    names: super::MIXTRAL,
    experts: StoredExperts::Each,
    prediction: Prediction::Behind,
    less_one: false,
    describe,
    write,
    read,
};

/// Mistral Small from 3.1 on, without what is left out of images, and Ministral 3.
pub const OF_MISTRAL3: Family = Family { arch: "mistral3", architectures: &[MISTRAL3, MINISTRAL3], ..FAMILY };

/// The text model of Mistral3ForConditionalGeneration.
pub const MISTRAL3: &str = "Mistral3ForConditionalGeneration";

/// Ministral 3, and the text model of those that see images.
pub const MINISTRAL3: &str = "Ministral3ForCausalLM";

const MIXTRAL: &str = "MixtralForCausalLM";

const FIELDS: &[Field] = &[("head_dim", Read), ("layer_types", Read)];

/// Fields of Llama's class.
const LLAMA: &[Field] = &[
    ("attention_bias", Read),
    ("mlp_bias", Read),
    ("rope_interleaved", Only("false")),
    ("is_llama_config", Ignored("says of what kind the class is")),
];

/// Fields of Mistral's and Mixtral's.
const MISTRAL: &[Field] = &[("sliding_window", Read)];

/// Fields of Mixtral's class alone.
const EXPERTS: &[Field] = &[
    ("num_local_experts", Read),
    ("num_experts_per_tok", Read),
    ("router_aux_loss_coef", Ignored("of training")),
    ("router_jitter_noise", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
];

const ROPE: &[Field] = &[("low_freq_factor", Read), ("high_freq_factor", Read)];

/// Those of Ministral 3, whose yarn llama.cpp takes as a whole.
const YARN: &[Field] = &[
    ("beta_fast", Read),
    ("beta_slow", Read),
    ("mscale", Only("1")),
    ("mscale_all_dim", Read),
    (GROWTH, Read),
];

const GROWTH: &str = "llama_4_scaling_beta";

/// A class of this family.
struct Class {
    name: &'static str,
    arch: &'static str,
    fields: &'static [&'static [Field]],
    defaults: Defaults,
    theta: f32,
    /// The sliding window where config.json does not speak of it.
    window: Option<u32>,
}

const CLASSES: [Class; 5] = [
    Class {
        name: FAMILY.architectures[0],
        arch: FAMILY.arch,
        fields: &[FIELDS, DENSE, LLAMA, GENERAL],
        defaults: Defaults { kv_heads: None, width: None, eps: 1e-6 },
        theta: 10000.0,
        window: None,
    },
    Class {
        name: FAMILY.architectures[1],
        arch: FAMILY.arch,
        fields: &[FIELDS, DENSE, MISTRAL, GENERAL],
        defaults: Defaults { kv_heads: Some(8), width: None, eps: 1e-6 },
        theta: 10000.0,
        window: Some(4096),
    },
    Class {
        name: MISTRAL3,
        arch: OF_MISTRAL3.arch,
        fields: &[FIELDS, DENSE, MISTRAL, GENERAL],
        defaults: Defaults { kv_heads: Some(8), width: None, eps: 1e-6 },
        theta: 10000.0,
        window: Some(4096),
    },
    Class {
        name: MINISTRAL3,
        arch: OF_MISTRAL3.arch,
        fields: &[FIELDS, DENSE, MISTRAL, GENERAL],
        defaults: Defaults { kv_heads: Some(8), width: Some(128), eps: 1e-5 },
        theta: 1e6,
        window: None,
    },
    Class {
        name: MIXTRAL,
        arch: FAMILY.arch,
        fields: &[FIELDS, DENSE, MISTRAL, EXPERTS, GENERAL],
        defaults: Defaults { kv_heads: Some(8), width: None, eps: 1e-5 },
        theta: 1e6,
        window: None,
    },
];

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let architectures = whole::architectures(config)?;
    let class = CLASSES.iter().find(|class| architectures.iter().any(|name| name == class.name));
    let class = class.expect("the family is chosen by its architectures");
    let mut warnings = check(config, &[class.fields, &[whole::fields(config)]].concat())?;
    let is_ministral = class.name == MINISTRAL3;
    let own = if is_ministral { YARN } else { ROPE };
    warnings.extend(rope::warnings(config, &[own, grouped::ROPE].concat())?);
    without_mtp(options, class.arch)?;
    full_attention(config)?;
    let sizes = Sizes::read(config, &class.defaults)?;
    warnings.extend(window(config, class, sizes.context())?);
    let known: &[&str] = if is_ministral { &["yarn"] } else { &["default", "linear", "yarn", "llama3"] };
    let (theta, scaling) = rope::read_any(config, Some(class.theta), known)?;
    let (scaling, temperature) = if is_ministral { stretched(config, scaling)? } else { (scaling, None) };
    let yarn = if let Scaling::Yarn(yarn) = scaling { Some(yarn) } else { None };
    let linear = if let Scaling::Linear(factor) = scaling { Some(factor) } else { None };
    let rope_divisors = match scaling {
        Scaling::Llama3(llama3) => llama3.divisors(theta, sizes.width),
        _ => Vec::new(),
    };
    let divided = !rope_divisors.is_empty();
    let rope = Rope { yarn, linear, divided, ..Rope::new(sizes.width, theta, Pairing::Neighbours) };
    let flag = |field: &str| Ok::<_, Error>(config.find::<bool>(field)?.unwrap_or(false));
    let biases = flag("attention_bias")?;
    let attention = Grouped { biases, output_bias: biases, temperature, ..sizes.attention() };
    let (experts, ffn) = if class.name == MIXTRAL {
        let count = config.find_count("num_local_experts", MAX_EXPERTS)?.unwrap_or(8);
        let used = config.find_count("num_experts_per_tok", count)?.unwrap_or(2);
        let experts = experts(count, used, sizes.ffn_width);
        (Some(experts.clone()), Ffn::Experts(experts))
    } else {
        (None, Ffn::Dense { width: sizes.ffn_width, biases: flag("mlp_bias")? })
    };
    let layer = |_| Layer { attention: Attention::Grouped(attention.clone()), ffn: ffn.clone() };
    let model = Description { experts, ..sizes.model(class.arch, rope, layer) };
    Ok(Described { rope_divisors, ..Described::of(model, warnings) })
}

/// Ministral 3's yarn with its log multiplier, and the growth of its queries; those of the class where nothing is said.
fn stretched(config: &Config, scaling: Scaling) -> Result<(Scaling, Option<Temperature>)> {
    let (yarn, multiplier, growth) = match scaling {
        Scaling::Yarn(yarn) => {
            let newer = config.has("rope_parameters");
            let place = config.object(if newer { "rope_parameters" } else { "rope_scaling" })?;
            (yarn, place.positive("mscale_all_dim")?, place.positive(GROWTH)?)
        }
        _ => {
            let (beta_fast, beta_slow) = (Some(32.0), Some(1.0));
            let yarn = Yarn {
                factor: 16.0,
                original: 16384,
                beta_fast,
                beta_slow,
                log_multiplier: None,
                unused_factor: None,
            };
            (yarn, 1.0, 0.1)
        }
    };
    let temperature = Temperature { growth, every: yarn.original };
    Ok((Scaling::Yarn(Yarn { log_multiplier: Some(multiplier), ..yarn }), Some(temperature)))
}

/// llama.cpp has no sliding window here: it attends to all tokens, which is the same up to the window's length.
fn window(config: &Config, class: &Class, context: u32) -> Result<Option<Warning>> {
    const FIELD: &str = "sliding_window";
    let declared = config.find_count(FIELD, u32::MAX)?;
    let usual = if config.mentions(FIELD) { None } else { class.window };
    let Some(window) = declared.or(usual).filter(|window| *window < context) else { return Ok(None) };
    let problem = format!(
        "is {window}{}; llama.cpp has no window for this architecture, so what it computes of longer texts is not what \
         the model was trained for",
        if declared.is_some() { "" } else { " where it is not given" }
    );
    Ok(Some(Warning::new(Error::Unsupported(config.says(FIELD, &problem)))))
}

fn experts(count: u32, used: u32, width: u32) -> Experts {
    let gating = Gating::Softmax;
    let router = Router { used, groups: None, gating, normalised: true, scale: 1.0, bias: false };
    Experts { count, width, router, shared: None, form: Form::default(), by_id: None }
}

const TEMPERATURE: &str = "attention.temperature_scale";

fn write(model: &Description, keys: &mut Writer) {
    grouped::write(model, keys);
    if let Some(experts) = &model.experts {
        keys.count("expert_count", experts.count);
        keys.count("expert_used_count", experts.router.used);
    }
    if let Some(Layer { attention: Attention::Grouped(Grouped { temperature: Some(of), .. }), .. }) =
        model.layers.first()
    {
        keys.number(TEMPERATURE, of.growth);
    }
    keys.count("vocab_size", model.vocabulary);
    keys.count("rope.dimension_count", model.rope.columns);
}

fn read(keys: &Reader) -> Result<Description> {
    const WIDTH: &str = "feed_forward_length";
    let [heads, kv_heads, width] = keys.grouped()?;
    let experts = match keys.find_count("expert_count", MAX_EXPERTS)?.unwrap_or(0) {
        0 => None,
        _ => {
            let found = keys.experts(WIDTH, Gating::Softmax, true)?;
            let router = Router { scale: found.router.scale, ..experts(1, found.router.used, 1).router };
            Some(Experts { router, shared: None, ..found })
        }
    };
    let ffn_width = keys.ffn_width()?;
    let columns = keys.rope_columns(width)?;
    let rope = keys.rope(columns, Pairing::Neighbours)?;
    let growth = keys.find_number(TEMPERATURE)?.filter(|growth| *growth > 0.0);
    let temperature =
        growth.zip(rope.yarn).map(|(growth, yarn)| Temperature { growth, every: yarn.original });
    let layer = |number: u32| {
        let attention = Grouped {
            biases: keys.has(number, "attn_q.bias"),
            output_bias: keys.has(number, "attn_output.bias"),
            temperature,
            ..plain(heads, kv_heads, width)
        };
        let ffn = match &experts {
            Some(experts) => Ffn::Experts(experts.clone()),
            None => Ffn::Dense { width: ffn_width, biases: keys.has(number, "ffn_gate.bias") },
        };
        Layer { attention: Attention::Grouped(attention), ffn }
    };
    keys.general(rope, experts.clone(), layer)
}
