//! How weights are stored: FP8 in all of its forms, formats that are refused by name, what is left out, shards
//! without an index, and files that are not what their names say.

use std::collections::BTreeMap;
use std::fs;

use quantpress::checkpoint::{Checkpoint, Matrix, Values};
use quantpress::model::{Model, Options};
use serde_json::{Value, json};

use crate::support::checkpoint::{Copy, Shard, with_header};
use crate::support::{fail, fixture, quantpress, succeed, text};

const INDEX: &str = "model.safetensors.index.json";
const EXPERT: &str = "model.layers.1.mlp.experts.3.up_proj.weight";

/// Every tensor of the fixture: dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (String, Vec<u64>, Vec<u8>)>;

fn tensors() -> Tensors {
    let mut all = Tensors::new();
    for number in 1..=4 {
        let file = fixture("tiny-r1").join(format!("model-{number:05}-of-000004.safetensors"));
        let mut shard = Shard::parse(&fs::read(file).expect("read"));
        for (name, entry) in shard.header.clone() {
            if name != "__metadata__" {
                let shape = serde_json::from_value(entry["shape"].clone()).expect("a shape");
                let dtype = entry["dtype"].as_str().expect("a dtype").to_owned();
                all.insert(name.clone(), (dtype, shape, shard.tensor(&name).to_vec()));
            }
        }
    }
    all
}

/// Replaces the shards by one file.
fn save(copy: &Copy, tensors: &Tensors, file: &str) {
    (1..=4).for_each(|number| copy.remove(&format!("model-{number:05}-of-000004.safetensors")));
    copy.remove(INDEX);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let begin = data.len();
        data.extend(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    copy.write(file, &with_header(Value::Object(header).to_string().as_bytes(), &data));
}

/// A copy whose tensors were changed, and its config.json too.
fn changed(change: impl Fn(&mut Tensors), config: impl Fn(&mut Value)) -> Copy {
    let copy = Copy::new();
    let mut all = tensors();
    change(&mut all);
    save(&copy, &all, "model.safetensors");
    copy.edit("config.json", config);
    copy
}

/// Replaces every block scale: `new` gets rows, columns and the power of two that each block row has.
fn scales(all: &mut Tensors, suffix: &str, new: impl Fn(u64, u64) -> (&'static str, Vec<u64>, Vec<u8>)) {
    let names: Vec<String> = all.keys().filter(|name| name.ends_with("_scale_inv")).cloned().collect();
    for name in names {
        all.remove(&name);
        let weight = name.strip_suffix("_scale_inv").expect("it ends so");
        let shape = all[weight].1.clone();
        let (dtype, shape, bytes) = new(shape[0], shape[1]);
        all.insert(format!("{weight}{suffix}"), (dtype.to_owned(), shape, bytes));
    }
}

/// The exponent that a row's scale has in these tests, less 127.
fn exponent(row: u64) -> u8 {
    120 - (row / 128) as u8
}

fn f32s(exponents: impl Iterator<Item = u8>) -> Vec<u8> {
    exponents.flat_map(|e| f32::from_bits(u32::from(e) << 23).to_le_bytes()).collect()
}

fn bf16s(exponents: impl Iterator<Item = u8>) -> Vec<u8> {
    exponents.flat_map(|e| (u16::from(e) << 7).to_le_bytes()).collect()
}

fn f16s(exponents: impl Iterator<Item = u8>) -> Vec<u8> {
    exponents.flat_map(|e| (u16::from(e - 112) << 10).to_le_bytes()).collect()
}

/// The exponents of a grid of blocks.
fn grid(rows: u64, columns: u64) -> impl Iterator<Item = u8> {
    (0..rows.div_ceil(128)).flat_map(move |row| vec![exponent(row * 128); columns.div_ceil(128) as usize])
}

fn blocks(rows: u64, columns: u64) -> Vec<u64> {
    vec![rows.div_ceil(128), columns.div_ceil(128)]
}

/// All weights that were FP8, decoded.
fn decoded(copy: &Copy) -> BTreeMap<String, Vec<u32>> {
    let checkpoint = Checkpoint::open_folder(copy.path()).expect("sound");
    Model::plan(&checkpoint, &Options::default()).expect("planned");
    let names = tensors().into_iter().filter(|(_, (dtype, ..))| dtype == "F8_E4M3").map(|(name, _)| name);
    let read = |name: String| {
        let matrix = Matrix::open(&checkpoint, &name).expect("FP8");
        let (rows, columns) = (matrix.tensor().rows(), matrix.tensor().columns());
        let mut out = vec![0.0; (rows * columns) as usize];
        matrix.read(0..rows, &mut Vec::new(), &mut out, Values::Bounded).expect("numbers");
        (name, out.into_iter().map(f32::to_bits).collect())
    };
    names.map(read).collect()
}

fn compressed(weights: Value) -> impl Fn(&mut Value) {
    move |config| {
        let group = json!({"targets": ["Linear"], "weights": weights});
        config["quantization_config"] = json!({"quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": group}, "ignore": ["lm_head"]});
    }
}

#[test]
fn the_same_scales_in_every_form_are_the_same_weights() {
    let same = |_: &mut Value| {};
    let unsaid = |config: &mut Value| config["quantization_config"]["weight_block_size"] = Value::Null;
    let silent =
        |config: &mut Value| drop(config.as_object_mut().expect("fields").remove("quantization_config"));
    let by_row = |rows: u64, _| ("F32", vec![rows, 1], f32s((0..rows).map(exponent)));
    let block = compressed(
        json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}),
    );
    let channel = compressed(json!({"num_bits": 8, "type": "float", "strategy": "channel"}));
    let f32 = |r, c| ("F32", blocks(r, c), f32s(grid(r, c)));
    let bf16 = |r, c| ("BF16", blocks(r, c), bf16s(grid(r, c)));
    let expected = decoded(&changed(|all| scales(all, "_scale_inv", f32), same));
    for (number, copy) in [
        changed(|all| scales(all, "_scale_inv", bf16), same),
        changed(|all| scales(all, "_scale_inv", |r, c| ("F16", blocks(r, c), f16s(grid(r, c)))), same),
        changed(|all| scales(all, "_scale_inv", |r, c| ("U8", blocks(r, c), grid(r, c).collect())), same),
        changed(
            |all| scales(all, "_scale_inv", |r, c| ("F8_E8M0", blocks(r, c), grid(r, c).collect())),
            same,
        ),
        changed(|all| scales(all, "_scale", bf16), block),
        changed(|all| scales(all, "_scale", by_row), channel),
        changed(|all| scales(all, "_scale", |r, _| ("BF16", vec![r], bf16s((0..r).map(exponent)))), unsaid),
        changed(|all| scales(all, "_scale_inv", f32), unsaid),
        changed(|all| scales(all, "_scale_inv", f32), silent),
    ]
    .iter()
    .enumerate()
    {
        assert!(decoded(copy) == expected, "form {number}");
    }
}

#[test]
fn one_scale_for_a_tensor_in_every_form() {
    let whole = |config: &mut Value| config["quantization_config"]["weight_block_size"] = Value::Null;
    let tensor = compressed(json!({"num_bits": 8, "type": "float", "strategy": "tensor"}));
    let modelopt = |config: &mut Value| {
        config["quantization_config"] = json!({"quant_method": "modelopt", "quant_algo": "FP8"});
    };
    let one = |shape: Vec<u64>| move |_, _| ("F32", shape.clone(), f32s([118].into_iter()));
    let full = |r: u64, c: u64| ("F32", blocks(r, c), f32s(grid(r, c).map(|_| 118)));
    let expected = decoded(&changed(|all| scales(all, "_scale_inv", full), |_| {}));
    for copy in [
        changed(|all| scales(all, "_scale_inv", one(vec![])), whole),
        changed(|all| scales(all, "_scale", one(vec![1])), tensor),
        changed(|all| scales(all, "_scale", one(vec![1, 1])), modelopt),
    ] {
        assert!(decoded(&copy) == expected);
    }
}

/// Adds a tensor of a few bytes.
fn add(all: &mut Tensors, name: &str, dtype: &str, shape: &[u64]) {
    let size = if dtype == "U8" { 1 } else { 4 };
    let bytes = vec![0; shape.iter().product::<u64>() as usize * size];
    all.insert(name.to_owned(), (dtype.to_owned(), shape.to_vec(), bytes));
}

#[test]
fn what_no_model_needs_is_left_out_and_noted() {
    let more = |all: &mut Tensors| {
        for layer in 0..5 {
            add(all, &format!("model.layers.{layer}.self_attn.k_scale"), "F32", &[]);
            add(all, &format!("model.layers.{layer}.self_attn.o_proj.input_scale"), "F32", &[1]);
        }
        add(all, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[32]);
    };
    let copy = changed(more, |_| {});
    let output = copy.file("out.gguf");
    succeed(&["quantize", text(copy.path()), "-o", text(&output), "--quiet", "--recipe", "q8_0"]);
    let manifest = fs::read(copy.file("out.gguf.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let found: Vec<(&str, u64)> = manifest["left_out"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (entry["tensors"].as_str().expect("a name"), entry["count"].as_u64().expect("a count")))
        .collect();
    assert_eq!(found, [("input_scale", 5), ("inv_freq", 1), ("k_scale", 5)]);
    let plain = crate::support::quantize_fixture(copy.path(), "plain.gguf", &["--recipe", "q8_0"]);
    let manifest = fs::read_to_string(plain.with_extension("gguf.json")).expect("a manifest");
    assert!(!manifest.contains("left_out"), "{manifest}");
}

/// Both commands refuse, with the same words.
#[track_caller]
fn refused(copy: &Copy, code: i32, words: &[&str]) {
    let output = copy.file("out.gguf");
    for arguments in
        [&["plan", text(copy.path())][..], &["quantize", text(copy.path()), "-o", text(&output), "-q"]]
    {
        let stderr = fail(arguments, code);
        for word in words {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
        assert!(!stderr.contains("leaving it out"), "{stderr}");
    }
}

#[test]
fn other_formats_are_refused_by_their_names_in_every_command() {
    let packed = |all: &mut Tensors| {
        all.remove(EXPERT);
        all.remove(&format!("{EXPERT}_scale_inv"));
        add(all, &format!("{EXPERT}_packed"), "I32", &[256, 32]);
        add(all, &format!("{EXPERT}_scale"), "F32", &[256, 8]);
    };
    let declared =
        |quantization: Value| move |config: &mut Value| config["quantization_config"] = quantization.clone();
    let int4 = json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}}});
    succeed(&["plan", text(changed(packed, declared(int4)).path())]);
    refused(&changed(packed, |_| {}), 3, &[".weight_packed", "needs its shape"]);
    let awq = |all: &mut Tensors| {
        all.remove("model.layers.0.self_attn.q_a_proj.weight");
        add(all, "model.layers.0.self_attn.q_a_proj.qweight", "I32", &[256, 32]);
    };
    refused(
        &changed(awq, declared(json!({"quant_method": "awq", "bits": 4}))),
        3,
        &["q_a_proj.qweight", "needs its scales"],
    );
    refused(&changed(awq, |_| {}), 4, &["q_a_proj.qweight", "GPTQ's or AWQ's"]);
    let nvfp4 = |all: &mut Tensors| {
        all.remove(&format!("{EXPERT}_scale_inv"));
        add(all, EXPERT, "U8", &[256, 128]);
        add(all, &format!("{EXPERT}_scale_2"), "F32", &[]);
    };
    refused(&changed(nvfp4, |_| {}), 3, &[EXPERT, "needs its scales"]);
    let told =
        changed(nvfp4, |config| drop(config.as_object_mut().expect("fields").remove("quantization_config")));
    told.write("hf_quant_config.json", br#"{"quantization": {"quant_algo": "NVFP4", "group_size": 16}}"#);
    refused(&told, 3, &[EXPERT, "needs its scales"]);
    told.write("hf_quant_config.json", br#"{"quantization": {"quant_algo": "W4A8_AWQ", "group_size": 16}}"#);
    refused(&told, 4, &["hf_quant_config.json", "\"W4A8_AWQ\""]);
    // No word of the format: then the tensor itself, before its shape is looked at.
    let bytes = |all: &mut Tensors| add(all, EXPERT, "U8", &[256, 128]);
    refused(&changed(bytes, |_| {}), 4, &[EXPERT, "dtype U8"]);
    let kind = |fmt: Value| move |config: &mut Value| config["quantization_config"]["fmt"] = fmt.clone();
    for fmt in ["e4m3", "float8_e4m3fn", "float8_e4m3"] {
        let copy = Copy::new();
        copy.edit("config.json", kind(fmt.into()));
        succeed(&["plan", text(copy.path())]);
    }
    let copy = Copy::new();
    copy.edit("config.json", kind("e3m4".into()));
    refused(&copy, 4, &["fmt is \"e3m4\"; e4m3 and e5m2 can be read"]);
    copy.edit("config.json", |config| {
        config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": "many"})
    });
    refused(&copy, 3, &["weight_block_size is \"many\""]);
    copy.edit("config.json", |config| config["quantization_config"] = json!(5));
    refused(&copy, 3, &["quantization_config"]);
}

#[test]
fn scales_that_are_missing_twice_there_or_of_another_dtype() {
    let both = |all: &mut Tensors| {
        let scale = all[&format!("{EXPERT}_scale_inv")].clone();
        all.insert(format!("{EXPERT}_scale"), scale);
    };
    refused(&changed(both, |_| {}), 3, &[EXPERT, "has two scales"]);
    let without = |all: &mut Tensors| drop(all.remove(&format!("{EXPERT}_scale_inv")));
    refused(
        &changed(without, |_| {}),
        3,
        &[EXPERT, "needs its block scales", "model.safetensors names neither"],
    );
    let integers =
        |all: &mut Tensors| all.get_mut(&format!("{EXPERT}_scale_inv")).expect("there").0 = "I32".into();
    refused(&changed(integers, |_| {}), 3, &["weight_scale_inv", "is I32; scales are F32"]);
    // BF16 weights that lost their FP8 and kept their scales.
    let cast = |all: &mut Tensors| {
        let (dtype, _, bytes) = all.get_mut(EXPERT).expect("there");
        *dtype = "BF16".into();
        bytes.resize(bytes.len() * 2, 0);
    };
    refused(
        &changed(cast, |_| {}),
        4,
        &["weight_scale_inv", "no place in this architecture", "is BF16, which needs no scales"],
    );
}

#[test]
fn shards_without_an_index_are_read_by_their_names() {
    let planned = |copy: &Copy| {
        let checkpoint = Checkpoint::open_folder(copy.path()).expect("sound");
        Model::plan(&checkpoint, &Options::default()).expect("planned").tensors
    };
    let expected = planned(&Copy::new());
    let copy = Copy::new();
    copy.remove(INDEX);
    // Beside the shards, another copy of the weights in another layout is nobody's business.
    copy.write("consolidated.safetensors", b"not even a header");
    assert!(planned(&copy) == expected);
    for file in ["model-00001-of-00001.safetensors", "weights.safetensors"] {
        let copy = Copy::new();
        save(&copy, &tensors(), file);
        assert!(planned(&copy) == expected, "{file}");
    }
    copy.remove("model-00003-of-000004.safetensors");
    let place = copy.file("model-00003-of-000004.safetensors");
    refused(&copy, 3, &[text(&place), "1 of 4 shards is missing"]);
    let copy = Copy::new();
    (2..=3).for_each(|number| copy.remove(&format!("model-{number:05}-of-000004.safetensors")));
    let place = copy.file("model-00002-of-000004.safetensors");
    refused(&copy, 3, &["listed in the index, but is not there", text(&place), "2 of 4 shards are missing"]);
    let copy = Copy::new();
    save(&copy, &tensors(), "model-00001-of-00002.safetensors");
    fs::copy(copy.file("model-00001-of-00002.safetensors"), copy.file("model-00002-of-00002.safetensors"))
        .expect("copied");
    refused(&copy, 3, &["is also in model-00001-of-00002.safetensors"]);
}

#[test]
fn a_missing_tensor_names_the_file_that_is_there_and_the_nearest_name() {
    let prefixed = |all: &mut Tensors| {
        let old = std::mem::take(all);
        all.extend(old.into_iter().map(|(name, tensor)| (format!("language_model.{name}"), tensor)));
    };
    let words = [
        "model.safetensors: tensor \"model.embed_tokens.weight\"",
        "\"language_model.model.embed_tokens.weight\"",
    ];
    let copy = changed(prefixed, |_| {});
    refused(&copy, 3, &words);
    let stderr = String::from_utf8_lossy(&quantpress(&["plan", text(copy.path())]).stderr).into_owned();
    assert!(!stderr.contains(INDEX), "{stderr}");
}

#[test]
fn stand_ins_are_called_what_they_are() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 688574839360\n";
    for file in ["model-00002-of-000004.safetensors", "tokenizer.json", "config.json", INDEX] {
        let copy = Copy::new();
        copy.write(file, pointer);
        refused(&copy, 3, &[file, "is a Git LFS pointer", "git lfs pull"]);
        copy.write(file, b"\n<!DOCTYPE html>\n<html><body>Access denied</body></html>");
        refused(&copy, 3, &[file, "is a web page"]);
    }
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_not_absent_files() {
    for file in [
        "tokenizer_config.json",
        "generation_config.json",
        "tokenizer.json",
        INDEX,
        "model-00001-of-000004.safetensors",
    ] {
        let copy = Copy::new();
        copy.remove(file);
        std::os::unix::fs::symlink("../../blobs/0000", copy.file(file)).expect("a link");
        refused(&copy, 1, &[file, "../../blobs/0000, which is not there"]);
    }
    // A folder too.
    let copy = Copy::new();
    std::os::unix::fs::symlink("../../trees/0000", copy.file("additional_chat_templates")).expect("a link");
    refused(&copy, 1, &["additional_chat_templates", "../../trees/0000, which is not there"]);
}

/// The warnings of a plan.
fn warnings(copy: &Copy) -> Vec<String> {
    let checkpoint = Checkpoint::open_folder(copy.path()).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    model.warnings.iter().map(ToString::to_string).collect()
}

/// A copy whose `quantization_config` is changed.
fn said(change: impl FnOnce(&mut Value)) -> Copy {
    let copy = Copy::new();
    copy.edit("config.json", |config| change(&mut config["quantization_config"]));
    copy
}

#[test]
fn every_part_of_the_declaration_is_known_or_told_of() {
    let weights = json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128],
        "symmetric": true, "dynamic": false, "observer": "minmax", "observer_kwargs": {}, "actorder": null});
    let whole = json!({"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": {"num_bits": 8}}},
        "kv_cache_scheme": null, "quantization_status": "compressed", "global_compression_ratio": 1.5, "version": "0.12",
        "sparsity_config": {}, "transform_config": {}});
    assert_eq!(warnings(&said(|config| *config = whole.clone())), [""; 0]);
    let group = "/config_groups/group_0";
    for (place, field, value, words) in [
        (
            "",
            "transform_config",
            json!({"config_groups": {"R1": {"type": "hadamard"}}}),
            "transform_config.config_groups is",
        ),
        (
            "",
            "sparsity_config",
            json!({"format": "sparse-24-bitmask"}),
            "sparsity_config.format is \"sparse-24-bitmask\"",
        ),
        (&format!("{group}/weights"), "symmetric", json!(false), "weights.symmetric is false"),
        (
            &format!("{group}/weights"),
            "type",
            json!("int"),
            "weights.type says that weights are integers of 8 bits",
        ),
        (
            &format!("{group}/weights"),
            "num_bits",
            json!(4),
            "weights.num_bits says that weights are floats of 4 bits",
        ),
    ] {
        let copy = said(|config| {
            *config = whole.clone();
            config.pointer_mut(place).expect("there")[field] = value;
        });
        refused(&copy, 4, &[words]);
    }
    for (place, words) in [
        ("", "quantization_config.rotation is true, and the field is not known"),
        (group, "config_groups.group_0.rotation is true"),
        (&format!("{group}/weights"), "group_0.weights.rotation is true"),
    ] {
        let copy = said(|config| {
            *config = whole.clone();
            config.pointer_mut(place).expect("there")["rotation"] = json!(true);
        });
        refused(&copy, 4, &[words]);
        // What says that there is nothing is nothing.
        let copy = said(|config| {
            *config = whole.clone();
            config.pointer_mut(place).expect("there")["rotation"] = json!({});
        });
        assert_eq!(warnings(&copy), [""; 0]);
    }
    let copy = said(|config| config["rotation"] = json!("hadamard"));
    refused(&copy, 4, &["quantization_config.rotation is \"hadamard\", and the field is not known"]);
}

#[test]
fn two_declarations_that_contradict_each_other_are_told_of() {
    let told = |algorithm: &str| {
        let copy = Copy::new();
        let said = json!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": algorithm}});
        copy.write("hf_quant_config.json", said.to_string().as_bytes());
        warnings(&copy)
    };
    for algorithm in ["NVFP4", "FP8"] {
        let told = told(algorithm);
        let words = format!(
            "quantization.quant_algo is \"{algorithm}\", which contradicts config.json's quantization_config"
        );
        assert!(told.len() == 1 && told[0].contains(&words), "{told:?}");
    }
    assert_eq!(told("FP8_PB_WO"), [""; 0]);
    let copy = Copy::new();
    copy.edit("config.json", |config| config["compression_config"] = json!({"format": "pack-quantized"}));
    let told = warnings(&copy);
    assert!(
        told.len() == 1 && told[0].contains("compression_config is not what quantization_config says"),
        "{told:?}"
    );
}

#[test]
fn formats_are_known_by_their_companions_alone() {
    for (companions, code, words) in [
        (&["weight_blocks", "weight_scales"][..], 3, "expected blocks of 16 bytes"),
        (&["gate_up_proj_blocks", "gate_up_proj_scales"], 3, "expected blocks of 16 bytes"),
        (&["weight.compressed", "weight.bitmask"], 4, "sparse weights"),
        (&["pre_quant_scale"], 4, "ModelOpt's AWQ"),
        (&["scales", "biases"], 4, "MLX"),
    ] {
        let module = EXPERT.strip_suffix("weight").expect("a weight");
        let add_all = |all: &mut Tensors| {
            companions.iter().for_each(|name| add(all, &format!("{module}{name}"), "U8", &[4]))
        };
        refused(&changed(add_all, |_| {}), code, &[words]);
    }
}

#[test]
fn one_scale_for_a_matrix_among_blocks_is_read_and_told_of() {
    let whole = |all: &mut Tensors, shape: &[u64], bytes: Vec<u8>| {
        all.insert(format!("{EXPERT}_scale_inv"), ("F32".to_owned(), shape.to_vec(), bytes));
    };
    let expected = decoded(&changed(|all| whole(all, &[2, 2], f32s([118; 4].into_iter())), |_| {}));
    for shape in [&[][..], &[1], &[1, 1]] {
        let copy = changed(|all| whole(all, shape, f32s([118].into_iter())), |_| {});
        assert!(decoded(&copy) == expected);
        let told = warnings(&copy);
        assert!(
            told.len() == 1 && told[0].contains(EXPERT) && told[0].contains("one scale for the whole"),
            "{told:?}"
        );
    }
}

#[test]
fn a_routers_bias_may_shut_experts_out_and_f32_takes_any_number() {
    let bias = "model.layers.1.mlp.gate.e_score_correction_bias";
    let set = |value: f32| {
        let copy = Copy::new();
        copy.edit_shard(bias, |shard| shard.tensor(bias)[8..12].copy_from_slice(&value.to_le_bytes()));
        copy
    };
    for value in [f32::NEG_INFINITY, 1e38, -70_000.0] {
        let copy = set(value);
        let output = copy.file("out.gguf");
        succeed(&["quantize", text(copy.path()), "-o", text(&output), "--quiet", "--recipe", "q8_0"]);
        succeed(&["verify", text(&output)]);
        let contents = quantpress::gguf::Contents::read(&output).expect("sound");
        let entry = contents.tensor("blk.1.exp_probs_b.bias").expect("the bias");
        let at = entry.offset as usize + 8;
        assert_eq!(&fs::read(&output).expect("read")[at..at + 4], &value.to_le_bytes());
    }
    for value in [f32::NAN, f32::INFINITY] {
        let copy = set(value);
        let stderr = fail(&["quantize", text(copy.path()), "-o", text(&copy.file("out.gguf")), "-q"], 3);
        assert!(stderr.contains(bias) && stderr.contains("row 0, column 2"), "{stderr}");
    }
}
