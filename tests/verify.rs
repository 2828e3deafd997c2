//! `verify`: files as they were made pass, and damage of every sort is found, at its place.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use quantpress::Error;
use quantpress::checkpoint::Checkpoint;
use quantpress::gguf::{Contents, Layout, Metadata, TensorInfo, Value, beside};
use quantpress::progress::{More, UNTOLD};
use quantpress::verify::{Compare, against, check};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::{
    assert_bytes_of_preset, fail, fixture, presets, quantize_fixture, quantpress, succeed, text,
};

/// In the file, and one of its sources.
const EXPERTS: &str = "blk.2.ffn_up_exps.weight";
const EXPERT: &str = "model.layers.2.mlp.experts.3.up_proj.weight";

/// A converted fixture that may be damaged.
struct Made {
    folder: TempDir,
    path: PathBuf,
    contents: Contents,
}

impl Made {
    fn new(arguments: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let path = quantize_fixture(folder.path(), "out.gguf", arguments);
        // Its hashes would tell of any damage before the rest is looked at.
        fs::remove_file(beside(&path, ".json")).expect("a manifest");
        let contents = Contents::read(&path).expect("sound");
        Self { folder, path, contents }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("read")
    }

    /// Where slice `index` of a tensor lies.
    fn slice(&self, tensor: &str, index: usize) -> Range<usize> {
        let tensor = self.contents.tensor(tensor).expect("the tensor is there");
        let slices = tensor.shape.get(2).copied().unwrap_or(1) as usize;
        let bytes = tensor.bytes as usize / slices;
        let start = tensor.offset as usize + index * bytes;
        start..start + bytes
    }

    /// Damages the file, which must then fail with these words, and mends it.
    #[track_caller]
    fn found(&self, damage: impl FnOnce(&mut Vec<u8>), arguments: &[&str], words: &[&str]) {
        let sound = self.bytes();
        let mut damaged = sound.clone();
        damage(&mut damaged);
        assert_ne!(damaged, sound, "the damage changes something");
        fs::write(&self.path, damaged).expect("written");
        let mut all = vec!["verify", text(&self.path)];
        all.extend(arguments);
        let stderr = fail(&all, 3);
        for word in words {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
        fs::write(&self.path, sound).expect("written");
    }
}

#[test]
fn files_of_every_preset_pass() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, imatrix) = (fixture("tiny-r1"), fixture("tiny-r1/imatrix.gguf"));
    let against = ["--against", text(&checkpoint)];
    for recipe in presets().iter().map(String::as_str) {
        let arguments = ["--recipe", recipe, "--imatrix", text(&imatrix)];
        let made = quantize_fixture(folder.path(), "with.gguf", &arguments);
        assert_bytes_of_preset(recipe, true, &made);
        let verify = ["verify", text(&made), against[0], against[1]];
        let with = [&verify[..], &["--imatrix", text(&imatrix)]].concat();
        for arguments in [&with[..], &verify] {
            let said = succeed(arguments);
            assert!(said.contains("pass: 88 tensors, 18,191,680 weights"), "{recipe}: {said}");
        }
    }
    for recipe in ["ud-iq1_s", "ud-q2_k_xl", "q4_k_m"] {
        let made = quantize_fixture(folder.path(), "without.gguf", &["--recipe", recipe]);
        succeed(&["verify", text(&made), against[0], against[1]]);
    }
}

#[test]
fn kept_layers_for_multi_token_prediction_are_compared_too() {
    let made = Made::new(&["--recipe", "q8_0", "--keep-mtp", "--name", "Tiny R1"]);
    let checkpoint = fixture("tiny-r1");
    let said = succeed(&["verify", text(&made.path), "--against", text(&checkpoint), "--tensors"]);
    assert!(said.contains("blk.5.nextn.eh_proj.weight"), "{said}");
}

#[test]
fn the_answer_does_not_depend_on_the_number_of_threads() {
    let made = Made::new(&[]);
    let checkpoint = fixture("tiny-r1");
    let answer = |threads| {
        let arguments = ["verify", text(&made.path), "--against", text(&checkpoint), "--json", "-t", threads];
        succeed(&arguments)
    };
    let one = answer("1");
    assert_eq!(one, answer("2"));
    assert_eq!(one, answer("7"));
    let json: Json = serde_json::from_str(&one).expect("JSON");
    let experts =
        json["compared"].as_array().expect("tensors").iter().find(|tensor| tensor["name"] == EXPERTS);
    let experts = experts.expect("the experts are compared");
    assert_eq!(experts["slices"].as_array().map(Vec::len), Some(16));
    assert_eq!(experts["worst_rows"].as_array().map(Vec::len), Some(3));
    assert!(
        experts["unit_gain_error"].as_f64().is_some_and(|error| (0.1..0.3).contains(&error)),
        "{experts}"
    );
}

#[test]
fn scales_that_are_no_numbers_are_found_without_the_source() {
    // IQ1_S begins with its half-precision scale; Q6_K ends with it; F32 is the number itself.
    let made = Made::new(&[]);
    let at = made.slice(EXPERTS, 3).start + 50 * 7;
    let expert_3_row_7 =
        ["tensor \"blk.2.ffn_up_exps.weight\"", "the scale of the block", "row 775, column 0"];
    made.found(|file| file[at..at + 2].copy_from_slice(&[0, 0x7c]), &[], &expert_3_row_7);
    made.found(|file| file[at..at + 2].copy_from_slice(&[1, 0xfe]), &[], &expert_3_row_7);
    let end = made.slice("output.weight", 0).end;
    made.found(|file| file[end - 1] = 0x7c, &[], &["tensor \"output.weight\"", "row 1023, column 0"]);
    let norm = made.slice("output_norm.weight", 0).start;
    let nan = |file: &mut Vec<u8>| file[norm + 8..norm + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    made.found(nan, &[], &["output_norm.weight", "the weight at row 0, column 2"]);
}

#[test]
fn damaged_structure_is_found() {
    let made = Made::new(&["--recipe", "q8_0"]);
    made.found(|file| file[0] = b'g', &[], &["does not begin with \"GGUF\""]);
    made.found(|file| file[4] = 9, &[], &["is GGUF version 9"]);
    made.found(|file| file[8] -= 1, &[], &["has", "its tensors end at"]);
    made.found(|file| file[8] += 1, &[], &["tensor 88 of 89"]);
    made.found(|file| file[16] -= 1, &[], &["tensor 0 of 88"]);
    made.found(|file| file.truncate(file.len() - 5000), &[], &["cut short"]);
    made.found(|file| file.truncate(60), &[], &["the header cannot be read"]);
    made.found(|file| file.extend([0; 32]), &[], &["its tensors end at"]);

    let file = made.bytes();
    let info =
        file.windows(EXPERTS.len()).position(|bytes| bytes == EXPERTS.as_bytes()).expect("in the header");
    // After the name: dimensions, three sizes, type, offset.
    let (shape, kind, offset) =
        (info + EXPERTS.len() + 4, info + EXPERTS.len() + 28, info + EXPERTS.len() + 32);
    made.found(|file| file[offset] += 32, &[], &[EXPERTS, "begins at byte", "expected"]);
    made.found(|file| file[offset] += 1, &[], &[EXPERTS, "begins at byte"]);
    made.found(|file| file[offset + 6] = 1, &[], &[EXPERTS, "cut short"]);
    made.found(|file| file[kind] = 99, &[], &[EXPERTS, "type id 99"]);
    made.found(|file| file[kind] = 2, &[], &["begins at byte"]);
    made.found(|file| file[shape] += 1, &[], &[EXPERTS, "rows of 257 weights"]);
    made.found(|file| file[shape + 8..shape + 16].fill(0), &[], &[EXPERTS, "without weights"]);
    made.found(|file| file[info + 4] = b'3', &[], &["blk.3.ffn_up_exps.weight", "is there twice"]);
}

#[test]
fn other_weights_than_the_sources_are_found() {
    let made = Made::new(&[]);
    let checkpoint = fixture("tiny-r1");
    let against = ["--against", text(&checkpoint)];
    let slab = |expert| made.slice(EXPERTS, expert);
    let swap = |file: &mut Vec<u8>| {
        let (first, second) = (file[slab(3)].to_vec(), file[slab(9)].to_vec());
        file[slab(3)].copy_from_slice(&second);
        file[slab(9)].copy_from_slice(&first);
    };
    made.found(swap, &against, &[EXPERTS, "2 of 16 slices", "error"]);
    let zeros = |file: &mut Vec<u8>| file[slab(5)].fill(0);
    made.found(zeros, &against, &[EXPERTS, "1 of 16 slices", "slice 5"]);
    let row = |row: usize| slab(5).start + 50 * row..slab(5).start + 50 * (row + 1);
    made.found(|file| file.copy_within(row(8), row(17).start), &against, &[EXPERTS, "row 17 of slice 5"]);
    // Half the scale of a whole expert: the direction is right and the size wrong.
    let halve = |file: &mut Vec<u8>| {
        for block in file[slab(2)].chunks_exact_mut(50) {
            block[1] -= if block[1] & 0x7c > 4 { 4 } else { 0 };
        }
    };
    made.found(halve, &against, &[EXPERTS, "slice", "gain 0.4881 where 1 +- 0.05 is"]);
    // Two rows of a head, in attn_k_b, whose slices are transposed.
    let head = made.slice("blk.1.attn_k_b.weight", 2);
    made.found(|file| file[head.clone()][..2 * 136].fill(0), &against, &["blk.1.attn_k_b.weight", "slice 2"]);
}

#[test]
fn another_checkpoint_is_found() {
    let made = Made::new(&["--recipe", "q8_0"]);
    let verify = |copy: &Copy, words: &[&str]| {
        let stderr = fail(&["verify", text(&made.path), "--against", text(copy.path())], 3);
        for word in words {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
    };
    let weights = Copy::new();
    weights.edit_shard(EXPERT, |shard| shard.tensor(EXPERT).reverse());
    verify(&weights, &[EXPERTS, "1 of 16 slices", "slice 3"]);
    let config = Copy::new();
    config.edit("config.json", |config| config["rope_theta"] = 20_000.into());
    verify(&config, &["the key deepseek2.rope.freq_base is 10000.0; from the checkpoint it is 20000.0"]);
    let tokens = Copy::new();
    tokens.edit("tokenizer.json", |tokenizer| {
        tokenizer["model"]["merges"].as_array_mut().expect("merges").swap(0, 1);
    });
    verify(&tokens, &["tokenizer.ggml.merges", "another value"]);
}

#[test]
fn the_importance_matrix_must_be_the_one_of_the_file() {
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let (with, without) = (Made::new(&["--imatrix", text(&imatrix)]), Made::new(&[]));
    let checkpoint = fixture("tiny-r1");
    let verify = |made: &Made, imatrix: &str| {
        let imatrix = fixture(imatrix);
        fail(&["verify", text(&made.path), "--against", text(&checkpoint), "--imatrix", text(&imatrix)], 2)
    };
    let stderr = verify(&without, "tiny-r1/imatrix.gguf");
    assert!(stderr.contains("made without an importance matrix"), "{stderr}");
    let stderr = verify(&with, "tiny-r1/imatrix.dat");
    assert!(stderr.contains("SHA-256") && stderr.contains("was made with"), "{stderr}");
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_differs_from_the_manifest_is_found() {
    let made = Made::new(&["--recipe", "q4_k_m"]);
    let file = made.bytes();
    let tensors: Vec<Json> = made.contents.tensors.iter().map(|tensor| {
        let data = &file[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
        json!({"name": tensor.name, "type": tensor.format.name(), "bytes": tensor.bytes, "sha256": hex(data)})
    }).collect();
    let manifest = json!({"sha256": hex(&file), "tensors": tensors});
    let beside = made.folder.path().join("out.gguf.json");
    let write = |manifest: &Json| fs::write(&beside, manifest.to_string()).expect("written");
    write(&manifest);
    succeed(&["verify", text(&made.path)]);

    // One bit of one weight: no bound of an error would tell.
    let at = made.slice(EXPERTS, 3).start + 100;
    let found = [EXPERTS, "has the SHA-256", "the manifest has"];
    made.found(|file| file[at] ^= 1, &[], &found);
    // In the header, of which no tensor knows.
    let name = b"general.size_label";
    let key = file.windows(name.len()).position(|bytes| bytes == name).expect("a key");
    made.found(|file| file[key + 8] = b'S', &[], &["out.gguf: SHA-256 is"]);

    let changed = |change: &dyn Fn(&mut Json), words: &[&str]| {
        let mut other = manifest.clone();
        change(&mut other);
        write(&other);
        let stderr = fail(&["verify", text(&made.path)], 3);
        for word in words {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
    };
    changed(&|m| drop(m["tensors"].as_array_mut().expect("a list").remove(4)), &["is not in the manifest"]);
    changed(&|m| m["tensors"][4]["type"] = "Q8_0".into(), &["the manifest has Q8_0"]);
    changed(&|m| m["tensors"][4]["name"] = "blk.9.x".into(), &["is not in the manifest", "1 more"]);
    changed(&|m| *m = json!({"tensors": 7}), &["out.gguf.json", "is no manifest"]);
}

/// Divides a file into llama.cpp's split files, before each tensor of `starts`; `change` may damage the keys.
fn split(
    made: &Made,
    folder: &Path,
    starts: &[usize],
    change: impl Fn(usize, &mut Metadata),
) -> Vec<PathBuf> {
    let file = made.bytes();
    let tensors = &made.contents.tensors;
    let part = |(number, start): (usize, &usize)| {
        let own = &tensors[*start..starts.get(number + 1).copied().unwrap_or(tensors.len())];
        let mut metadata = Metadata::default();
        if number == 0 {
            made.contents.metadata.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
        }
        metadata.set("split.no", Value::U16(number as u16));
        metadata.set("split.count", Value::U16(starts.len() as u16));
        metadata.set("split.tensors.count", Value::I32(tensors.len() as i32));
        change(number, &mut metadata);
        let info =
            own.iter().map(|t| TensorInfo { name: t.name.clone(), shape: t.shape.clone(), format: t.format });
        let layout = Layout::new(&metadata, &info.collect::<Vec<_>>());
        let mut bytes = layout.header;
        bytes.resize(layout.file_size as usize, 0);
        for (tensor, offset) in own.iter().zip(layout.offsets) {
            let data = &file[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
            bytes[offset as usize..][..data.len()].copy_from_slice(data);
        }
        let path = folder.join(format!("tiny-{:05}-of-{:05}.gguf", number + 1, starts.len()));
        fs::write(&path, bytes).expect("written");
        path
    };
    starts.iter().enumerate().map(part).collect()
}

#[test]
fn split_files_are_checked_together() {
    let made = Made::new(&["--recipe", "q8_0"]);
    let (folder, checkpoint) = (made.folder.path(), fixture("tiny-r1"));
    let parts = split(&made, folder, &[0, 20, 60], |_, _| {});
    for part in &parts {
        let said = succeed(&["verify", text(part), "--against", text(&checkpoint)]);
        let words = "pass; hashes NOT checked: no tiny-00001-of-00003.gguf.json";
        assert!(said.contains(words) && said.contains("88 tensors") && said.contains("in 3 files"), "{said}");
    }
    let refused = |code, words: &[&str]| {
        let stderr = fail(&["verify", text(&parts[0])], code);
        for word in words {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
    };
    fs::copy(&parts[2], &parts[1]).expect("copied");
    refused(3, &["tiny-00002-of-00003.gguf", "split.no is 2; expected 1"]);
    for (key, expected) in
        [("split.no", "split.no is 9; expected"), ("split.count", "split.count is 9; expected 3")]
    {
        split(&made, folder, &[0, 20, 60], |number, keys| {
            if number == 1 {
                keys.set(key, Value::U16(9))
            }
        });
        refused(3, &["tiny-00002-of-00003.gguf", expected]);
    }
    split(&made, folder, &[0, 20, 60], |_, keys| keys.set("split.tensors.count", Value::I32(80)));
    refused(3, &["split.tensors.count is 80; expected 88"]);
    split(&made, folder, &[0, 20, 60], |_, _| {});
    let alone = folder.join("alone.gguf");
    fs::rename(&parts[0], &alone).expect("renamed");
    let stderr = fail(&["verify", text(&alone)], 3);
    assert!(stderr.contains("alone.gguf") && stderr.contains("-of-00003.gguf"), "{stderr}");
}

/// `verify --json`, whatever it finds.
fn answer(path: &Path, arguments: &[&str]) -> Json {
    let output = quantpress(&[&["verify", text(path), "--json"], arguments].concat());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn what_was_not_compared_is_said() {
    let folder = TempDir::new().expect("a temporary folder");
    let whole = quantize_fixture(folder.path(), "out.gguf", &["--recipe", "q8_0"]);
    assert!(succeed(&["verify", text(&whole)]).contains("pass: 88 tensors"));
    assert_eq!(answer(&whole, &[])["hashes"], "checked");

    // Weights of which only a hash could tell: nothing says any more what they were.
    fs::remove_file(beside(&whole, ".json")).expect("a manifest");
    let mut bytes = fs::read(&whole).expect("read");
    let end = bytes.len() - 100;
    bytes[end] ^= 1;
    fs::write(&whole, bytes).expect("written");
    let said = succeed(&["verify", text(&whole)]);
    assert!(said.contains("structure ok; contents NOT checked: no out.gguf.json"), "{said}");
    assert!(!said.contains("pass"), "{said}");
    let json = answer(&whole, &[]);
    assert_eq!((&json["hashes"], &json["compared"]), (&json!("absent"), &json!([])));
    assert_eq!(json["files_without_manifest"], json!([text(&whole)]));

    quantize_fixture(folder.path(), "s.gguf", &["--recipe", "q8_0", "--split", "3"]);
    let part = |number: u32| folder.path().join(format!("s-0000{number}-of-00003.gguf"));
    assert_eq!(answer(&part(2), &[])["hashes"], "checked");
    fs::remove_file(beside(&part(3), ".json")).expect("a manifest");
    let said = succeed(&["verify", text(&part(1))]);
    assert!(said.contains("pass; contents NOT checked: no s-00003-of-00003.gguf.json (88 tensors"), "{said}");
    let json = answer(&part(1), &[]);
    assert_eq!((&json["hashes"], json["files"].as_array().map(Vec::len)), (&json!("partly"), Some(3)));
    assert_eq!(json["files_without_manifest"], json!([text(&part(3))]));
}

#[test]
fn a_part_is_checked_where_the_others_are_not() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, imatrix) = (fixture("tiny-r1"), fixture("tiny-r1/imatrix.gguf"));
    let made_with = ["--recipe", "ud-iq2_xxs", "--imatrix", text(&imatrix), "--name", "Tiny"];
    let part = |number: u32| folder.path().join(format!("pt-0000{number}-of-00003.gguf"));
    for number in [1, 2] {
        let which = format!("{number}/3");
        quantize_fixture(folder.path(), "pt.gguf", &[&made_with[..], &["--part", &which]].concat());
        let other = folder.path().join("other");
        fs::create_dir_all(&other).expect("a folder");
        for file in [part(number), beside(&part(number), ".json")] {
            fs::rename(&file, other.join(file.file_name().expect("a name"))).expect("moved");
        }
        let alone = other.join(part(number).file_name().expect("a name"));
        let against = ["--against", text(&checkpoint), "--imatrix", text(&imatrix)];
        for arguments in [&[][..], &against] {
            let said = succeed(&[&["verify", text(&alone)], arguments].concat());
            for word in
                ["pass", "NOT checked, since not here: 2 of 3 files", "pt-00003-of-00003.gguf", "in 1 file"]
            {
                assert!(said.contains(word), "\"{word}\" is not in: {said}");
            }
        }
        let json = answer(&alone, &against);
        assert_eq!((&json["pass"], &json["hashes"]), (&json!(true), &json!("partly")));
        assert_eq!(json["files_absent"].as_array().map(Vec::len), Some(2));
        assert!(json["compared"].as_array().is_some_and(|tensors| !tensors.is_empty()), "{json}");
        // What is wrong with it is found all the same, by its manifest and by its source.
        let mut bytes = fs::read(&alone).expect("read");
        let end = bytes.len() - 100;
        bytes[end] ^= 1;
        fs::write(&alone, bytes).expect("written");
        assert!(fail(&["verify", text(&alone)], 3).contains("the manifest has"));
        fs::remove_dir_all(other).expect("removed");
    }
    // The second file does not say how it was made.
    quantize_fixture(folder.path(), "pt.gguf", &[&made_with[..], &["--part", "2/3"]].concat());
    fs::remove_file(beside(&part(2), ".json")).expect("a manifest");
    let stderr = fail(&["verify", text(&part(2)), "--against", text(&checkpoint)], 2);
    assert!(stderr.contains("--against needs the first file of the split or a manifest"), "{stderr}");
    // evaluate needs the whole model.
    let words = fixture("tiny-r1/evaluation.txt");
    let stderr = fail(&["evaluate", text(&checkpoint), text(&part(2)), "--text", text(&words)], 3);
    assert!(stderr.contains("pt-00001-of-00003.gguf is not there"), "{stderr}");
}

#[test]
fn parts_that_were_not_made_alike_are_found() {
    let folder = TempDir::new().expect("a temporary folder");
    let [gguf, dat] = ["gguf", "dat"].map(|kind| fixture(&format!("tiny-r1/imatrix.{kind}")));
    let first = folder.path().join("m-00001-of-00002.gguf");
    let make = |part: &str, arguments: &[&str]| {
        let all = [&["--recipe", "ud-iq2_xxs", "--part", part], arguments].concat();
        quantize_fixture(folder.path(), "m.gguf", &all);
    };
    make("1/2", &["--imatrix", text(&gguf)]);
    make("2/2", &["--imatrix", text(&gguf)]);
    succeed(&["verify", text(&first)]);
    let again = |arguments: &[&str], words: &str| {
        for file in ["m-00002-of-00002.gguf", "m-00002-of-00002.gguf.json"] {
            fs::remove_file(folder.path().join(file)).expect("removed");
        }
        make("2/2", arguments);
        let stderr = fail(&["verify", text(&first)], 3);
        let words = format!("m-00002-of-00002.gguf: was made with another {words} than");
        assert!(stderr.contains(&words), "\"{words}\" is not in: {stderr}");
    };
    again(&["--imatrix", text(&dat)], "importance matrix");
    again(&[], "importance matrix");
    again(&["--imatrix", text(&gguf), "--override", "output=q8_0"], "recipe");

    let other = Copy::new();
    other.edit_shard(EXPERT, |shard| shard.tensor(EXPERT).reverse());
    for file in ["m-00002-of-00002.gguf", "m-00002-of-00002.gguf.json"] {
        fs::remove_file(folder.path().join(file)).expect("removed");
    }
    let output = folder.path().join("m.gguf");
    let part = ["--part", "2/2", "--recipe", "ud-iq2_xxs", "--imatrix", text(&gguf), "--quiet"];
    succeed(&[&["quantize", text(other.path()), "-o", text(&output)], &part[..]].concat());
    assert!(fail(&["verify", text(&first)], 3).contains("made with another checkpoint than"));
}

#[test]
fn zeros_where_weights_should_be_are_told() {
    let made = Made::new(&["--recipe", "ud-iq2_xxs"]);
    let clear = |range: Range<usize>| {
        let mut bytes = made.bytes();
        bytes[range].fill(0);
        fs::write(&made.path, bytes).expect("written");
    };
    let sound = made.bytes();
    succeed(&["verify", text(&made.path), "--strict"]);
    let embedding = made.slice("token_embd.weight", 0);
    let rows = |share: usize| embedding.start..embedding.start + embedding.len() / share;
    // Bytes of zeros are blocks of zeros in nearly every type.
    for (range, words) in [
        (made.slice(EXPERTS, 5), "slice 5 of 16 is zeros only"),
        (
            made.slice(EXPERTS, 0).start..made.slice(EXPERTS, 2).end,
            "slice 0 of 16 is zeros only, and 2 more slices",
        ),
        (made.slice("blk.1.attn_k_b.weight", 1), "blk.1.attn_k_b.weight\": slice 1 of"),
        (made.slice("output.weight", 0), "output.weight\": is zeros only"),
        (rows(4), "token_embd.weight\": has a run of 256 rows of zeros, of 1024"),
    ] {
        clear(range);
        let said = succeed(&["verify", text(&made.path)]);
        assert!(said.contains("warning") && said.contains(words), "\"{words}\" is not in: {said}");
        let json = answer(&made.path, &[]);
        assert_eq!(json["warnings"].as_array().map(Vec::len), Some(1), "{json}");
        let stderr = fail(&["verify", text(&made.path), "--strict"], 3);
        assert!(stderr.contains(words) && stderr.contains("--strict"), "{stderr}");
        fs::write(&made.path, &sound).expect("written");
    }
    // Padding tokens of real models, and a norm.
    clear(rows(16));
    succeed(&["verify", text(&made.path), "--strict"]);
    fs::write(&made.path, &sound).expect("written");
    clear(made.slice("output_norm.weight", 0));
    succeed(&["verify", text(&made.path), "--strict"]);
}

#[cfg(unix)]
#[test]
fn names_need_not_be_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let made = Made::new(&["--recipe", "q8_0"]);
    let checkpoint = fixture("tiny-r1");
    let odd = |name: &[u8]| made.folder.path().join(std::ffi::OsStr::from_bytes(name));
    let verify = |path: &Path, arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantpress"));
        let output = command.arg("verify").arg(path).args(arguments).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let path = odd(b"b\xff.gguf");
    fs::rename(&made.path, &path).expect("renamed");
    let manifest = json!({"sha256": hex(&fs::read(&path).expect("read")), "tensors": []});
    for arguments in [&["--against", text(&checkpoint)][..], &["--json"]] {
        verify(&path, arguments);
    }
    fs::write(odd(b"b\xff.gguf.json"), manifest.to_string()).expect("written");
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_quantpress")).arg("verify").arg(&path).output();
    let stderr = output.expect("the program starts").stderr;
    assert!(String::from_utf8_lossy(&stderr).contains("is not in the manifest"), "its manifest is found");
    fs::rename(&path, &made.path).expect("renamed");
    let parts = split(&made, made.folder.path(), &[0, 20], |_, _| {});
    let odd = [odd(b"b\xff-00001-of-00002.gguf"), odd(b"b\xff-00002-of-00002.gguf")];
    for (part, odd) in parts.iter().zip(&odd) {
        fs::rename(part, odd).expect("renamed");
    }
    assert!(verify(&odd[1], &[]).contains("in 2 files"));
}

#[cfg(unix)]
#[test]
fn a_manifest_that_is_no_file_is_refused() {
    let made = Made::new(&["--recipe", "q8_0"]);
    let manifest = beside(&made.path, ".json");
    let pipe = std::process::Command::new("mkfifo").arg(&manifest).status().expect("mkfifo starts");
    assert!(pipe.success());
    assert!(fail(&["verify", text(&made.path)], 3).contains("is no regular file"));
    fs::remove_file(&manifest).expect("removed");
    std::os::unix::fs::symlink("/dev/zero", &manifest).expect("a link");
    assert!(fail(&["verify", text(&made.path)], 3).contains("is no regular file"));
}

#[test]
fn names_cannot_fake_a_line() {
    let made = Made::new(&["--recipe", "q8_0"]);
    let name = EXPERTS.as_bytes();
    let mut bytes = made.bytes();
    let at = bytes.windows(name.len()).position(|bytes| bytes == name).expect("in the header");
    bytes[at..at + name.len()].copy_from_slice(b"x\x1b[31m\r\npass: 88 tensors");
    // And a problem of that tensor: its first scale is no number.
    let scale = made.slice(EXPERTS, 0).start;
    bytes[scale..scale + 2].copy_from_slice(&[0, 0x7c]);
    let checkpoint = fixture("tiny-r1");
    fs::write(&made.path, &bytes).expect("written");
    for arguments in [&[][..], &["--against", text(&checkpoint)]] {
        let output = quantpress(&[&["verify", text(&made.path)], arguments].concat());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).expect("UTF-8");
        assert!(!said.contains(['\x1b', '\x07', '\r']), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("pass")), "{said}");
    }
}

#[test]
fn a_run_that_is_to_stop_stops() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = quantize_fixture(folder.path(), "out.gguf", &[]);
    let (now, never) = (AtomicBool::new(true), AtomicBool::new(false));
    assert!(matches!(check(&path, 2, &now, UNTOLD), Err(Error::Interrupted)));
    let checked = check(&path, 2, &never, UNTOLD).expect("sound");
    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("sound");
    let compare = Compare { checkpoint: &checkpoint, imatrix: None, threads: 2, stop: &now };
    assert!(matches!(against(&checked, compare, UNTOLD), Err(Error::Interrupted)));
    assert_eq!(Error::Interrupted.exit_code(), 130);
}

#[test]
fn all_bytes_are_told_of_once() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = quantize_fixture(folder.path(), "out.gguf", &[]);
    let (never, bytes) = (AtomicBool::new(false), path.metadata().expect("it is there").len());
    let told = Mutex::new(Vec::new());
    let tell = |more: More<'_>| {
        assert_eq!(more.bytes, more.done);
        told.lock().expect("sound").push((more.done, more.all));
    };
    let sum = || {
        let told = std::mem::take(&mut *told.lock().expect("sound"));
        let all = told[0].1;
        assert!(told.iter().all(|&(bytes, of)| bytes > 0 && of == all));
        assert_eq!(told.iter().map(|&(bytes, _)| bytes).sum::<u64>(), all);
        all
    };
    let checked = check(&path, 2, &never, &tell).expect("sound");
    // Every tensor, and the whole file for its digest.
    let data: u64 = checked.parts.tensors().map(|(_, entry)| entry.bytes).sum();
    assert_eq!(sum(), data + bytes);
    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("sound");
    let compare = Compare { checkpoint: &checkpoint, imatrix: None, threads: 2, stop: &never };
    against(&checked, compare, &tell).expect("sound");
    assert_eq!(sum(), data);
}

/// Experts that are hard to encode, in every matrix of experts: sparse, with one giant, and too faint for a scale in
/// half precision.
fn extreme() -> Copy {
    let copy = Copy::new();
    for (layer, matrix) in (1..5).flat_map(|layer| ["gate", "up", "down"].map(|matrix| (layer, matrix))) {
        let name = |expert: u32| format!("model.layers.{layer}.mlp.experts.{expert}.{matrix}_proj.weight");
        copy.edit_shard(&name(3), |shard| {
            let sparse = shard.tensor(&name(3));
            sparse
                .iter_mut()
                .enumerate()
                .filter(|(i, _)| (i * 37) % 64 != 0)
                .for_each(|(_, weight)| *weight = 0);
        });
        copy.edit_shard(&name(5), |shard| {
            let giant = shard.tensor(&name(5));
            giant.iter_mut().for_each(|weight| *weight = *weight & 0x80 | 0x08);
            giant[1000] = 0x7e;
        });
        for (expert, scale) in [(8, 1e-7f32), (9, 1e-9)] {
            let scales = format!("{}_scale_inv", name(expert));
            copy.edit_shard(&scales, |shard| {
                for bytes in shard.tensor(&scales).as_chunks_mut::<4>().0 {
                    *bytes = scale.to_le_bytes();
                }
            });
        }
    }
    copy
}

/// Makes files of the checkpoint that have experts in every type between them, and verifies them.
fn passes_in_every_type(checkpoint: &Path, with: &[&str]) {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("out.gguf");
    let names: Vec<&str> = quant_kernels::Format::all().map(|format| format.name()).collect();
    let classes: Vec<String> = (1..5)
        .flat_map(|layer| ["gate", "up", "down"].map(|matrix| format!("blk.{layer}.ffn_{matrix}_exps")))
        .collect();
    for types in names.chunks(classes.len()) {
        let overrides = classes.iter().zip(types).map(|(class, name)| format!("{class}={name}"));
        let overrides: Vec<String> = overrides.flat_map(|one| ["--override".to_owned(), one]).collect();
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        let quantize = ["quantize", text(checkpoint), "-o", text(&path), "--quiet", "--recipe", "bf16"];
        succeed(&[&quantize[..], &overrides, with].concat());
        succeed(&[&["verify", text(&path), "--against", text(checkpoint)], with].concat());
        fs::remove_file(&path).expect("removed");
        fs::remove_file(beside(&path, ".json")).expect("removed");
    }
}

/// The fixture's importance matrix with other values: `value` of the number of each.
fn imatrix_of(value: impl Fn(usize) -> f32) -> Vec<u8> {
    let mut file = fs::read(fixture("tiny-r1/imatrix.dat")).expect("read");
    let number =
        |file: &[u8], at: usize| i32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    let (entries, mut at) = (number(&file, 0), 4);
    for _ in 0..entries {
        at += 4 + number(&file, at) as usize + 8;
        let count = number(&file, at - 4) as usize;
        let values = file[at..at + 4 * count].as_chunks_mut::<4>().0;
        values.iter_mut().enumerate().for_each(|(i, bytes)| *bytes = value(i).to_le_bytes());
        at += 4 * count;
    }
    file
}

#[test]
fn importances_of_any_kind_pass() {
    let folder = TempDir::new().expect("a temporary folder");
    let (matrix, checkpoint) = (folder.path().join("odd.dat"), fixture("tiny-r1"));
    let scattered = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 1009.0;
    let one_column = |i: usize| if i % 64 == 3 { 1.0f32 } else { 0.0 };
    // Over twenty powers of ten, and beyond what squares can hold.
    let wide = |i: usize| 10f32.powf(20.0 * scattered(i) - 10.0);
    let huge = |i: usize| 1e36 * scattered(i);
    for value in [&one_column as &dyn Fn(usize) -> f32, &wide, &huge, &|_| 0.0] {
        fs::write(&matrix, imatrix_of(value)).expect("written");
        passes_in_every_type(&checkpoint, &["--imatrix", text(&matrix)]);
    }
    // Where the matrix is not given, the message of a problem says that it would tell more.
    let made = Made::new(&["--recipe", "q4_k_m", "--imatrix", text(&matrix)]);
    let clear = |file: &mut Vec<u8>| file[made.slice(EXPERTS, 5)].fill(0);
    made.found(clear, &["--against", text(&checkpoint)], &[EXPERTS, "--imatrix with it tells more"]);
}

#[test]
fn weights_that_a_type_can_hardly_hold_pass_and_others_in_their_place_do_not() {
    let (copy, folder) = (extreme(), TempDir::new().expect("a temporary folder"));
    let (path, imatrix) = (folder.path().join("out.gguf"), fixture("tiny-r1/imatrix.gguf"));
    passes_in_every_type(copy.path(), &[]);
    passes_in_every_type(copy.path(), &["--imatrix", text(&imatrix)]);
    // Slices of such weights exchanged, cleared or halved are found as ever.
    let arguments = ["--recipe", "bf16", "--override", "ffn_up_exps=iq2_xxs", "--quiet"];
    succeed(&[&["quantize", text(copy.path()), "-o", text(&path)], &arguments[..]].concat());
    fs::remove_file(beside(&path, ".json")).expect("a manifest");
    let made = Made { folder, contents: Contents::read(&path).expect("sound"), path };
    let against = ["--against", text(copy.path())];
    let slab = |expert| made.slice(EXPERTS, expert);
    for pair in [[3, 5], [3, 4], [5, 6]] {
        let swap = |file: &mut Vec<u8>| {
            let [first, second] = pair.map(|expert| file[slab(expert)].to_vec());
            file[slab(pair[0])].copy_from_slice(&second);
            file[slab(pair[1])].copy_from_slice(&first);
        };
        made.found(swap, &against, &[EXPERTS, "2 of 16 slices"]);
    }
    made.found(|file| file[slab(3)].fill(0), &against, &[EXPERTS, "1 of 16 slices", "slice 3"]);
    // What would be nothing is anything.
    made.found(|file| file.copy_within(slab(4), slab(9).start), &against, &[EXPERTS, "slice 9"]);
}
