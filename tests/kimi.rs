//! Kimi's tokenizer: tokens by rank in tiktoken.model, splitting rules that no file has; texts become tiktoken's ids.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quantpress::checkpoint::Checkpoint;
use quantpress::model::Encoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::families::{VOCABULARY, family};
use crate::support::python::llama;
use crate::support::{fail, fixture, succeed, text};

/// A checkpoint of Kimi's architecture with such a tokenizer.
fn checkpoint(folder: &Path) -> PathBuf {
    let path = folder.join("checkpoint");
    family("kimi-k2.5").write(&path);
    fs::remove_file(path.join("tokenizer.json")).expect("it was there");
    fs::copy(fixture("kimi/tiktoken.model"), path.join("tiktoken.model")).expect("copied");
    let special = |content: &str| json!({"content": content, "special": true});
    let config = json!({
        "tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]",
        "added_tokens_decoder": {"456": special("[BOS]"), "457": special("[EOS]"), "458": special("<|im_user|>"),
            "459": {"content": "<think>", "special": false}, "460": special("[PAD]")},
    });
    fs::write(path.join("tokenizer_config.json"), config.to_string()).expect("written");
    path
}

fn strings() -> Vec<String> {
    serde_json::from_slice(&fs::read(fixture("strings.json")).expect("read")).expect("strings")
}

/// What tiktoken makes of them.
fn expected() -> Vec<Vec<u32>> {
    serde_json::from_slice(&fs::read(fixture("kimi/ids.json")).expect("read")).expect("ids")
}

fn encode(encoder: &Encoder, text: &str) -> Vec<u32> {
    encoder.encode(text, VOCABULARY as usize).expect("encoded")
}

/// Whether a text has a mark that is a letter's part: llama.cpp takes it for punctuation.
fn is_marked(text: &str) -> bool {
    text.chars()
        .any(|c| matches!(c, '\u{300}'..='\u{36f}' | '\u{200d}' | '\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}'))
}

#[test]
fn token_ids_are_tiktokens() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = checkpoint(folder.path());
    let file = folder.path().join("kimi.gguf");
    succeed(&["quantize", text(&path), "-o", text(&file), "--recipe", "q8_0", "--quiet"]);
    let of_checkpoint = Encoder::read(&Checkpoint::open_folder(&path).expect("sound")).expect("read");
    let of_file = Encoder::read(&Checkpoint::open_gguf(&file).expect("sound")).expect("read");
    let (strings, expected) = (strings(), expected());
    assert_eq!((strings.len(), expected.len()), (500, 500));
    let mut compared = 0;
    for (string, expected) in strings.iter().zip(&expected) {
        assert_eq!(encode(&of_checkpoint, string), encode(&of_file, string), "{string:?}");
        // The one token of this checkpoint that is looked for in texts.
        if !string.contains("<think>") {
            assert_eq!(&encode(&of_checkpoint, string), expected, "{string:?}");
            compared += 1;
        }
    }
    assert!(compared > 400, "{compared}");
    let long = "我会把大象装进冰箱 three steps, I'M sure: 12345 times\n\n  don't\tASK 한국어".repeat(7);
    let begins = encode(&of_checkpoint, &long);
    assert!(begins.len() > 300 && begins.iter().all(|id| *id < 456));
    let Some(found) = llama(&["tokens", text(&file), text(&fixture("strings.json"))]) else { return };
    for (string, found) in strings.iter().zip(found.as_array().expect("a list")) {
        if !is_marked(string) {
            assert_eq!(&json!(encode(&of_file, string)), found, "{string:?}");
        }
    }
}

#[test]
fn pieces_of_a_text_have_the_ids_of_the_whole() {
    let folder = TempDir::new().expect("a temporary folder");
    let encoder = Encoder::read(&Checkpoint::open_folder(&checkpoint(folder.path())).expect("sound"));
    let encoder = encoder.expect("read");
    let whole = strings().join("\n") + &strings().join(" a word ");
    let (mut cutter, mut ids, mut pieces) = (encoder.cutter(300), Vec::new(), 0);
    for part in whole.as_bytes().chunks(500) {
        assert!(cutter.push(part));
        while let Some(piece) = cutter.cut() {
            ids.extend(encoder.encode_part(&piece, pieces > 0, VOCABULARY as usize).expect("encoded"));
            pieces += 1;
        }
    }
    ids.extend(encode(&encoder, &cutter.last()));
    assert!(pieces > 10, "{pieces}");
    assert_eq!(ids, encode(&encoder, &whole));
}

#[test]
fn kimi_is_calibrated_and_evaluated() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = checkpoint(folder.path());
    let (imatrix, file) = (folder.path().join("imatrix.gguf"), folder.path().join("kimi.gguf"));
    let words = fixture("tiny-r1/calibration.txt");
    let given = ["--text", text(&words), "--context", "64", "--chunks", "4"];
    succeed(&[&["calibrate", text(&path), "-o", text(&imatrix)], &given[..]].concat());
    succeed(&[
        "quantize",
        text(&path),
        "-o",
        text(&file),
        "--imatrix",
        text(&imatrix),
        "--recipe",
        "q8_0",
        "--quiet",
    ]);
    let found = succeed(&[&["evaluate", text(&path), text(&file), "--json", "--quiet"], &given[..]].concat());
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let divergence = found["kl_mean"].as_f64().expect("a number");
    assert!(divergence > 0.0 && divergence < 0.05, "{divergence}");
}

#[test]
fn a_byte_without_a_token_is_named() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = checkpoint(folder.path());
    let model = fs::read_to_string(path.join("tiktoken.model")).expect("read");
    // "~" is now "~~", and no token is "~" alone.
    let [old, new] = [&b"~"[..], b"~~"].map(|bytes| format!("{} 126\n", STANDARD.encode(bytes)));
    assert!(model.contains(&old));
    fs::write(path.join("tiktoken.model"), model.replace(&old, &new)).expect("written");
    let words = fixture("tiny-r1/calibration.txt");
    let imatrix = folder.path().join("imatrix.gguf");
    let stderr = fail(&["calibrate", text(&path), "-o", text(&imatrix), "--text", text(&words)], 3);
    assert!(stderr.contains("tiktoken.model") && stderr.contains("byte 126"), "{stderr}");
}
