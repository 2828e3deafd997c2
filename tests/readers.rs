//! A reader of GGUF that is not ours, gguf-rs, finds in our files what we have written.

use std::fs;
use std::path::Path;

use quantpress::checkpoint::{Checkpoint, Fingerprint};
use quantpress::gguf::{Contents, Value};
use quantpress::model::{Model, Options};
use quantpress::recipe::{Override, Plan, Recipe, Wishes, preset_names};
use tempfile::TempDir;

use crate::support::{fixture, quantize_fixture, succeed, text};

/// Reads the file both ways and compares all that both tell.
fn read_by_both(path: &Path) {
    let ours = Contents::read(path).expect("sound");
    let theirs =
        gguf_rs::get_gguf_container_array_size(text(path), u64::MAX).and_then(|mut file| file.decode());
    let theirs = theirs.unwrap_or_else(|e| panic!("{}: {e:#}", path.display()));
    assert_eq!(theirs.get_version(), "v3");
    assert_eq!(theirs.num_kv(), ours.metadata.len() as u64);
    for (key, value) in &ours.metadata {
        let found = theirs.metadata().get(key).unwrap_or_else(|| panic!("{key} is not there"));
        // Their numbers of single precision come by way of JSON.
        match (value, found.as_f64()) {
            (Value::F32(expected), Some(found)) => assert_eq!(*expected, found as f32, "{key}"),
            _ => assert_eq!(&serde_json::to_value(value).expect("JSON"), found, "{key}"),
        }
    }
    assert_eq!(theirs.num_tensor(), ours.tensors.len() as u64);
    for (ours, tensor) in ours.tensors.iter().zip(theirs.tensors()) {
        assert_eq!((&tensor.name, tensor.kind), (&ours.name, ours.format.id()));
        let (shape, rest) = tensor.shape.split_at(ours.shape.len());
        assert!(shape == ours.shape && rest.iter().all(|&n| n == 1), "{}: {:?}", ours.name, tensor.shape);
        assert_eq!(
            (theirs.data_offset() + tensor.offset, tensor.size),
            (ours.offset, ours.bytes),
            "{}",
            ours.name
        );
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
    for preset in preset_names().filter(|name| *name != "auto") {
        plan(preset, &[]);
    }
    for format in quant_kernels::Format::all() {
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
