//! `calibrate --gradients` and `quantize --feedback --gradients`: closer to the checkpoint than with feedback alone, the
//! same bytes with any threads and memory and however often it was killed.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

#[cfg(unix)]
use crate::support::interrupted::killed_at;
use crate::support::{assert_golden, divergence, fail, fixture, quantize_fixture, succeed, text};

const CHUNKS: &str = "12";

/// The arguments of `calibrate` for gradients of the fixture, in a folder beside its importances.
fn calibrating(folder: &Path, name: &str, chunks: &str, extra: &[&str]) -> (PathBuf, Vec<String>) {
    let gradients = folder.join(name);
    let output = folder.join(format!("{name}.imatrix"));
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let arguments = ["calibrate", text(&checkpoint), "-o", text(&output), "--text", text(&words)];
    let wishes = ["--context", "256", "--chunks", chunks, "--quiet", "--gradients", text(&gradients)];
    let all = [&arguments[..], &wishes, extra].concat();
    let all = all.into_iter().map(str::to_owned).collect();
    (gradients, all)
}

fn calibrate(folder: &Path, name: &str, chunks: &str, extra: &[&str]) -> PathBuf {
    let (gradients, arguments) = calibrating(folder, name, chunks, extra);
    succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    gradients
}

fn quantize(folder: &Path, name: &str, chunks: &str, extra: &[&str]) -> PathBuf {
    let words = fixture("tiny-r1/calibration.txt");
    let arguments = ["--feedback", "--text", text(&words), "--context", "256", "--chunks", chunks];
    quantize_fixture(folder, name, &[&arguments[..], extra].concat())
}

/// The names in a folder with what they hold, in order.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
    let of = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(&path).expect("read"))
    };
    let mut all: Vec<(String, Vec<u8>)> = files.map(of).collect();
    all.sort();
    all
}

#[test]
fn files_are_closer_than_with_feedback_alone_at_the_same_size() {
    let folder = TempDir::new().expect("a temporary folder");
    let gradients = calibrate(folder.path(), "gradients", CHUNKS, &[]);
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    // What feedback leaves of q2_k here is little already.
    for (recipe, most) in [("q2_k", 1.0), ("iq2_xxs", 0.95)] {
        let types = ["--recipe", recipe, "--imatrix", text(&imatrix)];
        let fed = quantize(folder.path(), "fed.gguf", CHUNKS, &types);
        let weighed = [&types[..], &["--gradients", text(&gradients)]].concat();
        let weighed = quantize(folder.path(), "weighed.gguf", CHUNKS, &weighed);
        assert_eq!(fs::metadata(&fed).expect("made").len(), fs::metadata(&weighed).expect("made").len());
        let [fed, weighed] = [fed, weighed].map(|file| divergence(&file));
        eprintln!("{recipe}: KL divergence {weighed:.5} with gradients, {fed:.5} without");
        assert!(weighed < most * fed, "{recipe}: {weighed}, without gradients {fed}");
        let checkpoint = fixture("tiny-r1");
        succeed(&["verify", text(&folder.path().join("weighed.gguf")), "--against", text(&checkpoint)]);
    }
}

#[test]
fn threads_and_memory_do_not_change_the_bytes() {
    let folder = TempDir::new().expect("a temporary folder");
    let one = calibrate(folder.path(), "one", "2", &["--threads", "1"]);
    let spilled = calibrate(folder.path(), "spilled", "2", &["--threads", "3", "--memory", "1B"]);
    assert!(contents(&one) == contents(&spilled), "threads or memory change the gradients");
    // States before layers are gone when their gradients are there.
    assert_eq!(contents(&one).len(), 2 * 2 * 5 + 1);
    let types = ["--recipe", "q2_k", "--override", "ffn_down_exps=iq1_s"];
    let made = |name: &str, more: &[&str]| {
        fs::read(quantize(folder.path(), name, "2", &[&types[..], more].concat())).expect("read")
    };
    let file = made("one.gguf", &["--threads", "1", "--gradients", text(&one)]);
    let other = ["--threads", "3", "--memory", "8MB", "--gradients", text(&spilled)];
    assert!(file == made("spilled.gguf", &other), "threads or memory change the file");
    assert!(file != made("without.gguf", &[]));
    assert_golden("gradients", &file);
}

#[cfg(unix)]
#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_bytes() {
    let folder = TempDir::new().expect("a temporary folder");
    let whole = calibrate(folder.path(), "whole", "2", &[]);
    let (killed, arguments) = calibrating(folder.path(), "killed", "2", &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // On the way there, at its end, and on the way back.
    for count in [2, 2, 1, 3, 4] {
        assert!(killed_at(&arguments, "gradients", count), "it ended too soon");
        let words = fixture("tiny-r1/calibration.txt");
        let (checkpoint, output) = (fixture("tiny-r1"), folder.path().join("early.gguf"));
        let early =
            ["quantize", text(&checkpoint), "-o", text(&output), "--feedback", "--text", text(&words)];
        fail(&[&early[..], &["--context", "256", "--gradients", text(&killed)]].concat(), 1);
    }
    succeed(&arguments);
    assert!(contents(&whole) == contents(&killed), "kills change the gradients");

    let output = folder.path().join("b.gguf");
    let types = ["--recipe", "q2_k", "--gradients", text(&whole)];
    let undisturbed = quantize(folder.path(), "a.gguf", "2", &types);
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let start = ["quantize", text(&checkpoint), "-o", text(&output), "--feedback", "--text", text(&words)];
    let more = ["--context", "256", "--chunks", "2", "--sync-seconds", "0", "--quiet"];
    let arguments = [&start[..], &more, &types].concat();
    for count in [3, 11, 24] {
        assert!(killed_at(&arguments, "recorded", count), "it ended too soon");
    }
    succeed(&arguments);
    assert!(fs::read(undisturbed).expect("read") == fs::read(output).expect("read"), "kills change the file");
}

#[test]
fn gradients_of_something_else_or_damaged_are_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let gradients = calibrate(folder.path(), "gradients", "3", &["--gradient-chunks", "2"]);
    let refused = |words: &Path, chunks: &str| {
        let (checkpoint, output) = (fixture("tiny-r1"), folder.path().join("a.gguf"));
        let start = ["quantize", text(&checkpoint), "-o", text(&output), "--feedback", "--text", text(words)];
        let more = ["--context", "256", "--chunks", chunks, "--gradients", text(&gradients)];
        let stderr = fail(&[&start[..], &more].concat(), 2);
        assert!(!output.exists());
        stderr
    };
    let words = fixture("tiny-r1/calibration.txt");
    let few = refused(&words, "1");
    assert!(few.contains("is of 512 tokens, which are not the first chunks of the 256 tokens"), "{few}");
    let other = refused(&fixture("tiny-r1/evaluation.txt"), "3");
    assert!(other.contains("gradient-0-attention.f32.json is of other states: the text's tokens"), "{other}");
    let kept = gradients.join("gradient-2-ffn.f32");
    let mut bytes = fs::read(&kept).expect("read");
    bytes[100] ^= 1;
    fs::write(&kept, bytes).expect("written");
    let damaged = refused(&words, "3");
    assert!(damaged.contains("gradient-2-ffn.f32 is not as it was written"), "{damaged}");
}
