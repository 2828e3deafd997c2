//! `quantize --feedback`: closer to the checkpoint at the same size, on text that it did not see, with any threads.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{fail, fixture, quantize_fixture, succeed, text};

/// Mean KL divergence on text from another seed than the calibration's.
fn divergence(file: &Path) -> f64 {
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/evaluation.txt"));
    let arguments = ["evaluate", text(&checkpoint), text(file), "--text", text(&words)];
    let found =
        succeed(&[&arguments[..], &["--context", "256", "--chunks", "12", "--quiet", "--json"]].concat());
    let found: Value = serde_json::from_str(&found).expect("JSON");
    found["kl_mean"].as_f64().expect("a number")
}

fn with_feedback(folder: &Path, name: &str, extra: &[&str]) -> PathBuf {
    let words = fixture("tiny-r1/calibration.txt");
    let mut arguments = vec!["--feedback", "--text", text(&words), "--context", "256"];
    arguments.extend(extra);
    quantize_fixture(folder, name, &arguments)
}

#[test]
fn files_are_much_closer_to_the_checkpoint_at_the_same_size() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    for (recipe, bound) in [("ud-iq1_s", 0.6), ("q2_k", 0.6)] {
        let types = ["--recipe", recipe, "--imatrix", text(&imatrix)];
        let plain = quantize_fixture(folder.path(), "plain.gguf", &types);
        let fed = with_feedback(folder.path(), "fed.gguf", &[&types[..], &["--chunks", "40"]].concat());
        assert_eq!(fs::metadata(&plain).expect("made").len(), fs::metadata(&fed).expect("made").len());
        let (plain, fed) = (divergence(&plain), divergence(&fed));
        eprintln!("{recipe}: KL divergence {fed:.5} with feedback, {plain:.5} without: {:.3}", fed / plain);
        assert!(fed < bound * plain, "{recipe}: {fed}, without feedback {plain}");
    }
}

#[test]
fn threads_do_not_change_the_bytes() {
    let folder = TempDir::new().expect("a temporary folder");
    let run = |name: &str, threads: &str| {
        let arguments =
            ["--recipe", "q2_k", "--override", "ffn_down_exps=iq1_s", "--chunks", "2", "--threads", threads];
        fs::read(with_feedback(folder.path(), name, &arguments)).expect("read")
    };
    assert!(run("one.gguf", "1") == run("three.gguf", "3"));
}

#[test]
fn feedback_wants_a_text() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, output) = (fixture("tiny-r1"), folder.path().join("out.gguf"));
    let arguments = ["quantize", text(&checkpoint), "-o", text(&output)];
    let stderr = fail(&[&arguments[..], &["--feedback"]].concat(), 2);
    assert!(stderr.contains("--text"), "{stderr}");
    let words = folder.path().join("few.txt");
    fs::write(&words, "The river").expect("written");
    let stderr = fail(&[&arguments[..], &["--feedback", "--text", text(&words)]].concat(), 2);
    assert!(stderr.contains("less than a chunk of 512") && !output.exists(), "{stderr}");
}
