//! A reader of GGUF that is not ours, gguf-rs, finds in our files what we have written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use quant_kernels::Format;
use quantpress::checkpoint::{Checkpoint, Fingerprint};
use quantpress::gguf::{Contents, Value};
use quantpress::model::{Model, Options};
use quantpress::recipe::{Override, Plan, Recipe, Wishes};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{fixture, presets, quantize_fixture, succeed, text};

/// Types of whose tensors gguf-rs 0.1.8 gives a wrong number of bytes: it takes their blocks for such of 256 weights.
const OTHER_BYTES: [Format; 3] = [Format::BF16, Format::IQ4_NL, Format::MXFP4];

/// The program, built on first use; None, with a line that says so, where that cannot be done.
fn program() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf-rs/Cargo.toml");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gguf-rs");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--locked", "--manifest-path"])
            .arg(source)
            .arg("--target-dir")
            .arg(&target);
        let output = cargo.output().expect("cargo starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let required = std::env::var_os("QUANTPRESS_REQUIRE_LLAMA").is_some();
        assert!(output.status.success() || !required, "gguf-rs cannot be built: {stderr}");
        if !output.status.success() {
            eprintln!("skipped, gguf-rs is not to be had: {stderr}");
        }
        let name = format!("read-by-gguf-rs{}", std::env::consts::EXE_SUFFIX);
        output.status.success().then(|| target.join("debug").join(name))
    };
    BUILT.get_or_init(build).as_deref()
}

/// Reads the file both ways and compares all that both tell.
fn read_by_both(path: &Path) {
    let Some(program) = program() else { return };
    let ours = Contents::read(path).expect("sound");
    let output = Command::new(program).arg(path).output().expect("it starts");
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    let theirs: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(theirs["version"], "v3");
    let metadata = theirs["metadata"].as_object().expect("an object");
    assert_eq!(metadata.len(), ours.metadata.len());
    for (key, value) in ours.metadata.iter() {
        match value {
            // Their numbers of single precision come by way of double.
            Value::F32(expected) => {
                assert_eq!(metadata[key].as_f64().map(|x| x as f32), Some(*expected), "{key}")
            }
            _ => assert_eq!(serde_json::to_value(value).expect("JSON"), metadata[key], "{key}"),
        }
    }
    let tensors = theirs["tensors"].as_array().expect("a list");
    assert_eq!(tensors.len(), ours.tensors.len());
    for (ours, theirs) in ours.tensors.iter().zip(tensors) {
        assert_eq!((&theirs["name"], &theirs["kind"]), (&json!(ours.name), &json!(ours.format.id())));
        assert_eq!(theirs["shape"], json!(ours.shape), "{}", ours.name);
        assert_eq!(theirs["offset"], ours.offset, "{}", ours.name);
        if !OTHER_BYTES.contains(&ours.format) {
            assert_eq!(theirs["bytes"], ours.bytes, "{} in {}", ours.name, ours.format);
        }
    }
}

/// A file with the plan's headers and no data, which neither reader looks at.
fn headers(plan: &Plan, folder: &Path) {
    for (number, file) in plan.files.iter().enumerate() {
        let path = folder.join(format!("{number}.gguf"));
        fs::write(&path, &file.layout.header).expect("written");
        let sized = fs::File::options().write(true).open(&path).expect("opened");
        sized.set_len(file.layout.file_size).expect("sized");
        read_by_both(&path);
    }
}

#[test]
fn gguf_rs_reads_the_headers_of_all_presets_and_types() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("the fixture");
    let source = Fingerprint::of(&checkpoint).expect("read");
    let options = Options { keep_mtp: true, ..Options::default() };
    let model = Model::plan(&checkpoint, &options).expect("planned");
    let plan = |recipe: &str, overrides: &[Override]| {
        let recipe = Recipe::load(recipe).expect("a preset");
        let wishes = Wishes { overrides, ..Wishes::new(&recipe) };
        headers(&Plan::new(model.clone(), source.clone(), wishes).expect("planned"), folder.path());
    };
    for preset in presets().iter().map(String::as_str) {
        plan(preset, &[]);
    }
    for format in Format::all() {
        plan("q8_0", &[format!("ffn_down_exps={format}").parse().expect("an override")]);
    }
}

#[test]
fn gguf_rs_reads_whole_and_split_files_and_importance_matrices() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    read_by_both(&imatrix);
    let more = ["--imatrix", text(&imatrix), "--override", "ffn_up_exps=iq2_xxs"];
    read_by_both(&quantize_fixture(folder.path(), "whole.gguf", &more));
    quantize_fixture(folder.path(), "parts.gguf", &["--recipe", "q8_0", "--split", "3"]);
    for number in 1..=3 {
        read_by_both(&folder.path().join(format!("parts-0000{number}-of-00003.gguf")));
    }
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/evaluation.txt"));
    let measured = folder.path().join("measured.gguf");
    let calibrate = ["calibrate", text(&checkpoint), "--text", text(&words), "-o", text(&measured)];
    succeed(&[&calibrate[..], &["--chunks", "2", "--context", "64", "--cover", "--quiet"]].concat());
    read_by_both(&measured);
}
