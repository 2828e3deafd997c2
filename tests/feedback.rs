//! `quantize --feedback`: closer to the checkpoint at the same size, on text that it did not see, with any threads.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

#[cfg(unix)]
use crate::support::interrupted::killed_at;
use crate::support::{assert_golden, fail, fixture, quantize_fixture, succeed, text};

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
        let fed = with_feedback(folder.path(), "fed.gguf", &[&types[..], &["--chunks", "24"]].concat());
        // The digest of the text is in the metadata, and nothing else is larger.
        let larger = fs::metadata(&fed).expect("made").len() - fs::metadata(&plain).expect("made").len();
        assert!(larger <= 128, "{larger} bytes larger");
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
    let one = run("one.gguf", "1");
    assert!(one == run("three.gguf", "3"));
    assert_golden("feedback", &one);
}

#[cfg(unix)]
#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_bytes() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let chosen = ["--recipe", "q2_k", "--override", "ffn_down_exps=iq1_s", "--chunks", "2"];
    let undisturbed = with_feedback(folder.path(), "a.gguf", &[&chosen[..], &["--split", "2"]].concat());
    assert!(!undisturbed.exists(), "split");
    let output = folder.path().join("b.gguf");
    let mut arguments = vec!["quantize", text(&checkpoint), "-o", text(&output), "--split", "2", "--json"];
    arguments.extend(["--feedback", "--text", text(&words), "--context", "256", "--sync-seconds", "0"]);
    arguments.extend(chosen);
    for kill in 0..8 {
        // When slices are recorded, and after the states of a layer are kept.
        let (moment, count) = if kill == 5 { ("kept", 1) } else { ("recorded", 1 + kill * 29 % 40) };
        assert!(killed_at(&arguments, moment, count), "kill {kill} came too late");
    }
    let said = succeed(&arguments);
    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |event: &str| events.iter().filter(|e| e["event"] == event).collect::<Vec<_>>();
    assert!(of("started")[0]["done_before"].as_u64() > Some(0), "{said}");
    assert_eq!(of("done").len(), 1, "{said}");
    for part in ["00001-of-00002", "00002-of-00002"] {
        let [a, b] = ["a", "b"].map(|name| folder.path().join(format!("{name}-{part}.gguf")));
        assert!(fs::read(&a).expect("read") == fs::read(&b).expect("read"), "{part}");
        let manifest = fs::read_to_string(format!("{}.json", b.display())).expect("read");
        let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
        assert_eq!(manifest["feedback"]["sha256"].as_str().map(str::len), Some(64), "{part}");
    }
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("read").map(|f| f.expect("a file").file_name()).collect();
    assert_eq!(left.len(), 8, "{left:?}");
    let path = folder.path().join("b-00001-of-00002.gguf");
    succeed(&["verify", text(&path), "--against", text(&checkpoint)]);
}

#[test]
fn another_text_is_other_work_and_a_part_cannot_be_made_alone() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, output) = (fixture("tiny-r1"), folder.path().join("out.gguf"));
    let words = fixture("tiny-r1/calibration.txt");
    let arguments =
        ["quantize", text(&checkpoint), "-o", text(&output), "--feedback", "--text", text(&words)];
    let stderr = fail(&[&arguments[..], &["--chunks", "1", "--context", "256", "--part", "1/2"]].concat(), 2);
    assert!(stderr.contains("--split"), "{stderr}");
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
