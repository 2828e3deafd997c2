//! Weights whose codes, scales and zero points are tensors of their own: they decode to the bits that the reference
//! libraries give (fixtures/stored), whole checkpoints become the same file as their decoded twins, and what is missing
//! or contradictory is an error.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use quantpress::checkpoint::{Checkpoint, Matrix, Values};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::checkpoint::{Copy, Shard, with_header};
use crate::support::families::family;
use crate::support::python::llama;
use crate::support::{fixture, quantpress, succeed, tensor_hashes, text};

/// Dtype, shape and bytes of tensors, by name.
type Tensors = BTreeMap<String, (String, Vec<u64>, Vec<u8>)>;

fn load(file: &Path) -> Tensors {
    let mut shard = Shard::parse(&fs::read(file).expect("read"));
    let mut all = Tensors::new();
    for (name, entry) in shard.header.clone() {
        if name != "__metadata__" {
            let shape = serde_json::from_value(entry["shape"].clone()).expect("a shape");
            let dtype = entry["dtype"].as_str().expect("a dtype").to_owned();
            all.insert(name.clone(), (dtype, shape, shard.tensor(&name).to_vec()));
        }
    }
    all
}

fn bytes(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let begin = data.len();
        data.extend(bytes);
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]}),
        );
    }
    with_header(Value::Object(header).to_string().as_bytes(), &data)
}

fn formats() -> Vec<PathBuf> {
    let folders = fs::read_dir(fixture("stored")).expect("the fixtures are there");
    let mut folders: Vec<PathBuf> =
        folders.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() > 20, "{folders:?}");
    folders
}

#[test]
fn every_format_decodes_to_the_bits_of_the_reference_whole_and_in_windows() {
    for folder in formats() {
        let checkpoint =
            Checkpoint::open_folder(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for (name, (_, shape, bytes)) in load(&folder.join("expected.safetensors")) {
            let place = format!("{} {name}", folder.display());
            let matrix = Matrix::open(&checkpoint, &name).unwrap_or_else(|e| panic!("{place}: {e}"));
            assert_eq!(matrix.tensor().shape, shape, "{place}");
            let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            let (rows, columns) = (matrix.tensor().rows(), matrix.tensor().columns());
            let mut windows: Vec<Range<u64>> = (0..rows).map(|row| row..row + 1).collect();
            windows.extend([0..rows, 1..rows, 0..rows - 1, rows / 3..rows.div_ceil(2) + 1, rows - 2..rows]);
            for rows in windows {
                let mut found = vec![0.0; ((rows.end - rows.start) * columns) as usize];
                matrix.read(rows.clone(), &mut Vec::new(), &mut found, Values::Any).expect("numbers");
                let expected = &expected[(rows.start * columns) as usize..(rows.end * columns) as usize];
                let differs = found.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
                if let Some(index) = differs {
                    let at = [rows.start + index as u64 / columns, index as u64 % columns];
                    panic!("{place} at {at:?} of {rows:?}: {} for {}", found[index], expected[index]);
                }
            }
        }
    }
}

#[test]
fn rows_across_the_words_are_the_same_by_themselves_and_in_bands() {
    // A band has 32 rows of this length, and there are 40.
    let (rows, columns) = (40, 1 << 19);
    let mut random = Random(1);
    let mut words =
        |count: u64| (0..count).flat_map(|_| (random.below(1 << 31) as u32).to_le_bytes()).collect();
    let copy = altered("gptq4-v1", |tensors, config| {
        config["group_size"] = json!(-1);
        config["desc_act"] = json!(false);
        tensors.remove("m.g_idx");
        tensors
            .insert("m.qweight".into(), ("I32".into(), vec![columns / 8, rows], words(columns / 8 * rows)));
        tensors.insert("m.qzeros".into(), ("I32".into(), vec![1, rows / 8], words(rows / 8)));
        tensors.insert("m.scales".into(), ("F16".into(), vec![1, rows], [0, 0x20].repeat(rows as usize)));
    });
    let checkpoint = Checkpoint::open_folder(copy.path()).expect("sound");
    let matrix = Matrix::open(&checkpoint, "m.weight").expect("GPTQ");
    let read = |rows: Range<u64>| {
        let mut raw = Vec::new();
        matrix.load(rows, &mut raw).expect("read");
        raw
    };
    for window in [0..7, 28..35, 33..40, 3..5] {
        assert!(read(window.clone()) == window.flat_map(|row| read(row..row + 1)).collect::<Vec<u8>>());
    }
}

/// A copy of a fixture with something changed.
fn altered(format: &str, change: impl FnOnce(&mut Tensors, &mut Value)) -> TempDir {
    let folder = fixture("stored").join(format);
    let mut tensors = load(&folder.join("model.safetensors"));
    let config = fs::read(folder.join("config.json")).expect("read");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    change(&mut tensors, &mut config["quantization_config"]);
    let copy = TempDir::new().expect("a temporary folder");
    fs::write(copy.path().join("model.safetensors"), bytes(&tensors)).expect("written");
    fs::write(copy.path().join("config.json"), config.to_string()).expect("written");
    copy
}

/// It is refused when it is opened, or when its weights are.
#[track_caller]
fn refused(format: &str, code: u8, words: &[&str], change: impl FnOnce(&mut Tensors, &mut Value)) {
    let copy = altered(format, change);
    let opened = Checkpoint::open_folder(copy.path());
    let error = match &opened {
        Err(error) => error.to_string(),
        Ok(checkpoint) => {
            let mut names: Vec<&str> = checkpoint.tensors().map(|tensor| &*tensor.name).collect();
            names.retain(|name| !checkpoint.is_companion(name));
            names.sort_unstable();
            let failed = names.iter().find_map(|name| {
                let mut matrix = Matrix::open(checkpoint, name);
                if let Ok(found) = &mut matrix {
                    let rows = found.tensor().rows();
                    let mut out = vec![0.0; (rows * found.tensor().columns()) as usize];
                    return found.read(0..rows, &mut Vec::new(), &mut out, Values::Any).err();
                }
                matrix.err().filter(|error| error.exit_code() == code)
            });
            failed.unwrap_or_else(|| panic!("{format}: expected {words:?}")).to_string()
        }
    };
    if let Err(error) = &opened {
        assert_eq!(error.exit_code(), code, "{error}");
    }
    for word in words {
        assert!(error.contains(word), "\"{word}\" is not in: {error}");
    }
}

fn without(name: &'static str) -> impl FnOnce(&mut Tensors, &mut Value) {
    move |tensors, _| drop(tensors.remove(name).unwrap_or_else(|| panic!("{name} is there")))
}

/// Gives a tensor another shape, and as many bytes.
fn reshaped(name: &'static str, shape: &'static [u64]) -> impl FnOnce(&mut Tensors, &mut Value) {
    move |tensors, _| {
        let tensor = tensors.get_mut(name).unwrap_or_else(|| panic!("{name} is there"));
        let size = tensor.2.len() as u64 / tensor.1.iter().product::<u64>();
        tensor.1 = shape.to_vec();
        tensor.2.resize((shape.iter().product::<u64>() * size) as usize, 0);
    }
}

fn said(field: &'static str, value: Value) -> impl FnOnce(&mut Tensors, &mut Value) {
    move |_, config| config[field] = value
}

#[test]
fn companions_that_are_missing_are_named() {
    for (format, tensor, words) in [
        (
            "ct-int4",
            "group32.sym.weight_scale",
            &["group32.sym.weight_packed", "needs its scales", "model.safetensors does not name it"][..],
        ),
        ("ct-int4", "group32.sym.weight_packed", &["weight_s", "model.safetensors"]),
        ("ct-order", "ordered.weight_zero_point", &["ordered.weight_packed", "zero points"]),
        ("ct-loose3", "loose.weight_shape", &["loose.weight_packed", "needs its shape"]),
        ("ct-floats", "mxfp4.weight_scale", &["mxfp4.weight_packed", "needs its scales"]),
        (
            "ct-floats",
            "nvfp4.weight_global_scale",
            &["nvfp4.weight_packed", "weight_global_scale", "names neither"],
        ),
        ("modelopt-nvfp4", "m.weight_scale_2", &["m.weight", "weight_scale_2", "names neither"]),
        ("gpt-oss", "experts.gate_up_proj_scales", &["gate_up_proj_blocks", "needs its scales"]),
        ("fp8-e5m2", "m.weight_scale_inv", &["m.weight", "is F8_E5M2, which needs its block scales"]),
        ("gptq4-v1", "m.qzeros", &["m.qweight", "zero points", "m.qzeros"]),
        ("gptq4-v1", "m.scales", &["m.qweight", "scales", "m.scales"]),
        ("gptq4-v1", "m.qweight", &["m.g_idx", "m.qweight"]),
        ("awq", "m.qzeros", &["m.qweight", "zero points"]),
        ("bitsandbytes", "nf4.weight.absmax", &["nf4.weight", "needs its factors"]),
        ("bitsandbytes", "nf4.weight.quant_map", &["nf4.weight", "table of values"]),
        ("bitsandbytes", "nested.weight.nested_absmax", &["nested.weight", "factors of the factors"]),
        ("bitsandbytes", "nf4.weight.quant_state.bitsandbytes__nf4", &["nf4.weight", "shape and block size"]),
        ("bitsandbytes", "nf4.weight", &["nf4.weight.", "whose codes \"nf4.weight\""]),
    ] {
        refused(format, 3, words, without(tensor));
    }
    // Nothing shows what the bytes are.
    refused("ct-bytes", 4, &["channel.weight", "dtype I8"], without("channel.weight_scale"));
    refused("bitnet-bitlinear", 4, &["m.weight", "dtype U8"], without("m.weight_scale"));
    refused("mxfp4-scale", 4, &["flat.weight", "dtype I8"], without("flat.scale"));
    refused("bitsandbytes", 4, &["dtype I8"], |tensors, _| {
        tensors.retain(|name, _| name == "eight.weight");
    });
}

#[test]
fn shapes_that_contradict_each_other_are_errors() {
    for (format, tensor, shape, words) in [
        ("ct-int4", "group32.sym.weight_packed", &[12, 15][..], &["rows of 15 words", "128"][..]),
        ("ct-int4", "group32.sym.weight_scale", &[12, 3], &["is F16 [12, 3]", "groups of"]),
        ("ct-int4", "group32.sym.weight_scale", &[11, 4], &["is F16 [11, 4]"]),
        ("ct-int4", "group32.asym.weight_zero_point", &[3, 4], &["is I32 [3, 4]; expected I32 [2, 4]"]),
        ("ct-order", "ordered.weight_g_idx", &[95], &["expected I32 [96]"]),
        ("ct-bytes", "zeros.weight_zero_point", &[3], &["expected I8 [11, 1]"]),
        ("ct-bytes", "channel.weight_scale", &[10, 1], &["is BF16 [10, 1]"]),
        ("ct-floats", "mxfp4.weight_scale", &[7, 4], &["is U8 [7, 4]", "4 or 6 bits"]),
        ("ct-floats", "nvfp4.weight_scale", &[7, 5], &["is F8_E4M3 [7, 5]"]),
        ("ct-floats", "nvfp4.weight_global_scale", &[2], &["expected F32 with 1 numbers"]),
        ("gpt-oss", "experts.gate_up_proj_scales", &[2, 5, 3], &["a U8 scale for each"]),
        ("gptq3-v1", "m.qweight", &[8, 64], &["8 words along a row"]),
        ("gptq4-v1", "m.scales", &[2, 64], &["is F16 [2, 64]; expected F16 [3, 64]"]),
        ("gptq4-v1", "m.qzeros", &[3, 7], &["expected I32 [3, 8]"]),
        ("gptq4-v1", "m.g_idx", &[95], &["expected I32 [96]"]),
        ("awq", "m.qzeros", &[2, 8], &["expected I32 [2, 9]"]),
        ("bitsandbytes", "nf4.weight.absmax", &[11], &["expected 12"]),
        ("bitsandbytes", "nf4.weight.quant_map", &[15], &["with 16 numbers"]),
        ("bitsandbytes", "nf4.weight", &[100, 1], &["has 100 bytes"]),
        ("bitsandbytes", "eight.SCB", &[9], &["expected F32 [10]"]),
        ("bitnet-bitlinear", "m.weight_scale", &[2], &["expected one F32"]),
    ] {
        refused(format, 3, words, reshaped(tensor, shape));
    }
}

#[test]
fn contents_that_contradict_each_other_are_errors() {
    refused("ct-int4", 3, &["weight_shape", "holds"], |tensors, _| {
        tensors.get_mut("group32.sym.weight_shape").expect("there").2[0] = 11;
    });
    refused("ct-order", 3, &["weight_g_idx", "group 3 for column 5", "3 groups"], |tensors, _| {
        tensors.get_mut("ordered.weight_g_idx").expect("there").2[20] = 3;
    });
    refused("gptq4-v1", 3, &["m.g_idx", "column 0"], |tensors, _| {
        tensors.get_mut("m.g_idx").expect("there").2[3] = 0x80;
    });
    refused("ct-floats", 3, &["mxfp4.weight_scale", "NaN at row 1, column 0"], |tensors, _| {
        tensors.get_mut("mxfp4.weight_scale").expect("there").2[3] = 0xff;
    });
    refused("gptq4-v1", 3, &["m.scales", "scales are finite"], |tensors, _| {
        tensors.get_mut("m.scales").expect("there").2[..2].copy_from_slice(&[0, 0x7c]);
    });
    refused("modelopt-nvfp4", 3, &["two scales for all"], |tensors, _| {
        let second = tensors["m.weight_scale_2"].clone();
        tensors.insert("m.weight_global_scale".into(), second);
    });
    refused("ct-int4", 3, &["group32.sym.weight", "its packed form"], |tensors, _| {
        tensors.insert("group32.sym.weight".into(), ("BF16".into(), vec![1], vec![0; 2]));
    });
    refused("bitsandbytes", 3, &["quant_type \"fp4\""], |tensors, _| {
        let state = tensors.get_mut("nf4.weight.quant_state.bitsandbytes__nf4").expect("there");
        let text = String::from_utf8(state.2.clone()).expect("text").replace("\"nf4\"", "\"fp4\"");
        state.2 = text.into_bytes();
    });
    refused("bitsandbytes", 4, &["eight.weight_format", "another order"], |tensors, _| {
        tensors.get_mut("eight.weight_format").expect("there").2[0] = 1;
    });
}

#[test]
fn what_is_declared_is_held_against_the_tensors() {
    // Columns that are out of order, and nothing says how.
    refused("gptq4-v1", 3, &["m.qweight", "desc_act is true", "m.g_idx"], without("m.g_idx"));
    refused("ct-order", 3, &["ordered.weight_packed", "actorder is group"], |tensors, config| {
        tensors.remove("ordered.weight_g_idx");
        config["config_groups"]["group_0"]["weights"]["actorder"] = json!("group");
    });
    // Codes of FP8 that are typed as integers.
    refused("ct-bytes", 3, &["channel.weight", "is I8", "declares floats"], |tensors, config| {
        tensors.retain(|name, _| name.starts_with("channel."));
        let floats = json!({"num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel"});
        *config = json!({"quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": floats}}});
    });
    // GPTQModel's name for the version of the format.
    refused("gptq4-v1", 4, &["format is \"marlin\""], |_, config| {
        config.as_object_mut().expect("an object").remove("checkpoint_format");
        config["format"] = json!("marlin");
    });
}

#[test]
fn declarations_that_cannot_be_read_are_refused_by_name() {
    refused("gptq4-v1", 4, &["bits is 5", "gptq"], said("bits", json!(5)));
    refused("gptq4-v1", 4, &["checkpoint_format is \"marlin\""], said("checkpoint_format", json!("marlin")));
    refused("gptq4-v1", 4, &["is_marlin_format is true"], said("is_marlin_format", json!(true)));
    refused("gptq4-v1", 4, &["dynamic is"], said("dynamic", json!({"-:.*down.*": {}})));
    refused("gptq4-v1", 4, &["m.qweight", "does not say which"], |_, config| *config = Value::Null);
    refused("awq", 3, &["m.g_idx", "declares awq"], |tensors, _| {
        tensors.insert("m.g_idx".into(), ("I32".into(), vec![50], vec![0; 200]));
    });
    for version in ["gemv", "gemv_fast", "marlin"] {
        refused("awq", 4, &["version is", version], said("version", json!(version)));
    }
    refused("awq", 4, &["bits is 8"], said("bits", json!(8)));
    refused("awq", 4, &["zero_point is false"], said("zero_point", json!(false)));
    refused("bitnet-bitlinear", 4, &["linear_class is \"ternary\""], said("linear_class", json!("ternary")));
    refused("bitnet-bitlinear", 4, &["use_rms_norm is true"], said("use_rms_norm", json!(true)));
    for method in ["quark", "hqq", "torchao", "eetq", "quanto", "auto-round", "aqlm"] {
        refused("awq", 4, &["quant_method is", method], said("quant_method", json!(method)));
    }
    for format in ["marlin-24", "sparse-24-bitmask", "turbo"] {
        refused("ct-int4", 4, &[&format!("format is \"{format}\"")], said("format", json!(format)));
    }
    let weights = |field: &'static str, value: Value| {
        move |_: &mut Tensors, config: &mut Value| {
            config["config_groups"]["group_0"]["weights"][field] = value
        }
    };
    refused(
        "ct-int4",
        4,
        &["num_bits says that weights are integers of 9 bits"],
        weights("num_bits", json!(9)),
    );
    refused("ct-int4", 4, &["type says that weights are floats of 4 bits"], weights("type", json!("float")));
    refused("ct-int4", 4, &["strategy is \"token\""], weights("strategy", json!("token")));
    // Some of the scales are of another shape than the one strategy has.
    for (strategy, said) in [("channel", "channel"), ("tensor", "tensor"), ("group", "group of 20")] {
        let size = if strategy == "group" { json!(20) } else { Value::Null };
        let weights = json!({"num_bits": 4, "type": "int", "strategy": strategy, "group_size": size});
        let words = ["weight_scale", &format!("weights.strategy is {said}")];
        refused("ct-int4", 4, &words, |_, config| {
            config["config_groups"] = json!({"group_0": {"targets": ["Linear"], "weights": weights}});
        });
    }
    refused("ct-int4", 4, &["strategy is \"group\", and group_size"], weights("group_size", Value::Null));
    refused("fp8-e5m2", 4, &["fmt is \"e3m4\""], said("fmt", json!("e3m4")));
    refused("modelopt-nvfp4", 4, &["quant_algo is \"W4A8_AWQ\""], said("quant_algo", json!("W4A8_AWQ")));
}

/// Random numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// How a weight of a tiny checkpoint is stored: what follows its module's name, dtype, shape and bytes; and its values.
type Stored = (Vec<(&'static str, &'static str, Vec<u64>, Vec<u8>)>, Vec<f32>);

/// Nibbles of a row, the low one first.
fn nibbles(codes: &[u8]) -> Vec<u8> {
    codes.as_chunks().0.iter().map(|[low, high]| low | high << 4).collect()
}

fn bf16(exponent: u64, mantissa: u64) -> [u8; 2] {
    ((exponent << 7 | mantissa) as u16).to_le_bytes()
}

fn of_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

fn e2m1(code: u8) -> f32 {
    if code < 8 { E2M1[usize::from(code)] } else { -E2M1[usize::from(code - 8)] }
}

/// Kimi's: codes in words, and a BF16 for each 32.
fn int4(random: &mut Random, rows: u64, columns: u64) -> Stored {
    let codes: Vec<u8> = (0..rows * columns).map(|_| random.below(16) as u8).collect();
    let scales: Vec<[u8; 2]> =
        (0..rows * columns / 32).map(|_| bf16(115 + random.below(4), random.below(128))).collect();
    let value = |(index, &code): (usize, &u8)| (f32::from(code) - 8.0) * of_bf16(scales[index / 32]);
    let values = codes.iter().enumerate().map(value).collect();
    let shape = [rows, columns].iter().flat_map(|size| (*size as i64).to_le_bytes()).collect();
    let parts = vec![
        ("weight_packed", "I32", vec![rows, columns / 8], nibbles(&codes)),
        ("weight_scale", "BF16", vec![rows, columns / 32], scales.concat()),
        ("weight_shape", "I64", vec![2], shape),
    ];
    (parts, values)
}

/// MXFP4 under these names.
fn mxfp4(
    random: &mut Random,
    [rows, columns]: [u64; 2],
    [codes, scales]: [(&'static str, &'static str); 2],
) -> Stored {
    let numbers: Vec<u8> = (0..rows * columns).map(|_| random.below(16) as u8).collect();
    let powers: Vec<u8> = (0..rows * columns / 32).map(|_| 114 + random.below(6) as u8).collect();
    let power = |index: usize| f32::from_bits(u32::from(powers[index / 32]) << 23);
    let values = numbers.iter().enumerate().map(|(index, &code)| e2m1(code) * power(index)).collect();
    let parts = vec![
        (codes.0, codes.1, vec![rows, columns / 2], nibbles(&numbers)),
        (scales.0, scales.1, vec![rows, columns / 32], powers.clone()),
    ];
    (parts, values)
}

/// ModelOpt's.
fn nvfp4(random: &mut Random, rows: u64, columns: u64) -> Stored {
    let numbers: Vec<u8> = (0..rows * columns).map(|_| random.below(16) as u8).collect();
    // E4M3 from 2 to 30, in codes without a sign.
    let scales: Vec<u8> = (0..rows * columns / 16).map(|_| 64 + random.below(32) as u8).collect();
    let scale = |code: u8| (1.0 + f32::from(code & 7) / 8.0) * 2f32.powi(i32::from(code >> 3) - 7);
    let second = 0.000_731_f32;
    let values = numbers
        .iter()
        .enumerate()
        .map(|(index, &code)| e2m1(code) * (scale(scales[index / 16]) * second))
        .collect();
    let parts = vec![
        ("weight", "U8", vec![rows, columns / 2], nibbles(&numbers)),
        ("weight_scale", "F8_E4M3", vec![rows, columns / 16], scales.clone()),
        ("weight_scale_2", "F32", vec![], second.to_le_bytes().to_vec()),
        ("input_scale", "F32", vec![], 1f32.to_le_bytes().to_vec()),
    ];
    (parts, values)
}

/// Bytes with a scale for each row.
fn bytes_of_rows(random: &mut Random, rows: u64, columns: u64) -> Stored {
    let codes: Vec<i8> = (0..rows * columns).map(|_| random.below(256) as u8 as i8).collect();
    let scales: Vec<[u8; 2]> = (0..rows).map(|_| bf16(112, random.below(128))).collect();
    let value = |(index, &code): (usize, &i8)| f32::from(code) * of_bf16(scales[index / columns as usize]);
    let values = codes.iter().enumerate().map(value).collect();
    let parts = vec![
        ("weight", "I8", vec![rows, columns], codes.iter().map(|&code| code as u8).collect()),
        ("weight_scale", "BF16", vec![rows, 1], scales.concat()),
    ];
    (parts, values)
}

/// GPTQ's first version or AWQ's, in groups of 64.
fn across(random: &mut Random, [rows, columns]: [u64; 2], awq: bool) -> Stored {
    let (r, c, groups) = (rows as usize, columns as usize, columns as usize / 64);
    let codes: Vec<u8> = (0..r * c).map(|_| random.below(16) as u8).collect();
    let zeros: Vec<u8> = (0..groups * r).map(|_| random.below(16) as u8).collect();
    // F16 near 0.004.
    let scales: Vec<u16> = (0..groups * r).map(|_| 0x1c00 + random.below(1024) as u16).collect();
    let scale = |bits: u16| (1.0 + f32::from(bits & 1023) / 1024.0) * 2f32.powi(i32::from(bits >> 10) - 15);
    // The first version stores zero points less one.
    let more = if awq { 0.0 } else { 1.0 };
    let value = |index: usize| {
        let (row, column) = (index / c, index % c);
        let group = column / 64 * r + row;
        (f32::from(codes[index]) - (f32::from(zeros[group]) + more)) * scale(scales[group])
    };
    let values = (0..r * c).map(value).collect();
    let order = [0, 4, 1, 5, 2, 6, 3, 7];
    let pack = |codes: &dyn Fn(usize) -> u8, awq: bool| {
        let word = |i: usize| u32::from(codes(i)) << (4 * if awq { order[i] } else { i });
        (0..8).map(word).sum::<u32>().to_le_bytes()
    };
    let along = |row: &dyn Fn(usize) -> u8| -> Vec<u8> {
        (0..r / 8).flat_map(|word| pack(&|i| row(word * 8 + i), awq)).collect()
    };
    let qweight: Vec<u8> = match awq {
        true => (0..c).flat_map(|column| along(&|row| codes[row * c + column])).collect(),
        false => (0..c / 8)
            .flat_map(|word| (0..r).flat_map(move |row| [(word, row)]))
            .flat_map(|(word, row)| pack(&|i| codes[row * c + word * 8 + i], false))
            .collect(),
    };
    let shape = if awq { vec![columns, rows / 8] } else { vec![columns / 8, rows] };
    let mut parts = vec![
        ("qweight", "I32", shape, qweight),
        (
            "qzeros",
            "I32",
            vec![groups as u64, rows / 8],
            (0..groups).flat_map(|g| along(&|row| zeros[g * r + row])).collect(),
        ),
        (
            "scales",
            "F16",
            vec![groups as u64, rows],
            scales.iter().flat_map(|scale| scale.to_le_bytes()).collect(),
        ),
    ];
    if !awq {
        let order = (0..columns).flat_map(|column| (column as i32 / 64).to_le_bytes()).collect();
        parts.push(("g_idx", "I32", vec![columns], order));
    }
    (parts, values)
}

/// NF4 with plain factors, and a table of our own.
fn four_bits(random: &mut Random, rows: u64, columns: u64) -> Stored {
    let codes: Vec<u8> = (0..rows * columns).map(|_| random.below(16) as u8).collect();
    let table: Vec<f32> = (0..16u8).map(|code| f32::from(code) / 7.5 - 1.0).collect();
    let factors: Vec<f32> =
        (0..rows * columns / 64).map(|_| 0.01 + random.below(1000) as f32 / 50_000.0).collect();
    let value = |(index, &code): (usize, &u8)| table[usize::from(code)] * factors[index / 64];
    let values = codes.iter().enumerate().map(value).collect();
    let bytes = codes.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect();
    let f32s = |list: &[f32]| list.iter().flat_map(|x| x.to_le_bytes()).collect();
    let state = json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns]})
        .to_string();
    let parts = vec![
        ("weight", "U8", vec![rows * columns / 2, 1], bytes),
        ("weight.absmax", "F32", vec![rows * columns / 64], f32s(&factors)),
        ("weight.quant_map", "F32", vec![16], f32s(&table)),
        ("weight.quant_state.bitsandbytes__nf4", "U8", vec![state.len() as u64], state.into_bytes()),
    ];
    (parts, values)
}

/// BitNet's.
fn ternary(random: &mut Random, rows: u64, columns: u64) -> Stored {
    let codes: Vec<u8> = (0..rows * columns).map(|_| random.below(3) as u8).collect();
    let scale = 27.25f32;
    let values = codes.iter().map(|&code| (f32::from(code) - 1.0) / scale).collect();
    let quarter = (rows * columns / 4) as usize;
    let byte = |i: usize| (0..4).map(|k| codes[k * quarter + i] << (2 * k)).sum();
    let parts = vec![
        ("weight", "U8", vec![rows / 4, columns], (0..quarter).map(byte).collect()),
        ("weight_scale", "F32", vec![1], scale.to_le_bytes().to_vec()),
    ];
    (parts, values)
}

/// A tiny-r1 whose expert matrices are stored in another format, and its twin with the same values in F32.
fn twins(quantization: Value, stored: impl Fn(&mut Random, usize, u64, u64) -> Stored) -> [Copy; 2] {
    let mut all = Tensors::new();
    for number in 1..=4 {
        all.extend(load(&fixture("tiny-r1").join(format!("model-{number:05}-of-000004.safetensors"))));
    }
    let chosen: Vec<String> = all
        .keys()
        .filter(|name| name.contains("layers.1.mlp.experts") && name.ends_with(".weight"))
        .cloned()
        .collect();
    // What a declaration of another method says nothing of.
    let mut plain: Tensors = all.clone();
    for (name, (dtype, shape, bytes)) in &all {
        if dtype == "F8_E4M3" {
            let zeros = vec![0; bytes.len() * 2];
            plain.insert(name.clone(), ("BF16".into(), shape.clone(), zeros));
            plain.remove(&format!("{name}_scale_inv"));
        }
    }
    let (mut packed, mut decoded, mut random) = (plain.clone(), plain, Random(7));
    for (number, name) in chosen.iter().enumerate() {
        let shape = all[name].1.clone();
        let (parts, values) = stored(&mut random, number, shape[0], shape[1]);
        packed.remove(name);
        let module = name.strip_suffix("weight").expect("a weight");
        for (part, dtype, shape, bytes) in parts {
            packed.insert(format!("{module}{part}"), (dtype.to_owned(), shape, bytes));
        }
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        decoded.insert(name.clone(), ("F32".into(), shape, bytes));
    }
    [(packed, quantization), (decoded, Value::Null)].map(|(tensors, quantization)| {
        let copy = Copy::new();
        (1..=4).for_each(|number| copy.remove(&format!("model-{number:05}-of-000004.safetensors")));
        copy.remove("model.safetensors.index.json");
        copy.write("model.safetensors", &bytes(&tensors));
        copy.edit("config.json", |config| config["quantization_config"] = quantization);
        copy
    })
}

/// Both become the same tensors.
fn same(recipe: &str, copies: &[Copy; 2]) {
    let made = copies.each_ref().map(|copy| {
        let file = copy.file("out.gguf");
        succeed(&["quantize", text(copy.path()), "-o", text(&file), "--quiet", "--recipe", recipe]);
        tensor_hashes(&[file])
    });
    assert!(made[0] == made[1], "{recipe}");
}

fn group(weights: Value) -> Value {
    json!({"quant_method": "compressed-tensors", "format": "mixed-precision",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}})
}

#[test]
fn whole_checkpoints_become_what_their_decoded_twins_become() {
    let mx = [("weight_packed", "U8"), ("weight_scale", "U8")];
    let mut mixed = group(json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}));
    mixed["config_groups"]["group_1"] = json!({"targets": ["re:.*down.*"], "format": "mxfp4-pack-quantized",
        "weights": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}});
    mixed["config_groups"]["group_2"] = json!({"targets": ["re:.*up.*"], "format": "int-quantized",
        "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}});
    mixed["ignore"] = json!(["re:.*experts.*"]);
    let flat = [("weight", "I8"), ("scale", "F8_E8M0")];
    let by_number = move |random: &mut Random, number: usize, rows: u64, columns: u64| match number % 6 {
        0 => int4(random, rows, columns),
        1 => mxfp4(random, [rows, columns], mx),
        2 => bytes_of_rows(random, rows, columns),
        3 => mxfp4(random, [rows, columns], flat),
        4 => nvfp4(random, rows, columns),
        _ => four_bits(random, rows, columns),
    };
    same("bf16", &twins(mixed, by_number));
    let gptq = json!({"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": false});
    same("bf16", &twins(gptq, |random, _, r, c| across(random, [r, c], false)));
    let awq =
        json!({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "GEMM", "zero_point": true});
    same("bf16", &twins(awq, |random, _, r, c| across(random, [r, c], true)));
    same("bf16", &twins(json!({"quant_method": "bitnet"}), |random, _, r, c| ternary(random, r, c)));
}

#[test]
fn codes_that_gguf_has_too_are_kept_as_they_are() {
    let int = json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": true});
    let mx = [("weight_packed", "U8"), ("weight_scale", "U8")];
    for (format, copies) in [
        ("Q4_0", twins(group(int.clone()), |random, _, r, c| int4(random, r, c))),
        (
            "MXFP4",
            twins(
                json!({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}),
                |random, _, r, c| mxfp4(random, [r, c], mx),
            ),
        ),
    ] {
        let kept = copies[0].file("kept.gguf");
        succeed(&["quantize", text(copies[0].path()), "-o", text(&kept), "-q", "--recipe", "source"]);
        let contents = quantpress::gguf::Contents::read(&kept).expect("sound");
        let experts: Vec<&str> = contents
            .tensors
            .iter()
            .filter(|tensor| tensor.name.starts_with("blk.1.ffn_") && tensor.name.contains("exps"))
            .map(|tensor| tensor.format.name())
            .collect();
        assert_eq!(experts, [format; 3]);
        let manifest = fs::read(kept.with_extension("gguf.json")).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let of_experts = |tensor: &&Value| tensor["type"] == format;
        let tensors = manifest["tensors"].as_array().expect("a list");
        let errors: Vec<&Value> =
            tensors.iter().filter(of_experts).map(|tensor| &tensor["relative_error"]).collect();
        assert!(errors.len() == 3 && errors.iter().all(|error| error.as_f64() == Some(0.0)), "{errors:?}");
        // The blocks decode to what the codes are.
        let entry = contents.tensor("blk.1.ffn_gate_exps.weight").expect("there");
        let file = fs::read(&kept).expect("read");
        let blocks = &file[entry.offset as usize..(entry.offset + entry.bytes) as usize];
        let mut found = vec![0.0; entry.shape.iter().product::<u64>() as usize];
        let each = entry.shape[..2].iter().product::<u64>() as usize;
        quant_kernels::dequantize(entry.format, blocks, &mut found);
        let twin = Checkpoint::open_folder(copies[1].path()).expect("sound");
        for (expert, found) in found.chunks_exact(each).enumerate() {
            let name = format!("model.layers.1.mlp.experts.{expert}.gate_proj.weight");
            let matrix = Matrix::open(&twin, &name).expect("F32");
            let mut expected = vec![0.0; each];
            matrix.read(0..entry.shape[1], &mut Vec::new(), &mut expected, Values::Any).expect("numbers");
            assert!(found == expected, "{name}");
        }
    }
    // A scale that is no F16 number.
    let copies = twins(group(int), |random, number, r, c| {
        let (mut parts, values) = int4(random, r, c);
        if number == 0 {
            // 2^-24 and one bit more.
            parts[1].3[..2].copy_from_slice(&bf16(103, 1));
        }
        (parts, values)
    });
    let file = copies[0].file("lossy.gguf");
    let said = quantpress(&["quantize", text(copies[0].path()), "-o", text(&file), "--recipe", "source"]);
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("row 0, has a scale that is no F16 number") && file.is_file(), "{said}");
    succeed(&["verify", text(&file), "--against", text(copies[0].path())]);
}

/// A tiny checkpoint of a family, with some matrices stored in another way, and its twin with the same values in F32.
fn family_twins(
    name: &str,
    quantization: Value,
    chosen: &[&str],
    store: impl Fn(&mut Random, &[u64]) -> (Stored, Vec<f32>),
) -> [TempDir; 2] {
    let made = TempDir::new().expect("a temporary folder");
    family(name).write(made.path());
    let (mut packed, mut random) = (load(&made.path().join("model.safetensors")), Random(11));
    let mut decoded = packed.clone();
    for name in chosen {
        let (_, shape, _) = packed.remove(*name).unwrap_or_else(|| panic!("{name} is there"));
        let ((parts, _), values) = store(&mut random, &shape);
        let module = name.strip_suffix("weight").unwrap_or(name);
        for (part, dtype, shape, bytes) in parts {
            packed.insert(format!("{module}{part}"), (dtype.to_owned(), shape, bytes));
        }
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        decoded.insert((*name).to_owned(), ("F32".into(), shape, bytes));
    }
    [(packed, quantization), (decoded, Value::Null)].map(|(tensors, quantization)| {
        let folder = TempDir::new().expect("a temporary folder");
        family(name).write(folder.path());
        fs::write(folder.path().join("model.safetensors"), bytes(&tensors)).expect("written");
        let config = folder.path().join("config.json");
        let mut value: Value = serde_json::from_slice(&fs::read(&config).expect("read")).expect("JSON");
        value["quantization_config"] = quantization;
        fs::write(config, value.to_string()).expect("written");
        folder
    })
}

/// All weights of a tensor of what a recipe makes of a checkpoint.
fn made(checkpoint: &Path, recipe: &str, tensor: &str, format: &str) -> Vec<f32> {
    let out = TempDir::new().expect("a temporary folder");
    let file = out.path().join("out.gguf");
    succeed(&["quantize", text(checkpoint), "-o", text(&file), "--quiet", "--recipe", recipe]);
    succeed(&["verify", text(&file), "--against", text(checkpoint)]);
    let contents = quantpress::gguf::Contents::read(&file).expect("sound");
    let entry = contents.tensor(tensor).unwrap_or_else(|| panic!("{tensor} is there"));
    assert_eq!(entry.format.name(), format, "{tensor}");
    let bytes = fs::read(&file).expect("read");
    let blocks = &bytes[entry.offset as usize..(entry.offset + entry.bytes) as usize];
    let mut weights = vec![0.0; entry.shape.iter().product::<u64>() as usize];
    quant_kernels::dequantize(entry.format, blocks, &mut weights);
    weights
}

/// Rows that a family has in another order are not encoded either, and come out in its order.
#[test]
fn kept_codes_are_in_the_order_of_the_family() {
    let int = json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": true});
    let queries = "model.layers.0.self_attn.q_proj.weight";
    let llama = family_twins("llama", group(int), &[queries], |random, shape| {
        let (parts, values) = int4(random, shape[0], shape[1]);
        ((parts, Vec::new()), values)
    });
    let name = "blk.0.attn_q.weight";
    assert!(made(llama[0].path(), "source", name, "Q4_0") == made(llama[1].path(), "f32", name, "F32"));

    // Blocks run along the inputs, numbers are stored transposed.
    let fused = "model.layers.0.mlp.experts.gate_up_proj";
    let mx = [("_blocks", "U8"), ("_scales", "U8")];
    let gpt_oss = family_twins("gpt-oss", json!({"quant_method": "mxfp4"}), &[fused], |random, shape| {
        let [experts, inputs, outputs] = shape.try_into().expect("a stack");
        let (mut parts, values) = mxfp4(random, [experts * outputs, inputs], mx);
        parts[0].2 = vec![experts, outputs, inputs / 32, 16];
        parts[1].2 = vec![experts, outputs, inputs / 32];
        let [outputs, inputs] = [outputs as usize, inputs as usize];
        let turned = values.chunks_exact(outputs * inputs).flat_map(|matrix| {
            (0..inputs).flat_map(move |input| (0..outputs).map(move |output| matrix[output * inputs + input]))
        });
        ((parts, Vec::new()), turned.collect())
    });
    for name in ["blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"] {
        let expected = made(gpt_oss[1].path(), "f32", name, "F32");
        assert!(made(gpt_oss[0].path(), "source", name, "MXFP4") == expected, "{name}");
        assert!(made(gpt_oss[0].path(), "f32", name, "F32") == expected, "{name}");
    }
}

/// The divergence of a file from a checkpoint on a text.
fn divergence(checkpoint: &str, file: &Path, words: &Path) -> f64 {
    let arguments = ["evaluate", checkpoint, text(file), "--text", text(words), "--context", "32", "--json"];
    let shown: Value = serde_json::from_str(&succeed(&arguments)).expect("JSON");
    shown["kl_mean"].as_f64().expect("a number")
}

/// ModelOpt's NVFP4 of a matrix, and its numbers.
fn scaled_fours(random: &mut Random, shape: &[u64]) -> (Stored, Vec<f32>) {
    let (parts, values) = nvfp4(random, shape[0], shape[1]);
    ((parts, Vec::new()), values)
}

/// Blocks of NVFP4 have no place for the number that all of a matrix is multiplied by, so that it is in a tensor beside
/// them: where llama.cpp multiplies by it, and nowhere else.
#[test]
fn codes_of_nvfp4_are_kept_with_their_factors() {
    let queries = "model.layers.0.self_attn.q_proj.weight".to_owned();
    let expert = |expert: u64, matrix: &str| {
        format!("model.layers.0.block_sparse_moe.experts.{expert}.{matrix}.weight")
    };
    let experts = (0..4).flat_map(|number| ["w1", "w2", "w3"].map(|matrix| expert(number, matrix)));
    let chosen: Vec<String> = std::iter::once(queries).chain(experts).collect();
    let chosen: Vec<&str> = chosen.iter().map(String::as_str).collect();
    let said = json!({"quant_method": "modelopt", "quant_algo": "NVFP4"});
    let copies = family_twins("mixtral", said.clone(), &chosen, scaled_fours);
    let [packed, twin] = copies.each_ref().map(|copy| text(copy.path()));
    let out = TempDir::new().expect("a temporary folder");
    let [kept, plain] = ["kept.gguf", "plain.gguf"].map(|name| out.path().join(name));
    succeed(&["quantize", packed, "-o", text(&kept), "--quiet", "--recipe", "source"]);
    succeed(&["verify", text(&kept), "--against", packed]);
    succeed(&["quantize", twin, "-o", text(&plain), "--quiet", "--recipe", "f32"]);
    let [kept_bytes, plain_bytes] = [&kept, &plain].map(|file| fs::read(file).expect("read"));
    let [contents, expected] =
        [&kept, &plain].map(|file| quantpress::gguf::Contents::read(file).expect("sound"));
    let decoded = |contents: &quantpress::gguf::Contents, bytes: &[u8], name: &str| {
        let entry = contents.tensor(name).unwrap_or_else(|| panic!("{name} is there"));
        let mut weights = vec![0.0; entry.shape.iter().product::<u64>() as usize];
        let blocks = &bytes[entry.offset as usize..(entry.offset + entry.bytes) as usize];
        quant_kernels::dequantize(entry.format, blocks, &mut weights);
        (entry.format.name(), weights)
    };
    for name in
        ["attn_q", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"].map(|class| format!("blk.0.{class}"))
    {
        let (format, weights) = decoded(&contents, &kept_bytes, &format!("{name}.weight"));
        let (of_factors, factors) = decoded(&contents, &kept_bytes, &format!("{name}.scale"));
        assert_eq!(
            (format, of_factors, factors.len()),
            ("NVFP4", "F32", if name.ends_with("_q") { 1 } else { 4 })
        );
        let (_, expected) = decoded(&expected, &plain_bytes, &format!("{name}.weight"));
        for (index, (found, expected)) in weights.iter().zip(&expected).enumerate() {
            let found = found * factors[index / (weights.len() / factors.len())];
            assert!((found - expected).abs() <= 3e-7 * expected.abs(), "{name}, {index}: {found} {expected}");
        }
    }
    assert_eq!(contents.tensors.iter().filter(|tensor| tensor.name.ends_with(".scale")).count(), 4);

    // The model is the twin's, read with its factors; and can be quantized from there.
    let words = out.path().join("words.txt");
    fs::write(&words, "It was the best of times, it was the worst of times. ".repeat(40)).expect("written");
    let divergence = |file: &Path| divergence(twin, file, &words);
    assert!(divergence(&kept) < 1e-9, "{}", divergence(&kept));
    // In llama.cpp as well, which rounds inputs to 8 bits where weights have blocks.
    let ids = out.path().join("ids.json");
    fs::write(&ids, "[5, 300, 17, 42, 99, 260, 311, 8]").expect("written");
    let logits = |file: &Path| -> Option<Vec<f32>> {
        let raw = out.path().join("logits.f32");
        llama(&["newest", text(file), text(&ids), text(&raw)])?;
        let raw = fs::read(raw).expect("read");
        Some(raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    if let Some((found, expected)) = logits(&kept).zip(logits(&plain)) {
        let square = |x: f32| f64::from(x).powi(2);
        let error: f64 = found.iter().zip(&expected).map(|(x, y)| square(x - y)).sum();
        let relative = (error / expected.iter().map(|y| square(*y)).sum::<f64>()).sqrt();
        assert!(relative < 0.05, "{relative}");
    }
    let again = out.path().join("again.gguf");
    let eights = [
        "quantize",
        text(&kept),
        "-o",
        text(&again),
        "--quiet",
        "--recipe",
        "q8_0",
        "--override",
        "exps=source",
    ];
    let mut anew = eights.to_vec();
    let refused = quantpress(&eights);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    anew.push("--allow-requantize");
    succeed(&anew);
    succeed(&["verify", text(&again), "--against", text(&kept)]);
    let direct = out.path().join("direct.gguf");
    succeed(&[
        "quantize",
        packed,
        "-o",
        text(&direct),
        "--quiet",
        "--recipe",
        "q8_0",
        "--override",
        "exps=source",
    ]);
    let [again_by, direct_by] = [&again, &direct].map(|file| divergence(file));
    assert!(direct_by > 0.0 && (again_by / direct_by - 1.0).abs() < 0.2, "{again_by} {direct_by}");
    let made = quantpress::gguf::Contents::read(&again).expect("sound");
    let format = |name: &str| made.tensor(name).expect("there").format.name();
    assert_eq!([format("blk.0.attn_q.weight"), format("blk.0.attn_q.scale")], ["Q8_0", "F32"]);

    // Errors are fed back to what blocks say, which is not all here.
    let fed =
        ["quantize", packed, "-o", text(&again), "--recipe", "source", "--feedback", "--text", text(&words)];
    let fed = quantpress(&fed);
    let said_there = String::from_utf8_lossy(&fed.stderr);
    assert!(
        fed.status.code() == Some(4) && said_there.contains("has factors in a tensor beside it"),
        "{said_there}"
    );

    // A scale that has a sign.
    let negative = family_twins("mixtral", said, &chosen[..1], |random, shape| {
        let ((mut parts, rest), values) = scaled_fours(random, shape);
        parts[1].3[5] |= 0x80;
        ((parts, rest), values)
    });
    let refused = quantpress(&[
        "quantize",
        text(negative[0].path()),
        "-o",
        text(&again),
        "--recipe",
        "source",
        "--force",
    ]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(4) && said.contains("has a negative scale"), "{said}");
}

/// llama.cpp reads the factors of DeepSeek's experts and computes without them.
#[test]
fn codes_of_nvfp4_are_not_kept_where_their_factors_would_be_lost() {
    let copies = twins(json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), |random, _, r, c| {
        nvfp4(random, r, c)
    });
    let kept = copies[0].file("kept.gguf");
    succeed(&["quantize", text(copies[0].path()), "-o", text(&kept), "-q", "--recipe", "source"]);
    let contents = quantpress::gguf::Contents::read(&kept).expect("sound");
    let of = |format: &str| contents.tensors.iter().filter(|tensor| tensor.format.name() == format).count();
    assert_eq!(
        (of("NVFP4"), contents.tensors.iter().any(|tensor| tensor.name.ends_with(".scale"))),
        (0, false)
    );
}

/// A checkpoint of a family whose matrices are all in NVFP4, where their rows are whole blocks, and its twin.
fn in_fours(name: &str) -> [TempDir; 2] {
    let plain = TempDir::new().expect("a temporary folder");
    family(name).write(plain.path());
    let all = load(&plain.path().join("model.safetensors"));
    let is_matrix = |name: &str, shape: &[u64]| {
        name.ends_with("_proj.weight") && shape.len() == 2 && shape[1].is_multiple_of(64)
    };
    let chosen: Vec<String> = all
        .into_iter()
        .filter(|(name, (_, shape, _))| is_matrix(name, shape))
        .map(|(name, _)| name)
        .collect();
    let chosen: Vec<&str> = chosen.iter().map(String::as_str).collect();
    family_twins(name, json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), &chosen, scaled_fours)
}

/// Names of the tensors of a file that are in NVFP4, and of factors.
fn fours_of(file: &Path) -> [Vec<String>; 2] {
    let contents = quantpress::gguf::Contents::read(file).expect("sound");
    let of = |is: &dyn Fn(&quantpress::gguf::Entry) -> bool| {
        contents
            .tensors
            .iter()
            .filter(|tensor| is(tensor))
            .map(|tensor| tensor.name.clone())
            .collect::<Vec<_>>()
    };
    [of(&|tensor| tensor.format.name() == "NVFP4"), of(&|tensor| tensor.name.ends_with(".scale"))]
}

/// The architecture that is written decides, layers for multi-token prediction have none, and matrices before a bias.
#[test]
fn factors_are_only_where_llama_cpp_reads_them() {
    let out = TempDir::new().expect("a temporary folder");
    let made = |source: &Path, extra: &[&str]| {
        let file = out.path().join("made.gguf");
        let arguments = ["quantize", text(source), "-o", text(&file), "-q", "--force", "--recipe", "source"];
        succeed(&[&arguments[..], extra].concat());
        succeed(&["verify", text(&file), "--against", text(source)]);
        fours_of(&file)
    };
    let [sparse, _] = in_fours("glm-dsa");
    let [own, factors] = made(sparse.path(), &[]);
    assert!(own.len() > 4 && own.len() == factors.len(), "{own:?}");
    let [dense, _] = made(sparse.path(), &["--arch", "deepseek2"]);
    assert!(dense.iter().all(|name| name.ends_with("attn_output.weight")) && !dense.is_empty(), "{dense:?}");
    let [all, _] = made(sparse.path(), &["--keep-mtp"]);
    assert_eq!(all, own, "nothing of the layer for multi-token prediction");
    let [biased, _] = made(in_fours("llama")[0].path(), &[]);
    assert!(biased.iter().all(|name| name.contains("attn_")) && !biased.is_empty(), "{biased:?}");
}

/// Factors go with the blocks that they are beside: a matrix that is made anew brings its own, or none.
#[test]
fn factors_belong_to_their_blocks() {
    let [fours, twin] = in_fours("deepseek32");
    let [source, plain] = [&fours, &twin].map(|folder| text(folder.path()));
    let out = TempDir::new().expect("a temporary folder");
    let [base, again, other] = ["base.gguf", "again.gguf", "other.gguf"].map(|name| out.path().join(name));
    succeed(&["quantize", source, "-o", text(&base), "-q", "--recipe", "source"]);
    let factors =
        fours_of(&base)[1].iter().find(|name| name.ends_with("ffn_up_exps.scale")).expect("there").clone();
    let matrix = factors.replace(".scale", ".weight");
    let words = out.path().join("words.txt");
    fs::write(&words, "It was the best of times, it was the worst of times. ".repeat(10)).expect("written");
    let divergence = |file: &Path| divergence(plain, file, &words);
    for (recipe, kept) in [("q8_0", false), ("source", true)] {
        let only = ["--only", &matrix, "--base", text(&base)];
        let arguments = ["quantize", source, "-o", text(&again), "-q", "--force", "--recipe", recipe];
        succeed(&[&arguments[..], &only].concat());
        let found = fours_of(&again)[1].iter().filter(|name| **name == factors).count();
        assert_eq!(found, usize::from(kept), "{recipe}");
        assert!(divergence(&again) < 0.01, "{recipe}: {}", divergence(&again));
        succeed(&["verify", text(&again), "--against", source]);
    }
    // A file whose blocks were encoded anew and whose factors stayed is still the checkpoint's.
    succeed(&["quantize", text(&base), "-o", text(&other), "-q", "--recipe", "q8_0", "--allow-requantize"]);
    succeed(&["verify", text(&other), "--against", source]);
    let mut file = fs::read(&other).expect("read");
    let contents = quantpress::gguf::Contents::read(&other).expect("sound");
    let place = contents.tensor(&factors).expect("there").offset as usize;
    file[place..place + 4].copy_from_slice(&1f32.to_le_bytes());
    fs::write(&other, file).expect("written");
    fs::remove_file(other.with_extension("gguf.json")).expect("it was written");
    let refused = quantpress(&["verify", text(&other), "--against", source]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(3) && said.contains(&*matrix), "{said}");
}

/// Matrices of zeros are told of in NVFP4 as in other types.
#[test]
fn zeros_in_nvfp4_are_told_of() {
    let queries = "model.layers.0.self_attn.q_proj.weight";
    let said = json!({"quant_method": "modelopt", "quant_algo": "NVFP4"});
    let copies = family_twins("mixtral", said, &[queries], |random, shape| {
        let ((mut parts, rest), values) = scaled_fours(random, shape);
        parts[0].3.fill(0);
        ((parts, rest), values)
    });
    let file = copies[0].path().join("out.gguf");
    let told = quantpress(&["quantize", text(copies[0].path()), "-o", text(&file), "--recipe", "source"]);
    let told = String::from_utf8_lossy(&told.stderr);
    assert!(told.contains("blk.0.attn_q.weight") && told.contains("zeros"), "{told}");
}

/// GPTQ's libraries give all matrices that they pack a bias, of zeros where the model has none.
#[test]
fn biases_of_zeros_beside_packed_matrices_are_left_out() {
    let queries = "model.layers.0.self_attn.o_proj.weight";
    let said = json!({"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": false});
    let make = |number: u8| {
        family_twins("qwen3", said.clone(), &[queries], |random, shape| {
            let (mut parts, values) = across(random, [shape[0], shape[1]], false);
            parts.push(("bias", "F16", vec![shape[0]], vec![number; 2 * shape[0] as usize]));
            ((parts, Vec::new()), values)
        })
    };
    let copies = make(0);
    let name = "blk.0.attn_output.weight";
    assert!(made(copies[0].path(), "f32", name, "F32") == made(copies[1].path(), "f32", name, "F32"));
    let copies = make(0x30);
    let refused = quantpress(&["plan", text(copies[0].path())]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(4) && said.contains("o_proj.bias"), "{said}");
}
