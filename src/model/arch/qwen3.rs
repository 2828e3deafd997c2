//! `qwen3`: the dense models of Qwen3, 0.6B to 32B. Queries and keys are normalised, head by head.

use super::fields::{
    Field, GENERAL,
    Treatment::{Only, Read},
    check,
};
use super::grouped::{self, DENSE, Defaults, QWEN, Sizes, full_attention, plain, without_mtp};
use super::{Described, Family, Prediction, StoredExperts, rope};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::keys::Reader;
use crate::model::layer::{Attention, Ffn, Grouped, Pairing, QkNorm, Rope};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "qwen3",
    architectures: &["Qwen3ForCausalLM"],
    instead: &[],
    stored: Pairing::Halves,
    names: &[],
    experts: StoredExperts::Each,
    prediction: Prediction::Behind,
    less_one: false,
    describe,
    write: grouped::write,
    read,
};

const FIELDS: &[Field] = &[("head_dim", Read), ("attention_bias", Only("false"))];

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let mut warnings = check(config, &[FIELDS, DENSE, QWEN, GENERAL])?;
    warnings.extend(rope::warnings(config, grouped::ROPE)?);
    without_mtp(options, FAMILY.arch)?;
    full_attention(config)?;
    let sizes = Sizes::read(config, &Defaults { kv_heads: Some(32), width: Some(128), eps: 1e-6 })?;
    let (theta, yarn) = rope::read_or(config, 10000.0)?;
    let rope = Rope { yarn, ..Rope::new(sizes.width, theta, Pairing::Halves) };
    let layer = |_| layer(sizes.attention(), sizes.ffn_width);
    let model = sizes.model(FAMILY.arch, rope, layer);
    Ok(Described::of(model, warnings))
}

fn layer(attention: Grouped, width: u32) -> Layer {
    Layer {
        attention: Attention::Grouped(Grouped { qk_norm: Some(QkNorm::Head), ..attention }),
        ffn: Ffn::Dense { width, biases: false },
    }
}

fn read(keys: &Reader) -> Result<Description> {
    let [heads, kv_heads, width] = keys.grouped()?;
    let ffn_width = keys.ffn_width()?;
    let layer = |_| layer(plain(heads, kv_heads, width), ffn_width);
    keys.general(keys.rope(keys.rope_columns(width)?, Pairing::Halves)?, None, layer)
}
