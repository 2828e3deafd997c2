//! How weights are stored according to the configuration: `quantization_config` of config.json, or ModelOpt's
//! hf_quant_config.json.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::fields;
use super::fp8::Grain;
use crate::checkpoint::fields::check_all as check;
use crate::checkpoint::{Config, HF_QUANT_CONFIG, Source, exists, read_file};
use crate::error::{Error, Result, Warning};

/// The declared format.
#[derive(Debug)]
pub enum Declared {
    /// Nothing: the tensors speak for themselves.
    Nothing,
    /// What the tensors do not show.
    Said(Said),
    /// Something that cannot be read, as the sentence that refuses it.
    Other(String),
}

/// What a declaration says of weights that the tensors do not.
#[derive(Debug, Default)]
pub struct Said {
    /// Of what an FP8 scale may be for, exactly.
    pub grains: Vec<Grain>,
    /// What is declared at all.
    pub kinds: Vec<Kind>,
    /// Integers in a row.
    pub integers: Vec<Integers>,
    /// Integers along the other axis.
    pub across: Option<AcrossSaid>,
    /// BitNet: whether the scale is divided by.
    pub bitnet: Option<bool>,
}

impl Said {
    fn of(kinds: &[Kind]) -> Self {
        Self { kinds: kinds.to_vec(), ..Self::default() }
    }
}

/// Integers of compressed-tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integers {
    pub bits: u32,
    /// The weights that share a scale.
    pub share: Share,
    /// Whether columns are grouped in another order, which a tensor gives.
    pub ordered: bool,
    /// Whether there are no zero points.
    pub symmetric: bool,
}

/// The weights that share a scale, of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// All.
    Tensor,
    /// Those of a row.
    Row,
    /// So many columns of a row.
    Group(u64),
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tensor => write!(f, "tensor"),
            Self::Row => write!(f, "channel"),
            Self::Group(size) => write!(f, "group of {size}"),
        }
    }
}

/// Integers of GPTQ or AWQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcrossSaid {
    pub kind: AcrossKind,
    /// Weights of a row that share a scale, unless the row does.
    pub group: Option<u64>,
    /// Whether columns are grouped in another order, which a tensor gives.
    pub ordered: bool,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcrossKind {
    /// GPTQ, and whether it is the first version, which stores zero points less one.
    Gptq {
        bits: u32,
        first: bool,
    },
    Awq,
}

/// What is declared, without sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// FP8 with a scale for the tensor.
    Tensor,
    /// FP8 with a scale for each row.
    Row,
    /// FP8 with a scale for each block.
    Block,
    /// FP8, of which no more is said.
    Fp8,
    /// Floats of 4 or 6 bits.
    SmallFloats,
    /// Integers.
    Integers,
    /// Whatever its tensors show.
    Other,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tensor | Self::Row | Self::Block | Self::Fp8 => "FP8",
            Self::SmallFloats => "floats of 4 or 6 bits",
            Self::Integers => "integers",
            Self::Other => "something else",
        })
    }
}

/// Names of the two kinds of FP8.
const FP8: [&str; 6] = ["e4m3", "e4m3fn", "float8_e4m3", "float8_e4m3fn", "e5m2", "float8_e5m2"];

/// Formats of compressed-tensors: name, kind of numbers, and their bits.
const FORMATS: [(&str, &[&str], RangeInclusive<u32>); 8] = [
    ("float-quantized", &["float"], 8..=8),
    ("int-quantized", &["int"], 2..=8),
    ("naive-quantized", &["float", "int"], 2..=8),
    ("pack-quantized", &["int"], 2..=8),
    ("nvfp4-pack-quantized", &["float"], 4..=4),
    ("mxfp4-pack-quantized", &["float"], 4..=4),
    ("mxfp6-pack-quantized", &["float"], 6..=6),
    ("mxfp8-quantized", &["float"], 8..=8),
];

/// ModelOpt's names.
const ALGORITHMS: [(&str, Kind); 7] = [
    ("FP8", Kind::Tensor),
    ("FP8_PB_WO", Kind::Block),
    ("FP8_PB_REAL", Kind::Block),
    ("FP8_PER_CHANNEL_PER_TOKEN", Kind::Row),
    ("NVFP4", Kind::SmallFloats),
    ("W4A16_NVFP4", Kind::SmallFloats),
    ("MIXED_PRECISION", Kind::Other),
];

const READABLE: &str = "fp8, compressed-tensors, modelopt's FP8 and NVFP4, mxfp4, gptq, awq (gemm), bitsandbytes and \
                        bitnet can be read, and weights that are not quantized";

/// Reads the declarations. Contradictions are warnings.
///
/// # Errors
/// If a field is missing, not known or of a wrong type, or has a value that no GGUF file can say.
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
        Some(field) => Some(method(&config.object(field)?)?),
        None => None,
    };
    let mut second = None;
    if exists(source, HF_QUANT_CONFIG)? {
        let bytes = read_file(source, HF_QUANT_CONFIG, super::super::MAX_SETTINGS)?;
        let file = Config::parse_as(HF_QUANT_CONFIG, &bytes)?;
        if file.has("quantization") {
            let said = file.object("quantization")?;
            let found = modelopt(&said)?;
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
    let is_fp8 = |kind: &Kind| matches!(kind, Kind::Tensor | Kind::Row | Kind::Block | Kind::Fp8);
    let alike = |(a, b): (&Kind, &Kind)| {
        a == b || [a, b].contains(&&Kind::Other) || (is_fp8(a) && is_fp8(b) && [a, b].contains(&&Kind::Fp8))
    };
    match (first, second) {
        (Declared::Said(first), Declared::Said(second)) => {
            first.kinds.is_empty()
                || second.kinds.is_empty()
                || first.kinds.iter().any(|a| second.kinds.iter().any(|b| alike((a, b))))
        }
        (Declared::Said(_), Declared::Other(_)) | (Declared::Other(_), Declared::Said(_)) => false,
        _ => true,
    }
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
        "mxfp4" => {
            check(config, &[fields::MXFP4])?;
            Ok(Declared::Said(Said::of(&[Kind::SmallFloats])))
        }
        "gptq" => gptq(config),
        "awq" => awq(config),
        "bitsandbytes" => {
            check(config, &[fields::BITSANDBYTES])?;
            Ok(Declared::Said(Said::of(&[Kind::Other])))
        }
        "bitnet" => bitnet(config),
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
        && !kind.as_str().is_some_and(|kind| FP8.contains(&kind.to_ascii_lowercase().as_str()))
    {
        return Ok(Declared::Other(config.says("fmt", &format!("is {kind}; e4m3 and e5m2 can be read"))));
    }
    check(config, &[fields::FP8])?;
    let block = block(config, "weight_block_size")?;
    let grains: Vec<Grain> = block.map(Grain::Block).into_iter().collect();
    let kinds = if grains.is_empty() { vec![Kind::Fp8] } else { vec![Kind::Block] };
    Ok(Declared::Said(Said { grains, kinds, ..Said::default() }))
}

fn modelopt(config: &Config) -> Result<Declared> {
    let algorithm = config.find::<String>("quant_algo")?;
    let known = algorithm.as_ref().map(|name| ALGORITHMS.iter().find(|(known, _)| known == name));
    let kinds = match (known, algorithm) {
        (Some(None), Some(algorithm)) => {
            let problem = format!("is \"{algorithm}\" (quant_method modelopt); {READABLE}");
            return Ok(Declared::Other(config.says("quant_algo", &problem)));
        }
        (Some(Some((_, kind))), _) => vec![*kind],
        // Null is a model of which only the KV cache is to be quantized.
        _ => Vec::new(),
    };
    check(config, &[fields::MODELOPT])?;
    if let Some(layers) = part(config, "quantized_layers")? {
        for name in layers.names().map(str::to_owned).collect::<Vec<_>>() {
            let layer = layers.object(&name)?;
            let algorithm = layer.find::<String>("quant_algo")?;
            if let Some(other) = algorithm.filter(|name| !ALGORITHMS.iter().any(|(known, _)| known == name)) {
                let problem = format!("is \"{other}\" (quant_method modelopt); {READABLE}");
                return Ok(Declared::Other(layer.says("quant_algo", &problem)));
            }
        }
    }
    Ok(Declared::Said(Said { kinds, ..Said::default() }))
}

/// Weights that share a scale: -1 is a whole row.
fn group(config: &Config, fields: &[&str]) -> Result<Option<u64>> {
    let Some(field) = fields.iter().find(|field| config.has(field)) else { return Ok(None) };
    match config.get::<i64>(field)? {
        -1 => Ok(None),
        size if size > 0 => Ok(Some(size as u64)),
        size => Err(config.fault(field, format!("is {size}; expected a size above zero, or -1"))),
    }
}

fn gptq(config: &Config) -> Result<Declared> {
    let bits = config.count("bits", 64)?;
    if ![2, 3, 4, 8].contains(&bits) {
        let problem = format!("is {bits} (quant_method gptq); 2, 3, 4 and 8 can be read");
        return Ok(Declared::Other(config.says("bits", &problem)));
    }
    // GPTQModel's name for it is shorter.
    let field = if config.has("checkpoint_format") { "checkpoint_format" } else { "format" };
    let format: Option<String> = config.find(field)?;
    let first = match format.as_deref() {
        None | Some("gptq") => true,
        Some("gptq_v2") => false,
        Some(other) => {
            let problem = format!("is \"{other}\" (quant_method gptq); gptq and gptq_v2 can be read");
            return Ok(Declared::Other(config.says(field, &problem)));
        }
    };
    check(config, &[fields::GPTQ])?;
    let across = Some(AcrossSaid {
        kind: AcrossKind::Gptq { bits, first },
        group: group(config, &["group_size"])?,
        ordered: config.find("desc_act")?.unwrap_or(false),
    });
    Ok(Declared::Said(Said { across, ..Said::of(&[Kind::Integers]) }))
}

fn awq(config: &Config) -> Result<Declared> {
    for field in ["bits", "w_bit"].into_iter().filter(|field| config.has(field)) {
        let bits = config.count(field, 64)?;
        if bits != 4 {
            let problem = format!("is {bits} (quant_method awq); 4 can be read");
            return Ok(Declared::Other(config.says(field, &problem)));
        }
    }
    let version: Option<String> = config.find("version")?;
    if let Some(version) = version.filter(|version| !version.eq_ignore_ascii_case("gemm")) {
        let problem = format!("is \"{version}\" (quant_method awq); gemm can be read");
        return Ok(Declared::Other(config.says("version", &problem)));
    }
    check(config, &[fields::AWQ])?;
    let group = group(config, &["group_size", "q_group_size"])?;
    let across = AcrossSaid { kind: AcrossKind::Awq, group, ordered: false };
    Ok(Declared::Said(Said { across: Some(across), ..Said::of(&[Kind::Integers]) }))
}

fn bitnet(config: &Config) -> Result<Declared> {
    check(config, &[fields::BITNET])?;
    let class: Option<String> = config.find("linear_class")?;
    let inverse = match class.as_deref() {
        None | Some("bitlinear") => true,
        Some("autobitlinear") => false,
        Some(other) => {
            let problem =
                format!("is \"{other}\" (quant_method bitnet); bitlinear and autobitlinear can be read");
            return Ok(Declared::Other(config.says("linear_class", &problem)));
        }
    };
    Ok(Declared::Said(Said { bitnet: Some(inverse), ..Said::of(&[Kind::Other]) }))
}

fn compressed_tensors(config: &Config) -> Result<Declared> {
    let format: Option<String> = config.find("format")?;
    let mut all = Said::default();
    let groups = if config.has("config_groups") { Some(config.object("config_groups")?) } else { None };
    let names: Vec<String> = groups.iter().flat_map(Config::names).map(str::to_owned).collect();
    if let Some(transforms) = part(config, "transform_config")? {
        check(&transforms, &[fields::TRANSFORM])?;
    }
    if let Some(sparsity) = part(config, "sparsity_config")? {
        let format = sparsity.find::<String>("format")?.unwrap_or_else(|| "dense".to_owned());
        if format != "dense" {
            let problem = format!(
                "is \"{format}\" (quant_method compressed-tensors); weights that are left out are not read"
            );
            return Ok(Declared::Other(sparsity.says("format", &problem)));
        }
        check(&sparsity, &[fields::SPARSITY])?;
    }
    if names.is_empty()
        && let Some(format) = format.as_deref().filter(|format| !is_known(format))
    {
        return Ok(Declared::Other(config.says("format", &unreadable(format, ""))));
    }
    check(config, &[fields::COMPRESSED_TENSORS])?;
    for name in names {
        let group = groups.as_ref().expect("it has the name").object(&name)?;
        if !group.has("weights") {
            continue;
        }
        let format = group.find::<String>("format")?.or_else(|| format.clone());
        let weights = group.object("weights")?;
        match of_group(config, &weights, format)? {
            Ok(said) => {
                check(&group, &[fields::GROUP])?;
                check(&weights, &[fields::WEIGHTS])?;
                all.grains.extend(said.grains);
                all.kinds.extend(said.kinds);
                all.integers.extend(said.integers);
            }
            Err(problem) => return Ok(Declared::Other(problem)),
        }
    }
    Ok(Declared::Said(all))
}

/// What one group of compressed-tensors says, or why it cannot be read.
fn of_group(config: &Config, weights: &Config, format: Option<String>) -> Result<Result<Said, String>> {
    let bits: Option<u32> = weights.find("num_bits")?;
    let kind: Option<String> = weights.find("type")?;
    let (kind, bits) = (kind.unwrap_or_else(|| "int".into()), bits.unwrap_or(8));
    let shown = format.clone().unwrap_or_else(|| "not named".into());
    let numbers = if kind == "int" { "integers".to_owned() } else { format!("{kind}s") };
    let size = group(weights, &["group_size"])?;
    let strategy: Option<String> = weights.find("strategy")?;
    let usual = match size {
        Some(_) => "group",
        // -1 is a whole row.
        None if weights.has("group_size") => "channel",
        None => "tensor",
    };
    let strategy = strategy.unwrap_or_else(|| usual.into());
    if let Some(format) = format.as_deref().filter(|format| !is_known(format)) {
        let problem = unreadable(format, &format!(", weights are {numbers} of {bits} bits"));
        return Ok(Err(config.says("format", &problem)));
    }
    let listed = format.as_deref().and_then(|format| FORMATS.iter().find(|(name, ..)| *name == format));
    let kinds: &[&str] = listed.map_or(&["int", "float"], |(_, kinds, _)| kinds);
    let range = match (listed, kind.as_str()) {
        (Some((_, _, range)), _) => range.clone(),
        (None, "int") => 2..=8,
        (None, _) => 4..=8,
    };
    let is_float = matches!((kind.as_str(), bits), ("float", 4 | 6 | 8));
    if !kinds.contains(&kind.as_str()) || !range.contains(&bits) || (kind == "float" && !is_float) {
        let field = if kinds.contains(&kind.as_str()) { "num_bits" } else { "type" };
        let problem = format!(
            "says that weights are {numbers} of {bits} bits (quant_method compressed-tensors, format {shown}); {READABLE}"
        );
        return Ok(Err(weights.says(field, &problem)));
    }
    let symmetric = weights.find::<bool>("symmetric")?.unwrap_or(true);
    if kind == "float" && !symmetric {
        let problem = "is false; only true has a meaning for floats".to_owned();
        return Ok(Err(weights.says("symmetric", &problem)));
    }
    if !["tensor", "channel", "block", "group", "tensor_group"].contains(&strategy.as_str()) {
        let problem = format!(
            "is \"{strategy}\" (quant_method compressed-tensors, format {shown}); tensor, channel, block, group and tensor_group can be read"
        );
        return Ok(Err(weights.says("strategy", &problem)));
    }
    if kind == "int" {
        if strategy == "block" {
            let problem = format!(
                "is \"block\" for integers (quant_method compressed-tensors, format {shown}); tensor, channel and group can be read"
            );
            return Ok(Err(weights.says("strategy", &problem)));
        }
        // Ordered by groups; "weight" and "static" leave columns where they are.
        let order: Option<String> = weights.find("actorder")?;
        let ordered = order.is_some_and(|order| order.eq_ignore_ascii_case("group"));
        let share = match (strategy.as_str(), size) {
            ("tensor", _) => Share::Tensor,
            ("channel", _) => Share::Row,
            (_, Some(size)) => Share::Group(size),
            (_, None) => {
                let problem = format!("is \"{strategy}\", and group_size does not say of how many columns");
                return Ok(Err(weights.says("strategy", &problem)));
            }
        };
        let integers = vec![Integers { bits, share, ordered, symmetric }];
        return Ok(Ok(Said { integers, ..Said::of(&[Kind::Integers]) }));
    }
    if bits < 8 {
        return Ok(Ok(Said::of(&[Kind::SmallFloats])));
    }
    let (grain, kind) = match strategy.as_str() {
        "tensor" => (Grain::Tensor, Kind::Tensor),
        "channel" => (Grain::Row, Kind::Row),
        "block" => match block(weights, "block_structure")? {
            Some(block) => (Grain::Block(block), Kind::Block),
            None => return Err(weights.fault("block_structure", "is missing".into())),
        },
        _ => (Grain::Block([1, weights.count("group_size", u32::MAX)?.into()]), Kind::Block),
    };
    Ok(Ok(Said { grains: vec![grain], ..Said::of(&[kind]) }))
}

/// A part of the settings, if it is there.
fn part(config: &Config, field: &str) -> Result<Option<Config>> {
    if config.has(field) { config.object(field).map(Some) } else { Ok(None) }
}

fn is_known(format: &str) -> bool {
    ["dense", "mixed-precision"].contains(&format) || FORMATS.iter().any(|(name, ..)| *name == format)
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
