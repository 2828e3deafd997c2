//! Memory: bounded by what was asked for, and the same for a model four times as large.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::shapes::{r1_config, tensors, write, write_tokenizer};
use crate::support::{fail, fixture, succeed, text};

/// R1's layer shapes with two experts, a narrow dense layer and a small vocabulary; all weights are zeros, in sparse
/// files.
fn peak(layers: u32, memory: &str) -> u64 {
    let mut config = r1_config();
    for (field, value) in [
        ("num_hidden_layers", layers + 1),
        ("first_k_dense_replace", 1),
        ("num_nextn_predict_layers", 0),
        ("n_routed_experts", 2),
        ("n_group", 1),
        ("topk_group", 1),
        ("num_experts_per_tok", 1),
        ("intermediate_size", 2048),
        ("vocab_size", 4096),
    ] {
        config[field] = json!(value);
    }
    let checkpoint = TempDir::new().expect("a temporary folder");
    write(checkpoint.path(), &config, &tensors(&config), u64::from(layers));
    write_tokenizer(checkpoint.path(), 4000, 90);
    let output = checkpoint.path().join("out.gguf");
    let arguments = [
        "quantize",
        text(checkpoint.path()),
        "-o",
        text(&output),
        "--json",
        "--threads",
        "2",
        "--memory",
        memory,
    ];
    let events = succeed(&arguments);
    let done: Value = serde_json::from_str(events.lines().last().expect("events")).expect("JSON");
    done["peak_memory_bytes"].as_u64().unwrap_or_default()
}

#[test]
fn memory_does_not_grow_with_the_model_and_keeps_to_the_limit() {
    let (one, four) = (peak(1, "48MB"), peak(4, "48MB"));
    eprintln!("peak memory with one layer of experts {one}, with four {four}");
    assert!(four <= one + one / 10, "{one} and {four} bytes");
    // Code, headers, tokenizer and allocator come on top of the buffers.
    assert!(four < 48_000_000 + 50_000_000, "{four} bytes");
}

#[test]
fn a_limit_below_one_piece_is_an_error() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, output) = (fixture("tiny-r1"), folder.path().join("out.gguf"));
    let stderr = fail(&["quantize", text(&checkpoint), "-o", text(&output), "--memory", "100KB"], 2);
    assert!(stderr.contains("--memory is 100000 bytes") && stderr.contains("need"), "{stderr}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 0, "nothing is left behind");
}
