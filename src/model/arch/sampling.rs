//! Recommended sampling, as the metadata of any family.

use crate::checkpoint::{Checkpoint, GENERATION_CONFIG};
use crate::error::Result;
use crate::gguf::{Metadata, Value};

/// The sampling that generation_config.json recommends, if there is one.
pub fn describe(checkpoint: &Checkpoint, metadata: &mut Metadata) -> Result<()> {
    let Some(config) = checkpoint.optional_config(GENERATION_CONFIG)? else { return Ok(()) };
    if let Some(k) = config.find::<i32>("top_k")? {
        metadata.set("general.sampling.top_k", Value::I32(k));
    }
    for (field, key) in [
        ("top_p", "general.sampling.top_p"),
        ("min_p", "general.sampling.min_p"),
        ("temperature", "general.sampling.temp"),
        ("repetition_penalty", "general.sampling.penalty_repeat"),
    ] {
        if let Some(x) = config.find::<f32>(field)? {
            metadata.set(key, Value::F32(x));
        }
    }
    Ok(())
}
