//! `verify`: files as they were made pass, and damage of every sort is found, at its place.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use quantpress::gguf::{Contents, Layout, Metadata, TensorInfo, Value, beside};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::{fail, fixture, quantize_fixture, succeed, text};

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
    for recipe in quantpress::recipe::preset_names().filter(|name| *name != "auto") {
        let arguments = ["--recipe", recipe, "--imatrix", text(&imatrix)];
        let made = quantize_fixture(folder.path(), "with.gguf", &arguments);
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
    made.found(halve, &against, &[EXPERTS, "slice", "gain 0.5"]);
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
        assert!(said.contains("pass: 88 tensors") && said.contains("in 3 files"), "{said}");
    }
    let refused = |code, words: &[&str]| {
        let stderr = fail(&["verify", text(&parts[0])], code);
        for word in words {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
    };
    fs::rename(&parts[1], folder.join("away")).expect("renamed");
    refused(1, &["cannot read", "tiny-00002-of-00003.gguf"]);
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
