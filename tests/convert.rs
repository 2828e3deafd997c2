//! Conversions of the fixture: the right bytes, always the same, and none under the final name when it fails.

use std::fs;

use quantpress::gguf::Contents;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::{assert_bytes_of_preset, fail, fixture, hex, presets, quantize_fixture, succeed, text};

#[test]
fn every_tensor_of_the_bf16_file_equals_llama_cpps_converters() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = quantize_fixture(folder.path(), "bf16.gguf", &["--recipe", "bf16"]);
    let contents = Contents::read(&path).expect("sound");
    let file = fs::read(&path).expect("read");
    let reference = fs::read(fixture("tiny-r1/reference.json")).expect("read");
    let reference: Value = serde_json::from_slice(&reference).expect("JSON");
    let reference = reference["tensors"].as_object().expect("tensors");
    assert_eq!(contents.tensors.len(), reference.len());
    for tensor in &contents.tensors {
        let expected = &reference[&tensor.name];
        assert_eq!(expected["type"], tensor.format.name(), "{}", tensor.name);
        assert_eq!(expected["ne"], serde_json::json!(tensor.shape), "{}", tensor.name);
        let data = &file[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
        assert_eq!(expected["sha256"], hex(data), "{}", tensor.name);
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let digest = |threads: &str| {
        let arguments = ["--threads", threads, "--imatrix", text(&imatrix)];
        hex(&fs::read(quantize_fixture(folder.path(), "out.gguf", &arguments)).expect("read"))
    };
    let one = digest("1");
    assert_eq!(one, digest("2"));
    assert_eq!(one, digest("7"));
}

#[test]
fn the_bytes_do_not_depend_on_the_checkpoints_place_or_shards() {
    let folder = TempDir::new().expect("a temporary folder");
    let original = quantize_fixture(folder.path(), "a.gguf", &["--recipe", "q8_0"]);
    // The same tensors in one file instead of four.
    let copy = Copy::new();
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for number in 1..=4 {
        let name = format!("model-{number:05}-of-000004.safetensors");
        let shard = crate::support::checkpoint::Shard::parse(&fs::read(copy.file(&name)).expect("read"));
        for (tensor, mut entry) in shard.header {
            if let Some(offsets) = entry.get_mut("data_offsets") {
                let moved = |i: usize| offsets[i].as_u64().expect("an offset") + data.len() as u64;
                *offsets = vec![moved(0), moved(1)].into();
                header.insert(tensor, entry);
            }
        }
        data.extend(shard.data);
        copy.remove(&name);
    }
    copy.remove("model.safetensors.index.json");
    let header = Value::Object(header).to_string();
    copy.write("model.safetensors", &crate::support::checkpoint::with_header(header.as_bytes(), &data));
    let single = folder.path().join("b.gguf");
    succeed(&["quantize", text(copy.path()), "-o", text(&single), "--recipe", "q8_0", "--quiet"]);
    assert_eq!(hex(&fs::read(original).expect("read")), hex(&fs::read(single).expect("read")));
}

#[test]
fn plan_tells_the_size_of_every_preset_to_the_byte() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    // The size of auto is the user's (tests/sizes.rs).
    for recipe in presets().iter().map(String::as_str) {
        let plan = succeed(&["plan", text(&checkpoint), "--recipe", recipe, "--json"]);
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        let path = quantize_fixture(folder.path(), recipe, &["--recipe", recipe]);
        assert_bytes_of_preset(recipe, false, &path);
        assert_eq!(plan["file_bytes"], path.metadata().expect("made").len(), "{recipe}");
        let contents = Contents::read(&path).expect("sound");
        let listed = plan["tensor_list"].as_array().expect("tensors");
        assert_eq!(listed.len(), contents.tensors.len());
        for (planned, found) in listed.iter().zip(&contents.tensors) {
            assert_eq!(planned["name"], found.name);
            assert_eq!(planned["type"], found.format.name());
            assert_eq!(
                (planned["offset"].as_u64(), planned["bytes"].as_u64()),
                (Some(found.offset), Some(found.bytes))
            );
        }
    }
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    for with in [false, true] {
        let with_imatrix: &[&str] = if with { &["--imatrix", text(&imatrix)] } else { &[] };
        let arguments = [&["--recipe", "auto", "--size", "8MB"], with_imatrix].concat();
        assert_bytes_of_preset("auto", with, &quantize_fixture(folder.path(), "auto", &arguments));
    }
}

#[test]
fn dynamic_presets_have_the_types_of_their_recipes() {
    let reference = fs::read(fixture("tiny-r1/reference.json")).expect("read");
    let reference: Value = serde_json::from_slice(&reference).expect("JSON");
    let checkpoint = fixture("tiny-r1");
    for recipe in ["ud-iq1_s", "ud-iq1_m", "ud-iq2_xxs", "ud-q2_k_xl"] {
        let plan = succeed(&["plan", text(&checkpoint), "--recipe", recipe, "--json"]);
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        let expected = &reference["recipes"][recipe.replace('-', "_")];
        assert_eq!(plan["types"], expected["types"], "{recipe}");
        assert_eq!(plan["tensor_bytes"], expected["tensor_bytes"], "{recipe}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_an_error_before_the_work() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let absent = folder.path().join("absent/out.gguf");
    let stderr = fail(&["quantize", text(&checkpoint), "-o", text(&absent), "--quiet"], 1);
    assert!(stderr.contains("cannot create") && stderr.contains("absent/out.gguf"), "{stderr}");
    let stderr = fail(&["quantize", text(&checkpoint), "-o", text(folder.path()), "--quiet"], 2);
    assert!(stderr.contains("is a folder"), "{stderr}");
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0, "nothing is left behind");
}

#[test]
fn an_existing_file_stays_until_the_new_one_is_whole() {
    let copy = Copy::new();
    let output = copy.file("out.gguf");
    fs::write(&output, "the old file").expect("written");
    let weight = "model.layers.1.mlp.experts.3.up_proj.weight";
    copy.edit_shard(weight, |shard| shard.tensor(weight)[1000] = 0x7f);
    fail(&["quantize", text(copy.path()), "-o", text(&output), "--quiet", "--force"], 3);
    assert_eq!(fs::read_to_string(&output).expect("read"), "the old file");
}

#[test]
fn what_a_model_card_says_is_in_the_metadata() {
    let (copy, folder) = (Copy::new(), TempDir::new().expect("a temporary folder"));
    let made = |card: &str, more: &[&str]| {
        copy.write("README.md", card.as_bytes());
        let output = folder.path().join("a.gguf");
        let arguments = ["quantize", text(copy.path()), "-o", text(&output), "-r", "q8_0", "-q", "--force"];
        succeed(&[&arguments[..], more].concat());
        Contents::read(&output).expect("sound").metadata
    };
    let card =
        "---\nlicense: mit\nmodel_name: Tiny\ntags: [small]\nbase_model: org/base-model\n---\n# A model\n";
    let metadata = made(card, &[]);
    let text_of = |key: &str| metadata.get(key).and_then(|value| value.as_str().map(str::to_owned));
    assert_eq!(text_of("general.license").as_deref(), Some("mit"));
    assert_eq!(text_of("general.name").as_deref(), Some("Tiny"));
    assert_eq!(
        text_of("general.base_model.0.repo_url").as_deref(),
        Some("https://huggingface.co/org/base-model")
    );
    let named = made(card, &["--name", "Other"]);
    assert_eq!(named.get("general.name").and_then(|value| value.as_str()), Some("Other"));
    let said = succeed(&["plan", text(copy.path()), "--name", "Other"]);
    assert!(said.starts_with("Other (deepseek2), recipe ud-iq1_s\n"), "{said}");
    // What is wrong with a card is no obstacle, but is said.
    copy.write("README.md", b"---\nlicense: [\n---\n");
    let said = succeed(&["plan", text(copy.path())]).replace('\n', " ");
    assert!(said.contains("README.md: the facts at its beginning are no YAML"), "{said}");
}
