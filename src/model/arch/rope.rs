//! Position encoding: `rope_theta` and its scalings, as families read them from config.json.

use std::f32::consts::PI;

use super::fields::{Field, ROPE, check};
use crate::checkpoint::Config;
use crate::error::{Error, Result, Warning};
use crate::model::layer::Yarn;

/// Warnings about unknown fields of the position encoding; the family's `own` list goes before the general one.
///
/// # Errors
/// If one has a value that no GGUF file can say.
pub fn warnings(config: &Config, own: &[Field]) -> Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    for field in ["rope_parameters", "rope_scaling"] {
        if config.has(field) {
            warnings.extend(check(&config.object(field)?, &[own, ROPE])?);
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

/// How frequencies are changed for texts that are longer than those of the training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// They are not.
    None,
    /// Yarn.
    Yarn(Yarn),
    /// All are divided by this.
    Linear(f32),
    /// Llama 3's, which is a tensor in GGUF.
    Llama3(Llama3),
}

/// Llama 3's scaling: long waves are stretched, short ones not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3 {
    factor: f32,
    /// Waves in the original context: with fewer than this a frequency is divided by the factor.
    low: f32,
    /// With more than this it stays.
    high: f32,
    original: f32,
}

impl Llama3 {
    /// What the frequency of each pair of columns is divided by, in f32 as everybody computes it.
    pub fn divisors(&self, theta: f32, columns: u32) -> Vec<f32> {
        let divisor = |pair: u32| {
            let frequency = 1.0 / libm::powf(theta, (2 * pair) as f32 / columns as f32);
            let length = 2.0 * PI / frequency;
            if length < self.original / self.high {
                1.0
            } else if length > self.original / self.low {
                self.factor
            } else {
                let share = (self.original / length - self.low) / (self.high - self.low);
                1.0 / ((1.0 - share) / self.factor + share)
            }
        };
        (0..columns / 2).map(divisor).collect()
    }
}

/// Base of the rotations, or the usual one of a class that has a default for it, and yarn.
///
/// # Errors
/// As [`read_any`].
pub fn read_or(config: &Config, usual: f32) -> Result<(f32, Option<Yarn>)> {
    let (theta, scaling) = read_any(config, Some(usual), &["default", "yarn"])?;
    let yarn = if let Scaling::Yarn(yarn) = scaling { Some(yarn) } else { None };
    Ok((theta, yarn))
}

/// Base of the rotations, and their scaling if it is one of the `known`, from `rope_theta` and `rope_scaling` or from the
/// newer `rope_parameters`; `usual` is the base of a class that has a default for it.
///
/// # Errors
/// If a field is missing or absurd, or the scaling has no GGUF form.
pub fn read_any(config: &Config, usual: Option<f32>, known: &[&str]) -> Result<(f32, Scaling)> {
    let newer = config.has("rope_parameters");
    let scaling = if newer {
        Some(config.object("rope_parameters")?)
    } else if config.has("rope_scaling") {
        Some(config.object("rope_scaling")?)
    } else {
        None
    };
    let theta = match (&scaling, usual) {
        (Some(scaling), _) if newer && scaling.has("rope_theta") => scaling.positive("rope_theta")?,
        (_, Some(usual)) if !config.has("rope_theta") => usual,
        _ => config.positive("rope_theta")?,
    };
    let Some(scaling) = scaling else { return Ok((theta, Scaling::None)) };
    let field = if scaling.has("rope_type") { "rope_type" } else { "type" };
    if scaling.has("full_attention") || scaling.has("sliding_attention") {
        let problem =
            "has a position encoding for each kind of layer, which is not known for this architecture";
        return Err(Error::Unsupported(config.says("rope_parameters", problem)));
    }
    // The newer object is always there, and its type may be left out.
    let kind: String = match newer && !scaling.has(field) {
        true => "default".to_owned(),
        false => scaling.get(field)?,
    };
    let original = || scaling.count("original_max_position_embeddings", u32::MAX);
    if !known.contains(&kind.as_str()) {
        let problem = format!("is \"{kind}\"; known for this architecture are {}", known.join(", "));
        return Err(Error::Unsupported(scaling.says(field, &problem)));
    }
    match kind.as_str() {
        "default" => return Ok((theta, Scaling::None)),
        "linear" => return Ok((theta, Scaling::Linear(scaling.positive("factor")?))),
        "llama3" => {
            let number = |field: &str| scaling.positive(field);
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if low >= high {
                let problem = format!("is {high}; expected more than low_freq_factor, {low}");
                return Err(scaling.fault("high_freq_factor", problem));
            }
            let llama3 = Llama3 { factor: number("factor")?, low, high, original: original()? as f32 };
            return Ok((theta, Scaling::Llama3(llama3)));
        }
        _ => {}
    }
    let number = |field: &str| {
        if scaling.has(field) { scaling.positive(field).map(Some) } else { Ok(None) }
    };
    let factor = scaling.positive("factor")?;
    let (beta_fast, beta_slow) = (number("beta_fast")?, number("beta_slow")?);
    let unused_factor = number("attn_factor")?;
    let yarn =
        Yarn { factor, original: original()?, beta_fast, beta_slow, log_multiplier: None, unused_factor };
    Ok((theta, Scaling::Yarn(yarn)))
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
