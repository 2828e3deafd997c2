//! Position encoding: `rope_theta` and yarn, as families read them from config.json.

use super::fields::{ROPE, check};
use crate::checkpoint::Config;
use crate::error::{Error, Result, Warning};
use crate::model::layer::Yarn;

/// Warnings about unknown fields of the position encoding.
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

/// Base of the rotations, and yarn, from `rope_theta` and `rope_scaling` or from the newer `rope_parameters`.
///
/// # Errors
/// If a field is missing or absurd, or the scaling has no GGUF form.
pub fn read(config: &Config) -> Result<(f32, Option<Yarn>)> {
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
    let Some(scaling) = scaling else { return Ok((theta, None)) };
    let field = if scaling.has("rope_type") { "rope_type" } else { "type" };
    let kind: String = scaling.get(field)?;
    match kind.as_str() {
        "default" => return Ok((theta, None)),
        "yarn" => {}
        other => {
            let problem = format!("config.json: rope scaling is \"{other}\"; known are yarn and default");
            return Err(Error::Unsupported(problem));
        }
    }
    let beta = |field: &str| {
        if scaling.has(field) { scaling.positive(field).map(Some) } else { Ok(None) }
    };
    let factor = scaling.positive("factor")?;
    let original = scaling.count("original_max_position_embeddings", u32::MAX)?;
    let (beta_fast, beta_slow) = (beta("beta_fast")?, beta("beta_slow")?);
    Ok((theta, Some(Yarn { factor, original, beta_fast, beta_slow, log_multiplier: None })))
}

/// Yarn's multiplier for latent attention, from `mscale` and `mscale_all_dim`.
///
/// # Errors
/// If a field is absurd, or the two have no GGUF form.
pub fn log_multiplier(config: &Config) -> Result<f32> {
    let newer = config.has("rope_parameters");
    let scaling = config.object(if newer { "rope_parameters" } else { "rope_scaling" })?;
    // llama.cpp's loader divides by 0.1 again; without the factor the attention scale is wrong.
    let mscale: f32 = scaling.find("mscale_all_dim")?.unwrap_or(0.0);
    if !(0.0..=100.0).contains(&mscale) {
        return Err(scaling.fault("mscale_all_dim", format!("is {mscale}; expected 0 to 100")));
    }
    // Rotated parts are also multiplied by the ratio of the two. There is no key for that: llama.cpp takes it for 1.
    let rotated: f32 = scaling.find("mscale")?.unwrap_or(1.0);
    if scaling.positive("factor")? > 1.0 && rotated != mscale {
        let problem =
            format!("is {rotated}, and mscale_all_dim is {mscale}; only equal ones have a GGUF form");
        return Err(Error::Unsupported(scaling.says("mscale", &problem)));
    }
    Ok(0.1 * mscale)
}
