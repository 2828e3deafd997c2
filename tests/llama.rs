//! Real llama.cpp on what we make: loads it, answers, reads text to the same ids, and finds it close to the original.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::python::llama;
use crate::support::{fixture, quantize_fixture, text};

/// The fixture's reference numbers.
fn reference() -> Value {
    serde_json::from_slice(&fs::read(fixture("tiny-r1/reference.json")).expect("read")).expect("JSON")
}

/// The 16-bit file, against which all others are measured; made once for all tests.
pub fn bf16() -> &'static Path {
    static FILE: OnceLock<(TempDir, std::path::PathBuf)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        let path = quantize_fixture(folder.path(), "bf16.gguf", &["--recipe", "bf16"]);
        (folder, path)
    });
    path
}

fn measure(model: &Path, extra: &[&str]) -> Option<Value> {
    let evaluation = fixture("tiny-r1/evaluation.txt");
    let mut arguments = vec!["measure", text(model), text(&evaluation)];
    arguments.extend(extra);
    llama(&arguments)
}

#[test]
fn sixteen_and_eight_bits_have_the_reference_perplexity() {
    let Some(found) = measure(bf16(), &[]) else { return };
    // Real llama.cpp's on its own converter's file.
    let expected = reference()["bf16"]["ppl"].as_f64().expect("a number");
    let found = found["perplexity"].as_f64().expect("a number");
    assert!((found / expected - 1.0).abs() < 0.001, "bf16: {found}, reference {expected}");

    let folder = TempDir::new().expect("a temporary folder");
    let q8_0 = quantize_fixture(folder.path(), "q8_0.gguf", &["--recipe", "q8_0"]);
    let found = measure(&q8_0, &[]).expect("it ran before")["perplexity"].as_f64().expect("a number");
    assert!((found / expected - 1.0).abs() < 0.005, "q8_0: {found}, reference {expected}");
}

#[test]
fn the_default_file_answers_the_fixtures_questions() {
    let folder = TempDir::new().expect("a temporary folder");
    // As README's first command: no importances, default recipe.
    let file = quantize_fixture(folder.path(), "tiny-r1.gguf", &[]);
    let questions = fixture("tiny-r1/questions.json");
    let Some(found) = measure(&file, &["--questions", text(&questions)]) else { return };
    // Of 100 facts: llama.cpp's bf16 file knows 83, its own ud_iq1_s (with importances) 78, its all_iq1_s 63.
    assert!(found["right_facts"].as_u64().expect("a count") >= 70, "{found}");
}

#[test]
fn dynamic_presets_are_no_worse_than_llama_quantizes_files_of_the_same_types() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    for recipe in ["ud-iq1_s", "ud-iq1_m", "ud-iq2_xxs", "ud-q2_k_xl"] {
        let arguments = ["--recipe", recipe, "--imatrix", text(&imatrix)];
        let file = quantize_fixture(folder.path(), &format!("{recipe}.gguf"), &arguments);
        let Some(found) = measure(&file, &["--against", text(bf16())]) else { return };
        let peer = &reference()["recipes"][recipe.replace('-', "_")]["evaluation"];
        let (found, peer) = (found["kl_mean"].as_f64(), peer["kld_mean"].as_f64());
        let (found, peer) = (found.expect("a number"), peer.expect("a number"));
        eprintln!("{recipe}: KL divergence {found:.5}, llama-quantize's {peer:.5}");
        assert!(found <= 1.03 * peer, "{recipe}: {found}, llama-quantize's {peer}");
    }
}

#[test]
fn text_becomes_the_ids_that_hugging_face_gives() {
    let strings = fixture("strings.json");
    let folder = TempDir::new().expect("a temporary folder");
    let evaluation = fs::read_to_string(fixture("tiny-r1/evaluation.txt")).expect("read");
    let whole = folder.path().join("evaluation.json");
    fs::write(&whole, json!([evaluation]).to_string()).expect("written");
    let tokenizer = fixture("tiny-r1/tokenizer.json");
    for strings in [&strings, &whole] {
        let Some(expected) = llama(&["expected", text(&tokenizer), text(strings)]) else { return };
        let found = llama(&["tokens", text(bf16()), text(strings)]).expect("it ran before");
        let texts: Vec<String> = serde_json::from_slice(&fs::read(strings).expect("read")).expect("strings");
        assert!(texts.len() == 500 || texts.len() == 1);
        for (index, text) in texts.iter().enumerate() {
            assert_eq!(found[index], expected[index], "{text:?}");
        }
    }
}

#[test]
fn a_file_that_keeps_the_mtp_layer_gives_the_same_logits() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "mtp.gguf", &["--recipe", "bf16", "--keep-mtp"]);
    let generate = |model: &Path| llama(&["generate", text(model), "The river of Rougol is", "12"]);
    let Some(found) = generate(&file) else { return };
    assert!(found[0].as_str().expect("a text").contains("Bresoun"), "{found}");
    assert_eq!(found, generate(bf16()).expect("it ran before"));
}

#[test]
fn metadata_has_the_exact_types_that_loaders_want() {
    let Some(found) = llama(&["metadata", text(bf16())]) else { return };
    for (key, kind, value) in [
        ("general.architecture", "STRING", json!("deepseek2")),
        ("general.file_type", "UINT32", json!(32)),
        ("general.quantization_version", "UINT32", json!(2)),
        ("deepseek2.block_count", "UINT32", json!(5)),
        ("deepseek2.context_length", "UINT32", json!(1024)),
        ("deepseek2.embedding_length", "UINT32", json!(256)),
        ("deepseek2.feed_forward_length", "UINT32", json!(768)),
        ("deepseek2.attention.head_count", "UINT32", json!(4)),
        ("deepseek2.attention.head_count_kv", "UINT32", json!(1)),
        ("deepseek2.attention.q_lora_rank", "UINT32", json!(256)),
        ("deepseek2.attention.kv_lora_rank", "UINT32", json!(256)),
        ("deepseek2.attention.key_length", "UINT32", json!(320)),
        ("deepseek2.attention.value_length", "UINT32", json!(256)),
        ("deepseek2.attention.key_length_mla", "UINT32", json!(192)),
        ("deepseek2.attention.value_length_mla", "UINT32", json!(128)),
        ("deepseek2.expert_count", "UINT32", json!(16)),
        ("deepseek2.expert_used_count", "UINT32", json!(2)),
        ("deepseek2.expert_shared_count", "UINT32", json!(1)),
        ("deepseek2.expert_group_count", "UINT32", json!(4)),
        ("deepseek2.expert_group_used_count", "UINT32", json!(2)),
        ("deepseek2.expert_gating_func", "UINT32", json!(2)),
        ("deepseek2.expert_weights_norm", "BOOL", json!(true)),
        ("deepseek2.expert_weights_scale", "FLOAT32", json!(2.5)),
        ("deepseek2.expert_feed_forward_length", "UINT32", json!(256)),
        ("deepseek2.leading_dense_block_count", "UINT32", json!(1)),
        ("deepseek2.vocab_size", "UINT32", json!(1024)),
        ("deepseek2.rope.dimension_count", "UINT32", json!(64)),
        ("deepseek2.rope.freq_base", "FLOAT32", json!(10000.0)),
        ("deepseek2.rope.scaling.type", "STRING", json!("yarn")),
        ("deepseek2.rope.scaling.factor", "FLOAT32", json!(4.0)),
        ("deepseek2.rope.scaling.original_context_length", "UINT32", json!(256)),
        ("deepseek2.rope.scaling.yarn_log_multiplier", "FLOAT32", json!(0.1f32)),
        ("deepseek2.attention.layer_norm_rms_epsilon", "FLOAT32", json!(1e-6f32)),
        ("tokenizer.ggml.model", "STRING", json!("gpt2")),
        ("tokenizer.ggml.pre", "STRING", json!("deepseek-v3")),
        ("tokenizer.ggml.bos_token_id", "UINT32", json!(0)),
        ("tokenizer.ggml.eos_token_id", "UINT32", json!(1)),
        ("tokenizer.ggml.padding_token_id", "UINT32", json!(1)),
        ("tokenizer.ggml.add_bos_token", "BOOL", json!(true)),
        ("tokenizer.ggml.add_eos_token", "BOOL", json!(false)),
    ] {
        let entry = &found[key];
        assert_eq!(entry[0], json!([kind]), "{key}");
        match value.as_f64().filter(|_| kind == "FLOAT32") {
            Some(x) => assert_eq!(entry[1].as_f64().map(|y| y as f32), Some(x as f32), "{key}"),
            None => assert_eq!(entry[1], value, "{key}"),
        }
    }
    assert_eq!(found["tokenizer.ggml.token_type"][0], json!(["ARRAY", "INT32"]));
    assert_eq!(found["tokenizer.ggml.tokens"][0], json!(["ARRAY", "STRING"]));
    assert_eq!(found["deepseek2.nextn_predict_layers"], Value::Null);
}
