//! GGUF's metadata keys of a description, in both directions. What all architectures have is here; a family's `write`
//! and `read` put it together, since presence, names and defaults of keys differ between architectures.

use super::description::{Description, EMBEDDING, HEAD, Layer, ROPE_DIVISORS, in_layer};
use super::layer::{Experts, FFN_NORM, Form, Gating, Grouped, Groups, Pairing, Rope, Router, Shared, Yarn};
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};

// llama.cpp's own limits, and bounds that keep every product of sizes inside of u32.

/// Most layers.
pub const MAX_LAYERS: u32 = 512;
/// Most experts in a layer.
pub const MAX_EXPERTS: u32 = 1024;
/// Most heads.
pub const MAX_HEADS: u32 = 1 << 12;
/// Most columns of a head.
pub const MAX_HEAD: u32 = 1 << 13;
/// Most numbers of a hidden state or between the matrices of an FFN.
pub const MAX_WIDTH: u32 = 1 << 20;
/// Most token ids.
pub const MAX_VOCABULARY: u32 = 1 << 20;

/// Writes keys of one architecture, in the order of the calls.
#[derive(Debug)]
pub struct Writer<'a> {
    arch: &'a str,
    metadata: &'a mut Metadata,
}

impl<'a> Writer<'a> {
    /// A writer of an architecture's keys into these metadata.
    pub fn new(arch: &'a str, metadata: &'a mut Metadata) -> Self {
        Self { arch, metadata }
    }

    /// Sets a key; the architecture's name is put before it.
    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.set(format!("{}.{key}", self.arch), value);
    }

    /// Sets a whole number.
    pub fn count(&mut self, key: &str, count: u32) {
        self.set(key, Value::U32(count));
    }

    /// Sets a floating-point number.
    pub fn number(&mut self, key: &str, number: f32) {
        self.set(key, Value::F32(number));
    }

    /// Writes the keys that every architecture has.
    pub fn general(&mut self, model: &Description) {
        self.blocks(model);
        self.count("feed_forward_length", model.ffn_width);
    }

    /// Those of them that do not depend on the FFN.
    pub fn blocks(&mut self, model: &Description) {
        self.count("block_count", model.blocks().count() as u32);
        self.count("context_length", model.context);
        self.count("embedding_length", model.hidden);
    }

    /// Routed experts that are all alike: how many, how many of them a token uses, how wide.
    pub fn routed(&mut self, experts: &Experts) {
        self.count("expert_count", experts.count);
        self.count("expert_used_count", experts.router.used);
        self.count("expert_feed_forward_length", experts.width);
    }

    /// Grouped attention.
    pub fn grouped(&mut self, grouped: &Grouped, eps: f32) {
        self.count("attention.head_count", grouped.heads);
        self.count("attention.head_count_kv", grouped.kv_heads);
        self.number("attention.layer_norm_rms_epsilon", eps);
        self.count("attention.key_length", grouped.width);
        self.count("attention.value_length", grouped.width);
    }

    /// Position encoding. How many columns are rotated is said where it is not all that a head has.
    pub fn rope(&mut self, rope: &Rope) {
        self.number("rope.freq_base", rope.theta);
        if let Some(factor) = rope.linear {
            self.set("rope.scaling.type", "linear".into());
            self.number("rope.scaling.factor", factor);
        }
        let Some(yarn) = rope.yarn else { return };
        self.set("rope.scaling.type", "yarn".into());
        self.number("rope.scaling.factor", yarn.factor);
        self.count("rope.scaling.original_context_length", yarn.original);
        for (key, value) in [
            ("rope.scaling.yarn_beta_fast", yarn.beta_fast),
            ("rope.scaling.yarn_beta_slow", yarn.beta_slow),
            ("rope.scaling.yarn_log_multiplier", yarn.log_multiplier),
            ("rope.scaling.yarn_attn_factor", yarn.unused_factor),
        ] {
            if let Some(value) = value {
                self.number(key, value);
            }
        }
    }
}

/// Reads keys of one architecture.
pub struct Reader<'a> {
    /// The architecture's name, with which its keys begin.
    pub arch: &'static str,
    /// The value of a key.
    pub value: &'a dyn Fn(&str) -> Option<Value>,
    /// The shape of a tensor, row length first; None if it is not there.
    pub shape: &'a dyn Fn(&str) -> Option<Vec<u64>>,
    /// The error about a key or a tensor.
    pub fault: &'a dyn Fn(String) -> Error,
}

impl Reader<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// A number, if it is there.
    ///
    /// # Errors
    /// If it is something else.
    pub fn find_number(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = (self.value)(&self.key(key)) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| self.missing(key))?;
        Ok(Some(number as f32))
    }

    /// Reads a floating-point number.
    ///
    /// # Errors
    /// If it is missing, or something else.
    pub fn number(&self, key: &str) -> Result<f32> {
        self.find_number(key)?.ok_or_else(|| self.missing(key))
    }

    /// A whole number from 0 to `most`, if it is there.
    ///
    /// # Errors
    /// If it is something else.
    pub fn find_count(&self, key: &str, most: u32) -> Result<Option<u32>> {
        let Some(value) = (self.value)(&self.key(key)) else { return Ok(None) };
        match value.as_u64() {
            None => Err(self.missing(key)),
            Some(count) if count <= most.into() => Ok(Some(count as u32)),
            Some(count) => {
                Err((self.fault)(format!("{} is {count}; expected at most {most}", self.key(key))))
            }
        }
    }

    /// A whole number from 1 to `most`.
    ///
    /// # Errors
    /// If it is missing, or something else.
    pub fn count(&self, key: &str, most: u32) -> Result<u32> {
        match self.find_count(key, most)? {
            Some(0) => Err((self.fault)(format!("{} is 0; expected 1 to {most}", self.key(key)))),
            count => count.ok_or_else(|| self.missing(key)),
        }
    }

    /// Width of the FFN of dense layers.
    ///
    /// # Errors
    /// If the key is missing.
    pub fn ffn_width(&self) -> Result<u32> {
        self.count("feed_forward_length", MAX_WIDTH)
    }

    /// Whether a flag is set.
    pub fn flag(&self, key: &str) -> bool {
        (self.value)(&self.key(key)).and_then(|value| value.as_f64()) == Some(1.0)
    }

    /// Whether a layer has a tensor.
    pub fn has(&self, layer: u32, tensor: &str) -> bool {
        (self.shape)(&in_layer(layer as usize, tensor)).is_some()
    }

    /// The error about a key.
    pub fn missing(&self, key: &str) -> Error {
        (self.fault)(format!("{} is missing or no number", self.key(key)))
    }

    /// Reads the keys that every architecture has; `layer` makes the kinds of a layer from its number.
    ///
    /// # Errors
    /// If a key is missing.
    pub fn general(
        &self,
        rope: Rope,
        experts: Option<Experts>,
        layer: impl Fn(u32) -> Layer,
    ) -> Result<Description> {
        let blocks = self.count("block_count", MAX_LAYERS)?;
        let mtp = self.find_count("nextn_predict_layers", blocks)?.unwrap_or(0);
        let mut layers: Vec<Layer> = (0..blocks).map(layer).collect();
        let rows = || (self.shape)(EMBEDDING).and_then(|shape| shape.get(1).copied());
        let vocabulary = match self.find_count("vocab_size", MAX_VOCABULARY)? {
            Some(vocabulary) => Some(vocabulary),
            None => rows().filter(|rows| *rows <= MAX_VOCABULARY.into()).map(|rows| rows as u32),
        };
        let without = (self.value)("tokenizer.ggml.add_bos_token") == Some(Value::Bool(false));
        let bos = (self.value)("tokenizer.ggml.bos_token_id").filter(|_| !without);
        Ok(Description {
            arch: self.arch,
            vocabulary: vocabulary.filter(|n| *n > 0).ok_or_else(|| self.missing("vocab_size"))?,
            hidden: self.count("embedding_length", MAX_WIDTH)?,
            context: self.count("context_length", u32::MAX)?,
            eps: self.number("attention.layer_norm_rms_epsilon")?,
            ffn_width: self.find_count("feed_forward_length", MAX_WIDTH)?.unwrap_or(0),
            ffn_norm: FFN_NORM,
            rope,
            experts,
            tied: (self.shape)(HEAD).is_none(),
            mtp: layers.split_off((blocks - mtp) as usize),
            layers,
            streams: None,
            bos: bos.and_then(|bos| bos.as_u64()).and_then(|bos| u32::try_from(bos).ok()),
        })
    }

    /// Heads, heads of keys and values, and columns of a head, of grouped attention.
    ///
    /// # Errors
    /// If a key is missing, or keys and values differ in width.
    pub fn grouped(&self) -> Result<[u32; 3]> {
        let heads = self.count("attention.head_count", MAX_HEADS)?;
        let kv_heads = self.find_count("attention.head_count_kv", heads)?.unwrap_or(heads);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let key = self.key("attention.head_count_kv");
            return Err((self.fault)(format!("{key} is {kv_heads}, which does not divide {heads} heads")));
        }
        let usual = self.count("embedding_length", MAX_WIDTH)? / heads;
        let width = self.find_count("attention.key_length", MAX_HEAD)?.unwrap_or(usual);
        let value = self.find_count("attention.value_length", MAX_HEAD)?.unwrap_or(usual);
        if value != width || width == 0 {
            let key = self.key("attention.value_length");
            return Err((self.fault)(format!("{key} is {value}, and keys have {width} columns")));
        }
        Ok([heads, kv_heads, width])
    }

    /// Columns of a head of `width` that are rotated: all, unless a key says less.
    ///
    /// # Errors
    /// If it says more.
    pub fn rope_columns(&self, width: u32) -> Result<u32> {
        Ok(self.find_count("rope.dimension_count", width)?.filter(|columns| *columns > 0).unwrap_or(width))
    }

    /// Position encoding of `columns`.
    ///
    /// # Errors
    /// If a key is missing.
    pub fn rope(&self, columns: u32, pairing: Pairing) -> Result<Rope> {
        const TYPE: &str = "rope.scaling.type";
        let scaling = (self.value)(&self.key(TYPE));
        let scaling = scaling.as_ref().and_then(Value::as_str);
        // llama.cpp's older name of the one factor; without a type it is what all frequencies are divided by.
        let older = self.find_number("rope.scale_linear")?;
        let factor = self.find_number("rope.scaling.factor")?.or(older).filter(|&factor| factor != 0.0);
        let (yarn, linear) = match factor {
            Some(_) if scaling == Some("none") => (None, None),
            Some(factor) if matches!(scaling, None | Some("linear")) => (None, Some(factor)),
            Some(factor) if scaling == Some("yarn") => (
                Some(Yarn {
                    factor,
                    original: self.count("rope.scaling.original_context_length", u32::MAX)?,
                    beta_fast: self.find_number("rope.scaling.yarn_beta_fast")?,
                    beta_slow: self.find_number("rope.scaling.yarn_beta_slow")?,
                    log_multiplier: self.find_number("rope.scaling.yarn_log_multiplier")?,
                    unused_factor: self.find_number("rope.scaling.yarn_attn_factor")?,
                }),
                None,
            ),
            Some(_) => {
                let kind = scaling.unwrap_or_default();
                let problem = format!("is \"{kind}\"; the forward pass knows none, linear and yarn");
                return Err(Error::Unsupported(format!("{} {problem}", self.key(TYPE))));
            }
            None => (None, None),
        };
        let divided = (self.shape)(ROPE_DIVISORS).is_some();
        Ok(Rope { yarn, linear, divided, ..Rope::new(columns, self.number("rope.freq_base")?, pairing) })
    }

    /// Makes sure that experts are chosen as `only` says, which is also what a missing key means if it is `usual`.
    ///
    /// # Errors
    /// If they are chosen otherwise.
    pub fn gating(&self, only: Gating, usual: Option<Gating>) -> Result<()> {
        const KEY: &str = "expert_gating_func";
        let number = self.find_count(KEY, u32::MAX)?.or(usual.map(|usual| usual as u32));
        match number.ok_or_else(|| self.missing(KEY))? {
            number if number == only as u32 => Ok(()),
            number => Err(Error::Unsupported(format!(
                "{} is {number}; the forward pass knows {} here",
                self.key(KEY),
                only as u32
            ))),
        }
    }

    /// Experts with this gating, of which the router's bias is left open; `width` is the key of their width.
    ///
    /// # Errors
    /// If a key is missing, or groups do not divide the experts.
    pub fn experts(&self, width: &str, gating: Gating, normalised: bool) -> Result<Experts> {
        let count = self.count("expert_count", MAX_EXPERTS)?;
        let width = self.count(width, MAX_WIDTH)?;
        let shared = self.find_count("expert_shared_count", MAX_EXPERTS)?.filter(|count| *count > 0);
        let groups = match self.find_count("expert_group_count", count)?.filter(|groups| *groups > 0) {
            Some(groups) if !count.is_multiple_of(groups) => {
                let key = self.key("expert_group_count");
                return Err((self.fault)(format!(
                    "{key} is {groups}, which does not divide {count} experts"
                )));
            }
            Some(groups) => {
                let used = self.find_count("expert_group_used_count", groups)?.unwrap_or(groups);
                Some(Groups { count: groups, used })
            }
            None => None,
        };
        let scale = self.find_number("expert_weights_scale")?.filter(|&scale| scale != 0.0);
        Ok(Experts {
            count,
            width,
            router: Router {
                used: self.count("expert_used_count", count)?,
                groups,
                gating,
                normalised,
                scale: scale.unwrap_or(1.0),
                bias: false,
            },
            shared: shared.map(|count| Shared { count, width: count * width, gated: false }),
            form: Form::default(),
            by_id: None,
        })
    }
}
