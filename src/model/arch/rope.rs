//! Position encoding: `rope_theta` and yarn, as the metadata of any family.

use super::fields::{ROPE, check};
use crate::checkpoint::Config;
use crate::error::{Error, Result, Warning};
use crate::gguf::Value;

/// What is not known of the position encoding's fields.
///
/// # Errors
/// If one has a value that no GGUF file can say.
pub fn warnings(config: &Config) -> Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    for field in ["rope_parameters", "rope_scaling"] {
        if config.has(field) {
            warnings.extend(check(&config.object(field)?, &[ROPE])?);
        }
    }
    // The newer of the two counts, and what it says of rope_theta.
    if config.has("rope_parameters") {
        let newer = config.object("rope_parameters")?;
        if config.has("rope_scaling") {
            let older = config.object("rope_scaling")?;
            warnings.extend(older.names().filter_map(|name| contradiction(&older, &newer, name)));
        }
        warnings.extend(contradiction(config, &newer, "rope_theta"));
    }
    Ok(warnings)
}

/// A warning, if a field has another value in the newer place.
fn contradiction(older: &Config, newer: &Config, name: &str) -> Option<Warning> {
    let (before, now) = (older.value(name)?, newer.value(name)?);
    let is_same = match (before.as_f64(), now.as_f64()) {
        (Some(before), Some(now)) => before == now,
        _ => before == now,
    };
    let problem = format!("is {before}, but {}", newer.says(name, &format!("is {now}, and counts")));
    (!is_same).then(|| Warning::new(older.fault(name, problem)))
}

/// Position encoding, from `rope_theta` and `rope_scaling` or from the newer `rope_parameters`.
pub fn describe(config: &Config, set: &mut impl FnMut(&str, Value)) -> Result<()> {
    let newer = config.has("rope_parameters");
    let scaling = if newer {
        Some(config.object("rope_parameters")?)
    } else if config.has("rope_scaling") {
        Some(config.object("rope_scaling")?)
    } else {
        None
    };
    let theta = match &scaling {
        Some(scaling) if newer && scaling.has("rope_theta") => scaling.positive("rope_theta")?,
        _ => config.positive("rope_theta")?,
    };
    set("rope.freq_base", Value::F32(theta));

    let Some(scaling) = scaling else { return Ok(()) };
    let field = if scaling.has("rope_type") { "rope_type" } else { "type" };
    let kind: String = scaling.get(field)?;
    match kind.as_str() {
        "default" => return Ok(()),
        "yarn" => {}
        other => {
            let problem = format!("config.json: rope scaling is \"{other}\"; known are yarn and default");
            return Err(Error::Unsupported(problem));
        }
    }
    set("rope.scaling.type", "yarn".into());
    set("rope.scaling.factor", Value::F32(scaling.positive("factor")?));
    let original = scaling.count("original_max_position_embeddings", u32::MAX)?;
    set("rope.scaling.original_context_length", Value::U32(original));
    for (field, key) in
        [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")]
    {
        if scaling.has(field) {
            set(key, Value::F32(scaling.positive(field)?));
        }
    }
    // llama.cpp's loader divides by 0.1 again; without the factor the attention scale is wrong.
    let mscale: f32 = scaling.find("mscale_all_dim")?.unwrap_or(0.0);
    if !(0.0..=100.0).contains(&mscale) {
        return Err(scaling.fault("mscale_all_dim", format!("is {mscale}; expected 0 to 100")));
    }
    // What rotated parts are multiplied by besides, the ratio of the two, has no key: llama.cpp takes it for 1.
    let rotated: f32 = scaling.find("mscale")?.unwrap_or(1.0);
    if scaling.positive("factor")? > 1.0 && rotated != mscale {
        let problem =
            format!("is {rotated}, and mscale_all_dim is {mscale}; only equal ones have a GGUF form");
        return Err(Error::Unsupported(scaling.says("mscale", &problem)));
    }
    set("rope.scaling.yarn_log_multiplier", Value::F32(0.1 * mscale));
    Ok(())
}
