//! Importance matrices: both layouts alike, experts without data, and files that do not belong to the model.

use std::fs;
use std::path::Path;

use quantpress::checkpoint::Checkpoint;
use quantpress::model::{Model, Options};
use quantpress::recipe::{Imatrix, Importances, Origin, Presence, Recipe, choose};
use tempfile::TempDir;

use crate::support::{fail, fixture, quantize_fixture, quantpress, text};

fn digest(folder: &Path, imatrix: &Path) -> Vec<u8> {
    // The metadata names the matrix's fingerprint and so differs; the tensors' data must not.
    let file = fs::read(quantize_fixture(folder, "out.gguf", &["--imatrix", text(imatrix)])).expect("read");
    file[file.len() - 6_000_000..].to_vec()
}

#[test]
fn both_layouts_give_the_same_tensors() {
    let folder = TempDir::new().expect("a temporary folder");
    let gguf = digest(folder.path(), &fixture("tiny-r1/imatrix.gguf"));
    let legacy = digest(folder.path(), &fixture("tiny-r1/imatrix.dat"));
    let differing = gguf.iter().zip(&legacy).filter(|(a, b)| a != b).count();
    // The layouts store the same means with different rounding, which moves a code here and there.
    assert!(differing * 1000 < gguf.len(), "{differing} of {} bytes differ", gguf.len());
    let without = fs::read(quantize_fixture(folder.path(), "none.gguf", &[])).expect("read");
    let without = &without[without.len() - 6_000_000..];
    let differing = gguf.iter().zip(without).filter(|(a, b)| a != b).count();
    assert!(differing * 10 > gguf.len(), "importances must matter: only {differing} bytes differ");
}

/// A copy of the legacy matrix with one entry changed: a slice's values set.
fn legacy_with(tensor: &str, change: impl FnOnce(&mut [f32], f32)) -> Vec<u8> {
    let mut file = fs::read(fixture("tiny-r1/imatrix.dat")).expect("read");
    let at =
        file.windows(tensor.len()).position(|w| w == tensor.as_bytes()).expect("it is there") + tensor.len();
    let number =
        |file: &[u8], at: usize| i32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    let (calls, count) = (number(&file, at) as f32, number(&file, at + 4) as usize);
    let range = at + 8..at + 8 + 4 * count;
    let mut values: Vec<f32> =
        file[range.clone()].as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    change(&mut values, calls);
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    file[range].copy_from_slice(&bytes);
    file
}

#[test]
fn experts_without_data_are_counted_and_get_their_layers_mean() {
    let folder = TempDir::new().expect("a temporary folder");
    let unseen = folder.path().join("unseen.dat");
    // As llama-imatrix stores an expert that no token reached: 1 for each call.
    let file = legacy_with("blk.2.ffn_up_exps.weight", |values, calls| values[3 * 256..5 * 256].fill(calls));
    fs::write(&unseen, file).expect("written");
    let output = folder.path().join("out.gguf");
    let checkpoint = fixture("tiny-r1");
    let run = quantpress(&["quantize", text(&checkpoint), "-o", text(&output), "--imatrix", text(&unseen)]);
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{stderr}");
    assert!(stderr.contains("2 experts in 1 tensors have no data"), "{stderr}");

    let checkpoint = Checkpoint::open_folder(&checkpoint).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let tensor = model.tensors.iter().position(|t| t.name == "blk.2.ffn_up_exps.weight").expect("experts");
    let recipe = Recipe::load("ud-iq1_s").expect("a preset");
    let choices = choose(&model, &recipe, &[], Presence::Present).expect("chosen");
    let imatrix = Imatrix::open(&unseen).expect("sound");
    let importances = Importances::prepare(&checkpoint, &model, &choices, Some(&imatrix)).expect("prepared");
    assert_eq!(importances.origin(tensor), Origin::Imatrix { unseen: 2 });
    let of = |expert: usize| importances.slice(&model, tensor, expert).expect("read").expect("importances");
    let seen: Vec<_> = (0..16).filter(|expert| ![3, 4].contains(expert)).map(of).collect();
    for column in 0..256 {
        let mean = seen.iter().map(|values| f64::from(values[column])).sum::<f64>() / seen.len() as f64;
        for unseen in [of(3), of(4)] {
            assert!((f64::from(unseen[column]) / mean - 1.0).abs() < 1e-6, "column {column}");
        }
    }

    // What feedback takes beside its own text: what was measured, and no mean of others. This layout has no tokens, GGUF has.
    let measured = |expert: usize| importances.measured(&model, tensor, expert).expect("read");
    assert!(measured(3).is_none());
    let found = measured(5).expect("measured");
    assert_eq!((&found.values, found.tokens), (&of(5), None));
    let imatrix = Imatrix::open(&fixture("tiny-r1/imatrix.gguf")).expect("sound");
    let importances = Importances::prepare(&checkpoint, &model, &choices, Some(&imatrix)).expect("prepared");
    let counts = imatrix.tokens("blk.2.ffn_up_exps.weight", 16).expect("counted");
    let found = importances.measured(&model, tensor, 5).expect("read").expect("measured");
    assert_eq!((found.tokens, counts[5] > 0.0), (Some(counts[5]), true));
}

#[test]
fn without_a_matrix_a_warning_says_so() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    let checkpoint = fixture("tiny-r1");
    let run = quantpress(&["quantize", text(&checkpoint), "-o", text(&output)]);
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && stderr.contains("no measured importances"), "{stderr}");
    let run = quantpress(&["plan", text(&checkpoint), "--recipe", "q8_0"]);
    let stdout = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && !stdout.contains("warning"), "{stdout}");
}

#[test]
fn a_matrix_of_another_model_or_a_damaged_one_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    let checkpoint = fixture("tiny-r1");
    let refused = |file: &[u8], words: &[&str]| {
        let matrix = folder.path().join("bad.imatrix");
        fs::write(&matrix, file).expect("written");
        let stderr =
            fail(&["quantize", text(&checkpoint), "-o", text(&output), "--imatrix", text(&matrix)], 3);
        for word in words {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
        assert!(!output.exists());
    };
    let nan = legacy_with("blk.2.ffn_up_exps.weight", |values, _| values[1000] = f32::NAN);
    refused(&nan, &["bad.imatrix", "blk.2.ffn_up_exps.weight", "slice 3, column 232 is NaN"]);
    let negative = legacy_with("blk.2.ffn_up_exps.weight", |values, _| values[1000] = -1.0);
    refused(&negative, &["blk.2.ffn_up_exps.weight", "slice 3, column 232"]);
    refused(b"", &["bad.imatrix", "byte 0"]);
    refused(b"\xff\xff\xff\xff", &["bad.imatrix", "byte 0"]);
    refused(b"\x01\x00\x00\x00\xff\xff\xff\x7f", &["bad.imatrix", "ends inside of an entry"]);
    let legacy = fs::read(fixture("tiny-r1/imatrix.dat")).expect("read");
    refused(&legacy[..legacy.len() / 2], &["bad.imatrix", "ends inside of an entry"]);
    let gguf = fs::read(fixture("tiny-r1/imatrix.gguf")).expect("read");
    refused(&gguf[..gguf.len() / 2], &["bad.imatrix", "cut short"]);
    refused(&gguf[..100], &["bad.imatrix", "cannot be read"]);

    let mut foreign = vec![1, 0, 0, 0];
    foreign.extend(5i32.to_le_bytes());
    foreign.extend(b"other");
    foreign.extend(1i32.to_le_bytes());
    foreign.extend(1i32.to_le_bytes());
    foreign.extend([0; 4]);
    refused(&foreign, &["bad.imatrix", "none of its 1 tensors is in this model"]);

    // One call, 255 values where the tensor has 256 columns.
    let mut short = vec![1, 0, 0, 0];
    let name = b"blk.0.attn_output.weight";
    short.extend((name.len() as i32).to_le_bytes());
    short.extend(name);
    short.extend(1i32.to_le_bytes());
    short.extend(255i32.to_le_bytes());
    short.extend([0; 4 * 255]);
    refused(&short, &["blk.0.attn_output.weight", "has 255 values; expected 512 columns x 1 slices"]);
}
