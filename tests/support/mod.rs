//! What the tests share: the fixture, the program, checkpoints made to measure, and real llama.cpp.

#[cfg(feature = "remote")]
pub mod bench;
pub mod checkpoint;
pub mod families;
#[cfg(feature = "remote")]
pub mod hub;
pub mod hybrid;
#[cfg(unix)]
pub mod interrupted;
pub mod pieces;
pub mod published;
pub mod python;
pub mod qwen;
#[cfg(feature = "remote")]
pub mod s3;
pub mod shapes;
pub mod skipped;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use quantpress::gguf::Contents;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A recipe whose types take no time to encode, where a test is not about types.
pub const FAST: &str = "q8_0";

/// A file or folder under `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Runs the program.
pub fn quantpress(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quantpress")).args(arguments).output().expect("the program starts")
}

/// Runs the program, which must succeed, and gives its stdout.
#[track_caller]
pub fn succeed(arguments: &[&str]) -> String {
    let output = quantpress(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {:?}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

/// Runs the program, which must fail with this exit code, and gives its stderr.
#[track_caller]
pub fn fail(arguments: &[&str], code: i32) -> String {
    let output = quantpress(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// The path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Quantizes the fixture into `folder`, in place of a file that may be there, and gives the file's path.
pub fn quantize_fixture(folder: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let output = folder.join(name);
    let checkpoint = fixture("tiny-r1");
    let mut all = vec!["quantize", text(&checkpoint), "-o", text(&output), "--quiet", "--force"];
    all.extend(arguments);
    succeed(&all);
    output
}

/// The beginning of the evaluation text: llama.cpp needs 15 seconds for all of it.
pub fn excerpt(folder: &Path, lines: usize) -> PathBuf {
    let path = folder.join("excerpt.txt");
    let all = std::fs::read_to_string(fixture("tiny-r1/evaluation.txt")).expect("read");
    let lines = all.lines().take(lines).flat_map(|line| [line, "\n"]);
    std::fs::write(&path, lines.collect::<String>()).expect("written");
    path
}

/// SHA-256 in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of every tensor's data in the files, by name; no name may be there twice.
pub fn tensor_hashes(files: &[PathBuf]) -> BTreeMap<String, String> {
    let mut hashes = BTreeMap::new();
    for file in files {
        let bytes = std::fs::read(file).expect("read");
        for tensor in Contents::read(file).expect("sound").tensors {
            let data = &bytes[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
            assert!(hashes.insert(tensor.name, hex(data)).is_none());
        }
    }
    hashes
}

/// The recipes that `fixtures/presets.sha256` lists, but that which needs a size.
pub fn presets() -> Vec<String> {
    let known = std::fs::read_to_string(fixture("presets.sha256")).expect("read");
    let names = known.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').next());
    names.filter(|name| *name != "auto").map(str::to_owned).collect()
}

/// Asserts that a file which a preset made of the fixture has the bytes that it always had (`fixtures/presets.sha256`).
#[track_caller]
pub fn assert_bytes_of_preset(recipe: &str, imatrix: bool, file: &Path) {
    let known = std::fs::read_to_string(fixture("presets.sha256")).expect("read");
    let mut rows = known.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let row =
        rows.find(|row| row[0] == recipe).unwrap_or_else(|| panic!("{recipe} is not in presets.sha256"));
    let found = hex(&std::fs::read(file).expect("read"));
    assert_eq!(found, row[if imatrix { 2 } else { 1 }], "the bytes of {recipe}, imatrix: {imatrix}");
}

/// Asserts that bytes are those that this output always had (`fixtures/outputs.sha256`).
#[track_caller]
pub fn assert_golden(output: &str, bytes: &[u8]) {
    let golden = std::fs::read_to_string(fixture("outputs.sha256")).expect("read");
    let digest = golden.lines().find_map(|line| line.strip_prefix(output)?.strip_prefix(' '));
    assert_eq!(Some(&*hex(bytes)), digest, "the bytes of {output}, beside fixtures/outputs.sha256");
}

/// Mean KL divergence on text from another seed than the calibration's.
pub fn divergence(file: &Path) -> f64 {
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/evaluation.txt"));
    let arguments = ["evaluate", text(&checkpoint), text(file), "--text", text(&words)];
    let found =
        succeed(&[&arguments[..], &["--context", "256", "--chunks", "12", "--quiet", "--json"]].concat());
    let found: Value = serde_json::from_str(&found).expect("JSON");
    found["kl_mean"].as_f64().expect("a number")
}
