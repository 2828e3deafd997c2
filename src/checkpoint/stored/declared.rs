//! How weights are stored according to the configuration: `quantization_config` of config.json, or ModelOpt's
//! hf_quant_config.json.

use serde_json::Value;

use super::fields;
use super::fp8::Grain;
use crate::checkpoint::fields::check;
use crate::checkpoint::{Config, HF_QUANT_CONFIG, Source, exists, read_file};
use crate::error::{Error, Result, Warning};

/// The declared format.
#[derive(Debug)]
pub enum Declared {
    /// Nothing: the tensors speak for themselves.
    Nothing,
    /// FP8, and what its scales may be for, if that is said too: exactly, or by the kind alone.
    Fp8(Vec<Grain>, Vec<Kind>),
    /// Something that cannot be read, as the sentence that refuses it.
    Other(String),
}

/// What a scale is for, without sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tensor,
    Row,
    Block,
}

/// Names of E4M3, the one FP8 of weights.
const E4M3: [&str; 4] = ["e4m3", "e4m3fn", "float8_e4m3", "float8_e4m3fn"];

/// Formats of compressed-tensors that hold FP8.
const FP8_FORMATS: [&str; 3] = ["float-quantized", "naive-quantized", "mxfp8-quantized"];

/// ModelOpt's names of FP8.
const FP8_ALGORITHMS: [(&str, Kind); 4] = [
    ("FP8", Kind::Tensor),
    ("FP8_PB_WO", Kind::Block),
    ("FP8_PB_REAL", Kind::Block),
    ("FP8_PER_CHANNEL_PER_TOKEN", Kind::Row),
];

const READABLE: &str = "FP8 can be read (quant_method \"fp8\", compressed-tensors' float-quantized, modelopt's FP8), and \
                        weights that are not quantized";

/// Reads the declarations. Unknown fields and contradictions are warnings.
///
/// # Errors
/// If a field is missing or of a wrong type, or has a value that no GGUF file can say.
pub fn declared(source: &dyn Source, config: &Config) -> Result<(Declared, Vec<Warning>)> {
    let mut warnings = Vec::new();
    // compressed-tensors' older name of the same.
    let fields = ["quantization_config", "compression_config"];
    let field = fields.into_iter().find(|field| config.has(field));
    if let [Some(first), Some(second)] = fields.map(|field| config.value(field))
        && first != second
    {
        let problem = "is not what quantization_config says, which counts".to_owned();
        warnings.push(Warning::new(config.fault(fields[1], problem)));
    }
    let first = match field {
        Some(field) => Some(method(&config.object(field)?, &mut warnings)?),
        None => None,
    };
    let mut second = None;
    if exists(source, HF_QUANT_CONFIG)? {
        let bytes = read_file(source, HF_QUANT_CONFIG, super::super::MAX_SETTINGS)?;
        let file = Config::parse_as(HF_QUANT_CONFIG, &bytes)?;
        if file.has("quantization") {
            let said = file.object("quantization")?;
            let found = modelopt(&said, &mut warnings)?;
            if first.as_ref().is_some_and(|first| !agree(first, &found)) {
                let found = said.value("quant_algo").map_or("null".to_owned(), Value::to_string);
                let problem = format!(
                    "is {found}, which contradicts config.json's {}; what the tensors show counts",
                    field.unwrap_or_default()
                );
                warnings.push(Warning::new(Error::Unsupported(said.says("quant_algo", &problem))));
            }
            second = Some(found);
        }
    }
    Ok((first.or(second).unwrap_or(Declared::Nothing), warnings))
}

/// Whether both may be said of the same weights.
fn agree(first: &Declared, second: &Declared) -> bool {
    match (first, second) {
        (Declared::Fp8(_, first), Declared::Fp8(_, second)) => {
            first.is_empty() || second.is_empty() || first.iter().any(|kind| second.contains(kind))
        }
        (Declared::Fp8(..), Declared::Other(_)) | (Declared::Other(_), Declared::Fp8(..)) => false,
        _ => true,
    }
}

fn method(config: &Config, warnings: &mut Vec<Warning>) -> Result<Declared> {
    if !config.has("quant_method") && config.has("quant_algo") {
        return modelopt(config, warnings);
    }
    let method: String = config.get("quant_method")?;
    match method.as_str() {
        "fp8" => fp8(config, warnings),
        "compressed-tensors" => compressed_tensors(config, warnings),
        "modelopt" => modelopt(config, warnings),
        other => {
            let bits = ["bits", "w_bit", "bnb_4bit_quant_type", "load_in_4bit", "load_in_8bit", "group_size"];
            let said = bits.iter().filter_map(|field| Some(format!("{field} {}", config.value(field)?)));
            let said: Vec<String> = said.collect();
            let said = if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) };
            Ok(Declared::Other(config.says("quant_method", &format!("is \"{other}\"{said}; {READABLE}"))))
        }
    }
}

fn fp8(config: &Config, warnings: &mut Vec<Warning>) -> Result<Declared> {
    if let Some(kind) = config.value("fmt")
        && !kind.as_str().is_some_and(|kind| E4M3.contains(&kind.to_ascii_lowercase().as_str()))
    {
        return Ok(Declared::Other(config.says("fmt", &format!("is {kind}; e4m3 can be read"))));
    }
    warnings.extend(check(config, &[fields::FP8])?);
    let block = block(config, "weight_block_size")?;
    let grains: Vec<Grain> = block.map(Grain::Block).into_iter().collect();
    let kinds = grains.iter().map(|_| Kind::Block).collect();
    Ok(Declared::Fp8(grains, kinds))
}

fn modelopt(config: &Config, warnings: &mut Vec<Warning>) -> Result<Declared> {
    let algorithm = config.find::<String>("quant_algo")?;
    let known = algorithm.as_ref().map(|name| FP8_ALGORITHMS.iter().find(|(known, _)| known == name));
    let kinds = match (known, algorithm) {
        (Some(None), Some(algorithm)) => {
            let problem = format!("is \"{algorithm}\" (quant_method modelopt); {READABLE}");
            return Ok(Declared::Other(config.says("quant_algo", &problem)));
        }
        (Some(Some((_, kind))), _) => vec![*kind],
        // Null is a model of which only the KV cache is to be quantized.
        _ => Vec::new(),
    };
    warnings.extend(check(config, &[fields::MODELOPT])?);
    Ok(Declared::Fp8(Vec::new(), kinds))
}

fn compressed_tensors(config: &Config, warnings: &mut Vec<Warning>) -> Result<Declared> {
    let format: Option<String> = config.find("format")?;
    let (mut grains, mut kinds) = (Vec::new(), Vec::new());
    let groups = if config.has("config_groups") { Some(config.object("config_groups")?) } else { None };
    let names: Vec<String> = groups.iter().flat_map(Config::names).map(str::to_owned).collect();
    if let Some(transforms) = part(config, "transform_config")? {
        warnings.extend(check(&transforms, &[fields::TRANSFORM])?);
    }
    if let Some(sparsity) = part(config, "sparsity_config")? {
        let format = sparsity.find::<String>("format")?.unwrap_or_else(|| "dense".to_owned());
        if format != "dense" {
            let problem = format!(
                "is \"{format}\" (quant_method compressed-tensors); weights that are left out are not read"
            );
            return Ok(Declared::Other(sparsity.says("format", &problem)));
        }
        warnings.extend(check(&sparsity, &[fields::SPARSITY])?);
    }
    if names.is_empty()
        && let Some(format) = format.as_deref().filter(|format| !is_fp8(format))
    {
        return Ok(Declared::Other(config.says("format", &unreadable(format, ""))));
    }
    let mut told = check(config, &[fields::COMPRESSED_TENSORS])?;
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
        let numbers = if kind == "int" { "integers".to_owned() } else { format!("{kind}s") };
        if format.is_some_and(|format| !is_fp8(&format)) {
            let problem = unreadable(&shown, &format!(", weights are {numbers} of {bits} bits"));
            return Ok(Declared::Other(config.says("format", &problem)));
        }
        if kind != "float" || bits != 8 {
            let field = if kind != "float" { "type" } else { "num_bits" };
            let problem = format!(
                "says that weights are {numbers} of {bits} bits (quant_method compressed-tensors, format {shown}); {READABLE}"
            );
            return Ok(Declared::Other(weights.says(field, &problem)));
        }
        told.extend(check(&group, &[fields::GROUP])?);
        told.extend(check(&weights, &[fields::WEIGHTS])?);
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
        kinds.push(match strategy.as_str() {
            "tensor" => Kind::Tensor,
            "channel" => Kind::Row,
            _ => Kind::Block,
        });
    }
    warnings.extend(told);
    Ok(Declared::Fp8(grains, kinds))
}

/// A part of the settings, if it is there.
fn part(config: &Config, field: &str) -> Result<Option<Config>> {
    if config.has(field) { config.object(field).map(Some) } else { Ok(None) }
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
