//! What the configuration says of how weights are stored: `quantization_config` of config.json, or ModelOpt's
//! hf_quant_config.json.

use serde_json::Value;

use super::fp8::Grain;
use crate::checkpoint::{Config, HF_QUANT_CONFIG, Source, exists, read_file};
use crate::error::Result;

/// What is said.
#[derive(Debug)]
pub enum Declared {
    /// Nothing: the tensors speak for themselves.
    Nothing,
    /// FP8, and what its scales may be for, if that is said too.
    Fp8(Vec<Grain>),
    /// Something that cannot be read, as the sentence that refuses it.
    Other(String),
}

/// Names of E4M3, the one FP8 of weights.
const E4M3: [&str; 4] = ["e4m3", "e4m3fn", "float8_e4m3", "float8_e4m3fn"];

/// Formats of compressed-tensors that hold FP8.
const FP8_FORMATS: [&str; 3] = ["float-quantized", "naive-quantized", "mxfp8-quantized"];

/// ModelOpt's names of FP8.
const FP8_ALGORITHMS: [&str; 4] = ["FP8", "FP8_PB_WO", "FP8_PB_REAL", "FP8_PER_CHANNEL_PER_TOKEN"];

const READABLE: &str = "FP8 can be read (quant_method \"fp8\", compressed-tensors' float-quantized, modelopt's FP8), and \
                        weights that are not quantized";

/// Finds out.
///
/// # Errors
/// If a field is missing or of a wrong type.
pub fn declared(source: &dyn Source, config: &Config) -> Result<Declared> {
    // compressed-tensors' older name of the same.
    for field in ["quantization_config", "compression_config"] {
        if config.has(field) {
            return method(&config.object(field)?);
        }
    }
    if exists(source, HF_QUANT_CONFIG)? {
        let file = Config::parse_as(
            HF_QUANT_CONFIG,
            &read_file(source, HF_QUANT_CONFIG, super::super::MAX_SETTINGS)?,
        )?;
        if file.has("quantization") {
            return modelopt(&file.object("quantization")?);
        }
    }
    Ok(Declared::Nothing)
}

fn method(config: &Config) -> Result<Declared> {
    if !config.has("quant_method") && config.has("quant_algo") {
        return modelopt(config);
    }
    let method: String = config.get("quant_method")?;
    match method.as_str() {
        "fp8" => fp8(config),
        "compressed-tensors" => compressed_tensors(config),
        "modelopt" => modelopt(config),
        other => {
            let bits = ["bits", "w_bit", "bnb_4bit_quant_type", "load_in_4bit", "load_in_8bit", "group_size"];
            let said = bits.iter().filter_map(|field| Some(format!("{field} {}", config.value(field)?)));
            let said: Vec<String> = said.collect();
            let said = if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) };
            Ok(Declared::Other(config.says("quant_method", &format!("is \"{other}\"{said}; {READABLE}"))))
        }
    }
}

fn fp8(config: &Config) -> Result<Declared> {
    if let Some(kind) = config.value("fmt")
        && !kind.as_str().is_some_and(|kind| E4M3.contains(&kind.to_ascii_lowercase().as_str()))
    {
        return Ok(Declared::Other(config.says("fmt", &format!("is {kind}; e4m3 can be read"))));
    }
    Ok(Declared::Fp8(block(config, "weight_block_size")?.map(Grain::Block).into_iter().collect()))
}

fn modelopt(config: &Config) -> Result<Declared> {
    // Null is a model of which only the KV cache is to be quantized.
    match config.find::<String>("quant_algo")? {
        None => Ok(Declared::Fp8(Vec::new())),
        Some(algorithm) if FP8_ALGORITHMS.contains(&algorithm.as_str()) => Ok(Declared::Fp8(Vec::new())),
        Some(algorithm) => {
            let problem = format!("is \"{algorithm}\" (quant_method modelopt); {READABLE}");
            Ok(Declared::Other(config.says("quant_algo", &problem)))
        }
    }
}

fn compressed_tensors(config: &Config) -> Result<Declared> {
    let format: Option<String> = config.find("format")?;
    let mut grains = Vec::new();
    let groups = if config.has("config_groups") { Some(config.object("config_groups")?) } else { None };
    let names: Vec<String> = groups.iter().flat_map(Config::names).map(str::to_owned).collect();
    if names.is_empty()
        && let Some(format) = format.as_deref().filter(|format| !is_fp8(format))
    {
        return Ok(Declared::Other(config.says("format", &unreadable(format, ""))));
    }
    for name in names {
        let group = groups.as_ref().expect("it has the name").object(&name)?;
        if !group.has("weights") {
            continue;
        }
        let format = group.find::<String>("format")?.or_else(|| format.clone());
        let weights = group.object("weights")?;
        let bits: Option<u32> = weights.find("num_bits")?;
        let kind: Option<String> = weights.find("type")?;
        let (kind, bits) = (kind.unwrap_or_else(|| "int".into()), bits.unwrap_or(8));
        let strategy: Option<String> = weights.find("strategy")?;
        let strategy = strategy.unwrap_or_else(|| "tensor".into());
        let shown = format.clone().unwrap_or_else(|| "not named".into());
        if kind != "float" || bits != 8 || format.is_some_and(|format| !is_fp8(&format)) {
            let problem = unreadable(&shown, &format!(", weights are {kind} of {bits} bits"));
            return Ok(Declared::Other(config.says("format", &problem)));
        }
        grains.push(match strategy.as_str() {
            "tensor" => Grain::Tensor,
            "channel" => Grain::Row,
            "block" => match block(&weights, "block_structure")? {
                Some(block) => Grain::Block(block),
                None => return Err(weights.fault("block_structure", "is missing".into())),
            },
            "group" => Grain::Block([1, weights.count("group_size", u32::MAX)?.into()]),
            other => {
                let problem = format!("is \"{other}\" (quant_method compressed-tensors, format {shown}); tensor, channel, block and group can be read");
                return Ok(Declared::Other(weights.says("strategy", &problem)));
            }
        });
    }
    Ok(Declared::Fp8(grains))
}

fn is_fp8(format: &str) -> bool {
    FP8_FORMATS.contains(&format) || format == "dense"
}

fn unreadable(format: &str, more: &str) -> String {
    format!("is \"{format}\" (quant_method compressed-tensors{more}); {READABLE}")
}

/// Rows and columns of a block: two numbers, or null.
fn block(config: &Config, field: &str) -> Result<Option<[u64; 2]>> {
    let Some(value) = config.value(field) else { return Ok(None) };
    let numbers = match value {
        Value::Array(sizes) => sizes.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>(),
        // As in "128x128".
        Value::String(text) => text.split('x').map(|size| size.trim().parse().ok()).collect(),
        _ => None,
    };
    match numbers.as_deref() {
        Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok(Some([rows, columns])),
        _ => Err(config.fault(field, format!("is {}; expected two sizes", spaced(value)))),
    }
}

/// JSON on one line, with a space after each comma.
fn spaced(value: &Value) -> String {
    value.to_string().replace(',', ", ")
}
