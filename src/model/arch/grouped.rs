//! What families with grouped attention have in common: sizes with the defaults of their classes.

use serde_json::Value;

use super::fields::{
    Field,
    Treatment::{Ignored, Only, Read, Refused},
};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::keys::{MAX_EXPERTS, MAX_HEAD, MAX_HEADS, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH, Writer};
use crate::model::layer::{Attention, FFN_NORM, Grouped, Rope};
use crate::model::{Description, Layer, Options};

/// What a class takes for fields that config.json lacks.
#[derive(Clone, Copy)]
pub struct Defaults {
    /// `num_key_value_heads`; None for as many as there are heads.
    pub kv_heads: Option<u32>,
    /// `head_dim`; None for the hidden size over the heads.
    pub width: Option<u32>,
    /// `rms_norm_eps`.
    pub eps: f32,
}

/// Fields of yarn that llama.cpp does not read for these architectures.
pub const ROPE: &[Field] = &[
    ("beta_fast", Only("32")),
    ("beta_slow", Only("1")),
    ("mscale", Refused),
    ("mscale_all_dim", Refused),
    // Written as llama.cpp's converter does. R1-0528-Qwen3-8B has it, and transformers, too, computes without.
    ("attn_factor", Read),
];

/// Fields that all these families have; `head_dim` is not among them.
pub const DENSE: &[Field] = &[
    ("hidden_size", Read),
    ("num_hidden_layers", Read),
    ("num_attention_heads", Read),
    ("num_key_value_heads", Read),
    ("intermediate_size", Read),
    ("max_position_embeddings", Read),
    ("rms_norm_eps", Read),
    ("rope_theta", Read),
    ("rope_scaling", Read),
    ("rope_parameters", Read),
    ("hidden_act", Only("\"silu\"")),
];

/// Fields of Qwen's sliding window, which llama.cpp does not have.
pub const QWEN: &[Field] = &[
    ("layer_types", Read),
    ("use_sliding_window", Only("false")),
    ("sliding_window", Ignored("use_sliding_window is false")),
    ("max_window_layers", Ignored("use_sliding_window is false")),
    ("use_mrope", Only("false")),
];

/// Sizes that config.json has under the same names in all these families.
pub struct Sizes {
    pub hidden: u32,
    pub heads: u32,
    pub kv_heads: u32,
    /// Columns of a head.
    pub width: u32,
    pub ffn_width: u32,
    pub layers: u32,
    vocabulary: u32,
    context: u32,
    eps: f32,
    tied: bool,
}

impl Sizes {
    /// Reads them.
    ///
    /// # Errors
    /// If one is missing, or absurd.
    pub fn read(config: &Config, defaults: &Defaults) -> Result<Self> {
        let sizes = Self::without_dense(config, defaults)?;
        Ok(Self { ffn_width: config.count("intermediate_size", MAX_WIDTH)?, ..sizes })
    }

    /// Reads them for a class that may have no dense layers: the width of their FFN may be missing, and is 0 then.
    ///
    /// # Errors
    /// If another is missing, or one is absurd.
    pub fn without_dense(config: &Config, defaults: &Defaults) -> Result<Self> {
        let hidden = config.count("hidden_size", MAX_WIDTH)?;
        let heads = config.count("num_attention_heads", MAX_HEADS)?;
        let usual = defaults.kv_heads.unwrap_or(heads);
        let kv_heads = config.find_count("num_key_value_heads", heads)?.unwrap_or(usual);
        if !heads.is_multiple_of(kv_heads) {
            let problem = format!("is {kv_heads}, which does not divide {heads} heads");
            return Err(config.fault("num_key_value_heads", problem));
        }
        let usual = defaults.width.unwrap_or(hidden / heads);
        let width = config.find_count("head_dim", MAX_HEAD)?.unwrap_or(usual);
        if width == 0 || !width.is_multiple_of(2) {
            let problem = format!("is {width}; expected an even number, since columns are rotated in pairs");
            return Err(config.fault("head_dim", problem));
        }
        let eps = "rms_norm_eps";
        Ok(Self {
            hidden,
            heads,
            kv_heads,
            width,
            ffn_width: config.find_count("intermediate_size", MAX_WIDTH)?.unwrap_or(0),
            layers: config.count("num_hidden_layers", MAX_LAYERS)?,
            vocabulary: config.count("vocab_size", MAX_VOCABULARY)?,
            context: config.count("max_position_embeddings", u32::MAX)?,
            eps: if config.has(eps) { config.positive(eps)? } else { defaults.eps },
            tied: config.find("tie_word_embeddings")?.unwrap_or(false),
        })
    }

    /// Attention without biases, norms or a window.
    pub fn attention(&self) -> Grouped {
        plain(self.heads, self.kv_heads, self.width)
    }

    /// The model with these layers, without experts and layers for multi-token prediction.
    pub fn model(&self, arch: &'static str, rope: Rope, layer: impl Fn(u32) -> Layer) -> Description {
        Description {
            arch,
            vocabulary: self.vocabulary,
            hidden: self.hidden,
            context: self.context,
            eps: self.eps,
            ffn_width: self.ffn_width,
            ffn_norm: FFN_NORM,
            rope,
            tied: self.tied,
            experts: None,
            layers: (0..self.layers).map(layer).collect(),
            mtp: Vec::new(),
            bos: None,
            streams: None,
        }
    }

    /// Tokens that the model was made for.
    pub fn context(&self) -> u32 {
        self.context
    }
}

/// Attention without biases, norms or a window.
pub fn plain(heads: u32, kv_heads: u32, width: u32) -> Grouped {
    Grouped {
        heads,
        kv_heads,
        width,
        qk_norm: None,
        biases: false,
        output_bias: false,
        window: None,
        sinks: false,
        rotated: true,
        gated: false,
        temperature: None,
    }
}

/// Columns of a head of `width` that are rotated: `rotary_dim`, or a share of them (`partial_rotary_factor`, by default
/// `usual`).
///
/// # Errors
/// If it is absurd, or the two contradict each other.
pub fn rotated(config: &Config, width: u32, usual: f32) -> Result<u32> {
    const SHARE: &str = "partial_rotary_factor";
    let newer = if config.has("rope_parameters") { Some(config.object("rope_parameters")?) } else { None };
    let place = newer.filter(|newer| newer.has(SHARE)).unwrap_or_else(|| config.clone());
    let share = if place.has(SHARE) { Some(place.positive(SHARE)?) } else { None };
    let given = config.find_count("rotary_dim", width)?;
    // Downwards, as everybody rounds here.
    let of_share = |share: f32| (width as f32 * share) as u32;
    let columns = given.unwrap_or_else(|| of_share(share.unwrap_or(usual)));
    if let (Some(given), Some(share)) = (given, share)
        && of_share(share) != given
    {
        let problem =
            format!("is {given}, but partial_rotary_factor {share} of {width} is {}", of_share(share));
        return Err(config.fault("rotary_dim", problem));
    }
    if columns == 0 || columns > width || !columns.is_multiple_of(2) {
        let problem = format!("makes {columns} of {width} columns rotate; expected an even number of them");
        return Err(place.fault(SHARE, problem));
    }
    Ok(columns)
}

/// Writes the keys of attention, rotations and sizes.
pub fn write(model: &Description, keys: &mut Writer) {
    keys.general(model);
    if let Some(Layer { attention: Attention::Grouped(grouped), .. }) = model.layers.first() {
        keys.grouped(grouped, model.eps);
    }
    keys.rope(&model.rope);
}

/// Refuses `--keep-mtp` and `--mtp-only` for a family without layers for multi-token prediction.
///
/// # Errors
/// If one is given.
pub fn without_mtp(options: &Options, arch: &str) -> Result<()> {
    match options.asks_for_mtp() {
        Some(option) => {
            Err(Error::Argument(format!("{option}: {arch} has no layers for multi-token prediction")))
        }
        None => Ok(()),
    }
}

/// Checks `layer_types`, which newer configurations have: attention must be full in every layer.
///
/// # Errors
/// If it is not, or they are of another number of layers.
pub fn full_attention(config: &Config) -> Result<()> {
    let types: Vec<String> = config.find("layer_types")?.unwrap_or_default();
    if let Some(kind) = types.iter().find(|kind| *kind != "full_attention") {
        let problem = format!("has \"{kind}\"; only \"full_attention\" has a GGUF form");
        return Err(Error::Unsupported(config.says("layer_types", &problem)));
    }
    for_each_layer(config, "layer_types", types.len())
}

/// Checks that a list that is there has an entry for each layer.
///
/// # Errors
/// If it has another number.
pub fn for_each_layer(config: &Config, field: &str, entries: usize) -> Result<()> {
    let layers = config.count("num_hidden_layers", MAX_LAYERS)?;
    if !config.has(field) || entries == layers as usize {
        return Ok(());
    }
    let problem =
        format!("has {entries} entries for {layers} layers; which layer is of which kind is not known then");
    Err(Error::Unsupported(config.says(field, &problem)))
}

/// The number of experts, which two fields may say.
///
/// # Errors
/// If they say different things, or one is absurd.
pub fn expert_count(config: &Config, usual: u32) -> Result<u32> {
    const FIELDS: [&str; 2] = ["num_experts", "num_local_experts"];
    let [first, second] = FIELDS.map(|field| config.find_count(field, MAX_EXPERTS));
    match (first?, second?) {
        (Some(first), Some(second)) if first != second => {
            let problem =
                format!("is {second}, but {} {first}; only one can be true", config.says(FIELDS[0], "is"));
            Err(Error::Unsupported(config.says(FIELDS[1], &problem)))
        }
        (first, second) => Ok(first.or(second).unwrap_or(usual)),
    }
}

/// The number of experts that every token uses, if it is said.
///
/// # Errors
/// If there are none, or it is absurd.
pub fn shared_experts(config: &Config) -> Result<Option<u32>> {
    const FIELD: &str = "n_shared_experts";
    if config.value(FIELD).and_then(Value::as_u64) == Some(0) {
        // Its loaders ask for tensors of no rows, or its graphs for those that are not there.
        let problem = "is 0; llama.cpp computes this architecture with shared experts";
        return Err(Error::Unsupported(config.says(FIELD, problem)));
    }
    config.find_count(FIELD, MAX_EXPERTS)
}
