//! `qwen2`: Qwen1.5, 2 and 2.5, QwQ, R1's distillations of them. Queries, keys and values have biases.

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
use crate::model::layer::{Attention, Ffn, Grouped, Pairing, Rope};
use crate::model::{Description, Layer, Options};

pub const FAMILY: Family = Family {
    arch: "qwen2",
    architectures: &["Qwen2ForCausalLM"],
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

const FIELDS: &[Field] = &[("head_dim", Read), ("attention_bias", Only("true")), ("qkv_bias", Only("true"))];

fn describe(checkpoint: &Checkpoint, options: &Options) -> Result<Described> {
    let config = checkpoint.config();
    let mut warnings = check(config, &[FIELDS, DENSE, QWEN, GENERAL])?;
    warnings.extend(rope::warnings(config, grouped::ROPE)?);
    without_mtp(options, FAMILY.arch)?;
    full_attention(config)?;
    let sizes = Sizes::read(config, &Defaults { kv_heads: Some(32), width: None, eps: 1e-6 })?;
    let (theta, yarn) = rope::read_or(config, 10000.0)?;
    let rope = Rope { yarn, ..Rope::new(sizes.width, theta, Pairing::Halves) };
    let attention = Grouped { biases: true, ..sizes.attention() };
    let model = sizes.model(FAMILY.arch, rope, |_| Layer {
        attention: Attention::Grouped(attention.clone()),
        ffn: Ffn::Dense { width: sizes.ffn_width, biases: false },
    });
    Ok(Described::of(model, warnings))
}

fn read(keys: &Reader) -> Result<Description> {
    let [heads, kv_heads, width] = keys.grouped()?;
    let ffn_width = keys.ffn_width()?;
    let layer = |number: u32| Layer {
        attention: Attention::Grouped(Grouped {
            biases: keys.has(number, "attn_q.bias"),
            ..plain(heads, kv_heads, width)
        }),
        ffn: Ffn::Dense { width: ffn_width, biases: false },
    };
    keys.general(keys.rope(keys.rope_columns(width)?, Pairing::Halves)?, None, layer)
}
