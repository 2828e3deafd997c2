//! Qwen3-MoE, the proof that a family is one file: a checkpoint of random weights against llama.cpp's converter,
//! llama.cpp's and transformers' logits, and all commands.

use std::fs;
use std::path::{Path, PathBuf};

use quantpress::checkpoint::Checkpoint;
use quantpress::gguf::{Contents, Value as Gguf};
use quantpress::model::{Description, Model, ModelFile, Options, Weights};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::forward::logits;
use crate::support::python::llama;
use crate::support::{fail, fixture, hex, qwen, succeed, text};

/// The checkpoint, and a folder beside it.
struct Qwen(TempDir);

impl Qwen {
    fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        fs::create_dir(folder.path().join("checkpoint")).expect("made");
        qwen::write(&folder.path().join("checkpoint"));
        Self(folder)
    }

    fn checkpoint(&self) -> PathBuf {
        self.0.path().join("checkpoint")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn quantize(&self, name: &str, extra: &[&str]) -> PathBuf {
        let (checkpoint, output) = (self.checkpoint(), self.file(name));
        let arguments = ["quantize", text(&checkpoint), "-o", text(&output), "--quiet"];
        succeed(&[&arguments[..], extra].concat());
        output
    }
}

fn reference() -> Value {
    serde_json::from_slice(&fs::read(fixture("tiny-qwen3moe/reference.json")).expect("read")).expect("JSON")
}

/// Norm of the difference over the norm.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (difference / expected.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

#[test]
fn the_checkpoint_is_that_of_the_reference() {
    if let Some(folder) = std::env::var_os("QWEN_OUT") {
        fs::create_dir_all(&folder).expect("made");
        qwen::write(Path::new(&folder));
    }
    assert_eq!(reference()["weights_sha256"], *hex(&qwen::safetensors()));
}

#[test]
fn every_tensor_equals_llama_cpps_converters() {
    let qwen = Qwen::new();
    let path = qwen.quantize("bf16.gguf", &["--recipe", "bf16"]);
    let (contents, file) = (Contents::read(&path).expect("sound"), fs::read(&path).expect("read"));
    let reference = reference();
    let reference = reference["tensors"].as_object().expect("tensors");
    assert_eq!(contents.tensors.len(), reference.len());
    for tensor in &contents.tensors {
        let data = &file[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
        let found = json!([tensor.format.name(), tensor.shape, hex(data)]);
        assert_eq!(found, reference[&tensor.name], "{}", tensor.name);
    }
}

#[test]
fn metadata_are_the_architectures_and_say_what_the_model_is() {
    let qwen = Qwen::new();
    let checkpoint = Checkpoint::open_folder(&qwen.checkpoint()).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    for (key, value) in [
        ("general.architecture", "qwen3moe".into()),
        ("qwen3moe.block_count", Gguf::U32(3)),
        ("qwen3moe.feed_forward_length", Gguf::U32(512)),
        ("qwen3moe.attention.head_count_kv", Gguf::U32(2)),
        ("qwen3moe.attention.key_length", Gguf::U32(128)),
        ("qwen3moe.expert_count", Gguf::U32(8)),
        ("qwen3moe.expert_used_count", Gguf::U32(3)),
        ("qwen3moe.expert_feed_forward_length", Gguf::U32(256)),
        ("qwen3moe.rope.freq_base", Gguf::F32(1e6)),
        ("tokenizer.ggml.pre", "qwen2".into()),
        ("tokenizer.ggml.add_bos_token", Gguf::Bool(false)),
    ] {
        assert_eq!(model.metadata.get(key), Some(&value), "{key}");
    }
    let read = Description::of_plan(&model.metadata, &model.tensors).expect("all keys are there");
    assert_eq!(Some(&read), model.description.as_ref());
    assert_eq!((model.experts, model.kv_per_token), ([8, 3], 2 * 2 * 128));
    // The checkpoint has none, and is told so.
    let others = model.warnings.iter().filter(|warning| !warning.to_string().contains("no chat template"));
    assert_eq!(others.count(), 0, "{:?}", model.warnings);
}

#[test]
fn logits_equal_transformers_and_llama_cpps() {
    let qwen = Qwen::new();
    let checkpoint = Checkpoint::open_folder(&qwen.checkpoint()).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let reference = reference();
    let ids: Vec<u32> = serde_json::from_value(reference["ids"].clone()).expect("ids");
    let weights = Weights::new(&checkpoint, &model.tensors[..]);
    let found = logits(&weights, model.describe().expect("described"), &ids, ids.len(), 1 << 30);
    let vocabulary = found.len() / ids.len();
    let positions: Vec<usize> = serde_json::from_value(reference["positions"].clone()).expect("positions");
    let expected: Vec<Vec<f32>> = serde_json::from_value(reference["logits"].clone()).expect("logits");
    for (position, expected) in positions.into_iter().zip(expected) {
        let found = &found[position * vocabulary..(position + 1) * vocabulary];
        let distance = distance(found, &expected);
        assert!(distance < 1e-5, "position {position}: {distance:.2e} from transformers");
    }

    let file = qwen.quantize("f32.gguf", &["--recipe", "bf16", "--override", ".=f32"]);
    let read = ModelFile::open(&file).expect("sound");
    let of_file = logits(&read.weights(), &read.description, &ids, ids.len(), 1 << 30);
    assert!(of_file == found, "the file's logits are the checkpoint's");
    let (ids_file, out) = (qwen.file("ids.json"), qwen.file("logits.f32"));
    fs::write(&ids_file, json!(ids).to_string()).expect("written");
    let Some(_) = llama(&["logits", text(&file), text(&ids_file), text(&out)]) else { return };
    let bytes = fs::read(out).expect("read");
    let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let distance = distance(&found, &expected);
    eprintln!("logits differ from llama.cpp's by {distance:.2e}");
    assert!(distance < 2e-5, "{distance}");
}

#[test]
fn all_commands_work_on_it() {
    let qwen = Qwen::new();
    let (checkpoint, words) = (qwen.checkpoint(), fixture("tiny-r1/calibration.txt"));
    let (imatrix, table) = (qwen.file("imatrix.gguf"), qwen.file("table.json"));
    let given = ["--text", text(&words), "--context", "128", "--chunks", "12"];
    let made =
        ["calibrate", text(&checkpoint), "-o", text(&imatrix), "--sensitivity", text(&table), "--json"];
    let types = ["--types", "iq2_xxs,q4_k,q6_k"];
    let found: Value = serde_json::from_str(&succeed(&[&made[..], &given, &types].concat())).expect("JSON");
    // Four of attention, the router and three of the experts in each layer, and the head.
    assert_eq!(found["tensors"], 3 * (4 + 1 + 3) + 1, "{found}");

    let weighed = ["--imatrix", text(&imatrix)];
    let sized = [&weighed[..], &["--size", "3MB", "--sensitivity", text(&table)], &types].concat();
    let size = fs::metadata(qwen.quantize("sized.gguf", &sized)).expect("made").len();
    assert!(size <= 3_000_000 && size > 2_900_000, "{size}");

    let chosen = [&weighed[..], &["--recipe", "q4_k_m"]].concat();
    let plain = qwen.quantize("plain.gguf", &chosen);
    let fed = qwen.quantize("fed.gguf", &[&chosen[..], &["--feedback"], &given].concat());
    let divergence = |file: &Path| {
        let evaluation = fixture("tiny-r1/evaluation.txt");
        let arguments = ["evaluate", text(&checkpoint), text(file), "--text", text(&evaluation), "--json"];
        let more = ["--context", "128", "--chunks", "4", "--quiet"];
        let found: Value = serde_json::from_str(&succeed(&[&arguments[..], &more].concat())).expect("JSON");
        found["kl_mean"].as_f64().expect("a number")
    };
    let (plain_divergence, fed_divergence) = (divergence(&plain), divergence(&fed));
    eprintln!("KL divergence {fed_divergence:.5} with feedback, {plain_divergence:.5} without");
    assert!(fed_divergence < 0.8 * plain_divergence, "{fed_divergence}, without feedback {plain_divergence}");
    succeed(&["verify", text(&fed), "--against", text(&checkpoint)]);
    let plan = succeed(&["plan", text(&checkpoint), "--ram", "1.1GB", "--ctx-size", "4096"]);
    assert!(plan.contains("llama-server"), "{plan}");
}

#[test]
fn what_llama_cpp_cannot_express_is_refused() {
    for (field, value) in [
        ("norm_topk_prob", json!(false)),
        ("norm_topk_prob", Value::Null),
        ("mlp_only_layers", json!([1])),
        ("decoder_sparse_step", json!(2)),
        ("attention_bias", json!(true)),
        ("use_sliding_window", json!(true)),
        ("hidden_act", json!("gelu")),
    ] {
        let qwen = Qwen::new();
        let mut config = qwen::config();
        config[field] = value;
        fs::write(qwen.checkpoint().join("config.json"), config.to_string()).expect("written");
        let checkpoint = qwen.checkpoint();
        let stderr = fail(&["plan", text(&checkpoint)], 4);
        assert!(stderr.contains(field), "{field}: {stderr}");
    }
}
