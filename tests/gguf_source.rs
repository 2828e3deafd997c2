//! GGUF files as input: every tensor, key and file type, whatever the architecture.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quant_kernels::Format;
use quantpress::gguf::{self, Contents, Layout, Metadata, TensorInfo};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::llama::bf16;
use crate::support::python::{llama, script};
use crate::support::{excerpt, fail, fixture, quantize_fixture, succeed, tensor_hashes, text};

/// A file of an architecture that nobody knows, with tensors of many kinds, and its path.
fn unknown(folder: &Path) -> PathBuf {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "newest".into());
    metadata.set("general.alignment", gguf::Value::U32(128));
    metadata.set("general.file_type", gguf::Value::U32(32));
    metadata.set("newest.block_count", gguf::Value::U32(2));
    metadata.set("newest.attention.head_count", gguf::Value::U32s(vec![8, 8]));
    metadata.set("newest.attention.head_count_kv", gguf::Value::U32s(vec![2, 2]));
    metadata.set("newest.expert_count", gguf::Value::U32(4));
    metadata.set("newest.z_is_kept", gguf::Value::F64(0.5));
    metadata.set("quantize.imatrix.file", "stale".into());
    metadata.set("quantpress.recipe", "stale".into());
    let tensors: Vec<TensorInfo> = [
        ("output.weight", &[256u64, 40][..], Format::BF16),
        ("token_embd.weight", &[256, 40], Format::BF16),
        ("blk.0.attn_v.weight", &[256, 64], Format::BF16),
        ("blk.0.attn_q.weight", &[256, 256], Format::F16),
        ("blk.0.attn_norm.weight", &[256], Format::F32),
        ("blk.0.ffn_gate_tid2eid.weight", &[4, 40], Format::I32),
        ("blk.0.something.scale", &[1], Format::F32),
        ("blk.1.ffn_down_exps.weight", &[256, 8, 4], Format::Q8_0),
        ("blk.1.ffn_up_exps.weight", &[96, 8, 4], Format::BF16),
        ("blk.1.ffn_up_exps.bias", &[8, 4], Format::F32),
        ("blk.1.odd_one.weight", &[33, 5], Format::F32),
        ("blk.1.fours.weight", &[128, 6], Format::Q1_0),
    ]
    .map(|(name, shape, format)| TensorInfo { name: name.into(), shape: shape.to_vec(), format })
    .into();
    let layout = Layout::new(&metadata, &tensors);
    let mut bytes = layout.header.clone();
    bytes.resize(layout.file_size as usize, 0);
    for (tensor, offset) in tensors.iter().zip(&layout.offsets) {
        let data = &mut bytes[*offset as usize..][..tensor.bytes() as usize];
        let count = tensor.shape.iter().product::<u64>() as usize;
        let weights: Vec<f32> = (0..count).map(|n| (n as f32 * 0.7).sin() * (1.0 + n as f32 % 5.0)).collect();
        match tensor.format.is_known() {
            true => quant_kernels::quantize(tensor.format, &weights, tensor.shape[0] as usize, None, data),
            false => data.iter_mut().enumerate().for_each(|(n, byte)| *byte = (n * 7 % 251) as u8),
        }
    }
    let path = folder.join("newest.gguf");
    fs::write(&path, bytes).expect("written");
    path
}

/// The digest of each tensor of a file.
fn hashes(file: &Path) -> BTreeMap<String, String> {
    tensor_hashes(&[file.to_owned()])
}

#[test]
fn an_unknown_architecture_is_quantized_by_names_and_shapes() {
    let folder = TempDir::new().expect("a temporary folder");
    let source = unknown(folder.path());
    let made = folder.path().join("made.gguf");
    succeed(&["quantize", text(&source), "-o", text(&made), "-r", "q4_k_m", "--quiet"]);
    succeed(&["verify", text(&made), "--against", text(&source)]);

    let contents = Contents::read(&made).expect("sound");
    let types: Vec<(&str, &str)> =
        contents.tensors.iter().map(|tensor| (&*tensor.name, tensor.format.name())).collect();
    let expected = [
        ("output.weight", "Q6_K"),
        ("token_embd.weight", "Q4_K"),
        ("blk.0.attn_norm.weight", "F32"),
        ("blk.0.attn_q.weight", "Q4_K"),
        // The only value: among the last eighth.
        ("blk.0.attn_v.weight", "Q6_K"),
        ("blk.0.ffn_gate_tid2eid.weight", "I32"),
        ("blk.0.something.scale", "F32"),
        ("blk.1.ffn_down_exps.weight", "Q6_K"),
        ("blk.1.ffn_up_exps.bias", "F32"),
        ("blk.1.ffn_up_exps.weight", "Q5_0"),
        ("blk.1.fours.weight", "Q1_0"),
        ("blk.1.odd_one.weight", "F16"),
    ];
    assert_eq!(types, expected);
    assert!(contents.tensors.iter().all(|tensor| tensor.offset.is_multiple_of(128)));
    assert_eq!(contents.metadata["newest.z_is_kept"], gguf::Value::F64(0.5));
    assert_eq!(contents.metadata["general.file_type"], gguf::Value::U32(15));
    assert_eq!(contents.metadata["quantpress.recipe"], gguf::Value::String("q4_k_m".into()));
    assert!(contents.metadata.get("quantize.imatrix.file").is_none());

    let (before, after) = (hashes(&source), hashes(&made));
    for kept in ["blk.0.ffn_gate_tid2eid.weight", "blk.1.fours.weight", "blk.1.ffn_up_exps.bias"] {
        assert_eq!(before[kept], after[kept], "{kept}");
    }
    succeed(&[
        "report",
        text(&folder.path().join("made.gguf.json")),
        "-o",
        text(&folder.path().join("made.html")),
    ]);
    // What cannot be decoded is compared byte by byte.
    let mut bytes = fs::read(&made).expect("read");
    let fours = contents.tensor("blk.1.fours.weight").expect("there");
    bytes[fours.offset as usize + 5] ^= 1;
    fs::write(&made, bytes).expect("written");
    fs::remove_file(folder.path().join("made.gguf.json")).expect("removed");
    let output = crate::support::quantpress(&["verify", text(&made), "--against", text(&source)]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("blk.1.fours.weight"));
}

#[test]
fn feedback_on_an_unknown_architecture_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let (source, output) = (unknown(folder.path()), folder.path().join("out.gguf"));
    let stderr = fail(&["quantize", text(&source), "-o", text(&output), "-r", "q4_k_m", "--feedback"], 4);
    assert!(stderr.contains("no forward pass for the architecture \"newest\""), "{stderr}");
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1, "nothing is left");
}

#[test]
fn tensors_are_kept_and_copied_bit_for_bit() {
    let folder = TempDir::new().expect("a temporary folder");
    let source = unknown(folder.path());
    let before = hashes(&source);
    let copy = folder.path().join("copy.gguf");
    succeed(&["quantize", text(&source), "-o", text(&copy), "-r", "copy", "--quiet"]);
    assert_eq!(hashes(&copy), before);
    assert_eq!(Contents::read(&copy).expect("sound").metadata["general.file_type"], gguf::Value::U32(32));

    let kept = folder.path().join("kept.gguf");
    let keep = ["--keep", "attn_", "--override", "ffn_down=q2_k"];
    succeed(&[&["quantize", text(&source), "-o", text(&kept), "-r", "q4_0", "--quiet"][..], &keep].concat());
    let after = hashes(&kept);
    assert_eq!(after["blk.0.attn_q.weight"], before["blk.0.attn_q.weight"]);
    assert_eq!(
        Contents::read(&kept).expect("sound").tensor("blk.1.ffn_down_exps.weight").map(|t| t.format),
        Some(Format::Q2_K)
    );
}

#[test]
fn what_is_quantized_already_is_not_quantized_again_unasked() {
    let folder = TempDir::new().expect("a temporary folder");
    let small = quantize_fixture(folder.path(), "small.gguf", &["-r", "q4_0"]);
    let again = folder.path().join("again.gguf");
    let arguments = ["quantize", text(&small), "-o", text(&again), "-r", "q8_0", "--quiet"];
    let said = fail(&arguments, 2);
    assert!(said.contains("is in Q6_K already") && said.contains("--allow-requantize"), "{said}");
    assert!(!again.exists());
    succeed(&[&arguments[..], &["--allow-requantize"]].concat());
    // Q8_0 is near enough to the original, and the same type is a copy.
    let eights = quantize_fixture(folder.path(), "eights.gguf", &["-r", "q8_0"]);
    let same = folder.path().join("same.gguf");
    succeed(&["quantize", text(&eights), "-o", text(&same), "-r", "q8_0", "--quiet"]);
    assert_eq!(hashes(&eights), hashes(&same));
    succeed(&["quantize", text(&eights), "-o", text(&again), "-r", "q4_k_m", "--quiet", "--force"]);
}

#[test]
fn some_tensors_of_a_file_are_made_anew_and_the_others_stay() {
    let folder = TempDir::new().expect("a temporary folder");
    let small = quantize_fixture(folder.path(), "small.gguf", &["-r", "q4_0"]);
    let eights = quantize_fixture(folder.path(), "eights.gguf", &["-r", "q8_0"]);
    let mended = folder.path().join("mended.gguf");
    let only = ["--base", text(&small), "--only", "attn_output", "-r", "q8_0", "--quiet"];
    // From the checkpoint, and from a file of it.
    for source in [&fixture("tiny-r1"), &eights] {
        succeed(&[&["quantize", text(source), "-o", text(&mended), "--force"][..], &only].concat());
        let [small, eights, mended] = [&small, &eights, &mended].map(|file| hashes(file));
        for (name, hash) in &mended {
            let of = if name.contains("attn_output") { &eights } else { &small };
            assert_eq!(*hash, of[name], "{name}");
        }
    }
    let contents = Contents::read(&mended).expect("sound");
    assert_eq!(contents.metadata["general.file_type"], gguf::Value::U32(2));
    // What was made with importances is still said to be, and passes as it did.
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let low = quantize_fixture(folder.path(), "low.gguf", &["-r", "iq2_xxs", "--imatrix", text(&imatrix)]);
    let again = folder.path().join("again.gguf");
    let over = ["--base", text(&low), "--only", "attn_output", "-r", "q8_0", "--quiet"];
    succeed(&[&["quantize", text(&eights), "-o", text(&again)][..], &over].concat());
    let key = "quantpress.imatrix.sha256";
    let [of_low, of_again] =
        [&low, &again].map(|file| Contents::read(file).expect("sound").metadata[key].clone());
    assert_eq!(of_low, of_again);
    succeed(&["verify", text(&again), "--against", text(&eights), "--imatrix", text(&imatrix)]);
    let none = ["--base", text(&small), "--only", "no_such", "-r", "q8_0", "--force", "--quiet"];
    let said = fail(&[&["quantize", text(&eights), "-o", text(&mended)][..], &none].concat(), 2);
    assert!(said.contains("--only: matches no tensor"), "{said}");
    let said = fail(&[&["quantize", text(&eights), "-o", text(&small), "--force"][..], &only].concat(), 2);
    assert!(said.contains("is the file that --base reads"), "{said}");
}

#[test]
fn a_split_source_threads_and_kills_do_not_change_a_byte() {
    let folder = TempDir::new().expect("a temporary folder");
    let whole = quantize_fixture(folder.path(), "whole.gguf", &["-r", "bf16"]);
    quantize_fixture(folder.path(), "split.gguf", &["-r", "bf16", "--split", "3"]);
    let split = folder.path().join("split-00002-of-00003.gguf");
    let make = |source: &Path, name: &str, more: &[&str]| {
        let made = folder.path().join(name);
        let arguments = ["quantize", text(source), "-o", text(&made), "-r", "iq4_xs", "--quiet"];
        succeed(&[&arguments[..], more].concat());
        fs::read(made).expect("read")
    };
    let expected = make(&whole, "a.gguf", &["--threads", "1"]);
    assert!(make(&whole, "b.gguf", &["--threads", "3"]) == expected);
    assert!(make(&split, "c.gguf", &[]) == expected);
    let d = folder.path().join("d.gguf");
    succeed(&["quantize", text(&split), "-o", text(&d), "-r", "iq4_xs", "--split", "2", "--quiet"]);
    let parts = [1, 2].map(|number| folder.path().join(format!("d-0000{number}-of-00002.gguf")));
    assert_eq!(tensor_hashes(&parts), hashes(&folder.path().join("a.gguf")));
    // The files that are read are not written.
    for target in [&whole, &folder.path().join("split-00003-of-00003.gguf")] {
        let source = if target == &whole { &whole } else { &split };
        let said =
            fail(&["quantize", text(source), "-o", text(target), "-r", "q8_0", "--force", "--quiet"], 2);
        assert!(said.contains("is the file that"), "{said}");
    }
}

#[test]
fn importances_and_sizes_are_for_gguf_files_too() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let [plain, made] = ["plain.gguf", "made.gguf"].map(|name| folder.path().join(name));
    let arguments = ["quantize", text(bf16()), "-r", "q2_k", "--quiet", "-o"];
    succeed(&[&arguments[..], &[text(&plain)]].concat());
    succeed(&[&arguments[..], &[text(&made), "--imatrix", text(&imatrix)]].concat());
    assert_ne!(hashes(&plain), hashes(&made));
    succeed(&["verify", text(&made), "--against", text(bf16()), "--imatrix", text(&imatrix)]);

    let source = unknown(folder.path());
    let sized = folder.path().join("sized.gguf");
    succeed(&["quantize", text(&source), "-o", text(&sized), "--size", "80kB", "--quiet"]);
    let bytes = sized.metadata().expect("made").len();
    assert!((70_000..=80_000).contains(&bytes), "{bytes}");
    succeed(&["verify", text(&sized), "--against", text(&source)]);
}

#[test]
fn a_known_model_is_calibrated_evaluated_and_fed_back() {
    let folder = TempDir::new().expect("a temporary folder");
    let words = fixture("tiny-r1/calibration.txt");
    let text_of = ["--text", text(&words), "--context", "64", "--chunks", "48", "--quiet"];
    let run = |command: &[&str]| succeed(&[command, &text_of].concat());
    // The fixture's folder holds FP8; of the same weights in BF16 the ids, and so the counts of experts, are the same.
    let matrix = folder.path().join("matrix.gguf");
    run(&["calibrate", text(bf16()), "-o", text(&matrix)]);
    let other = folder.path().join("other.gguf");
    run(&["calibrate", text(&fixture("tiny-r1")), "-o", text(&other)]);
    let counts = |matrix: &Path| Contents::read(matrix).expect("sound").tensors.len();
    assert_eq!(counts(&matrix), counts(&other));

    let fed = folder.path().join("fed.gguf");
    run(&[
        "quantize",
        text(bf16()),
        "-o",
        text(&fed),
        "-r",
        "iq2_xxs",
        "--feedback",
        "--imatrix",
        text(&matrix),
    ]);
    let plain = folder.path().join("plain.gguf");
    let recipe = ["-r", "iq2_xxs", "--imatrix", text(&matrix), "--quiet"];
    succeed(&[&["quantize", text(bf16()), "-o", text(&plain)][..], &recipe].concat());
    let divergence = |file: &Path| -> f64 {
        let said = run(&["evaluate", text(bf16()), text(file), "--json"]);
        let said: Value = serde_json::from_str(&said).expect("JSON");
        said["kl_mean"].as_f64().expect("a number")
    };
    let (with, without) = (divergence(&fed), divergence(&plain));
    assert!(with < without, "{with}, without feedback {without}");
}

#[test]
fn types_are_those_of_llama_quantize() {
    // All models and file types are docs/file-types.md's; here one of each kind.
    let models = "mixtral-8x7b,qwen3-0.6b,gpt-oss-20b,deepseek-r1";
    let file_types = "IQ2_M,IQ3_XXS,Q4_K_M,MXFP4_MOE";
    let program = env!("CARGO_BIN_EXE_quantpress");
    let Some(found) = script("file_types.py", &[program, models, file_types]) else { return };
    assert_eq!(found["differences"], 0, "{found}");
    assert_eq!(found["meant"], json!({"deepseek-r1 MXFP4_MOE": 122}));
    assert!(found["tensors"].as_u64() > Some(8_000), "{found}");
}

#[test]
fn files_are_no_worse_than_llama_quantizes() {
    let folder = TempDir::new().expect("a temporary folder");
    let (source, imatrix) = (bf16(), fixture("tiny-r1/imatrix.gguf"));
    let evaluation = excerpt(folder.path(), 240);
    let kl = |model: &Path| {
        let found = llama(&["measure", text(model), text(&evaluation), "--against", text(source)]);
        found.expect("it ran before")["kl_mean"].as_f64().expect("a number")
    };
    for (recipe, number) in [("q4_k_m", "15"), ("iq2_xxs", "19")] {
        let [ours, theirs] = ["ours", "theirs"].map(|who| folder.path().join(format!("{who}-{recipe}.gguf")));
        let arguments =
            ["quantize", text(source), "-o", text(&ours), "-r", recipe, "--imatrix", text(&imatrix)];
        succeed(&[&arguments[..], &["--quiet"]].concat());
        if llama(&["quantize", text(source), text(&imatrix), text(&theirs), number]).is_none() {
            return;
        }
        let (found, peer) = (kl(&ours), kl(&theirs));
        eprintln!("{recipe} from BF16 GGUF: KL divergence {found:.5}, llama-quantize's {peer:.5}");
        assert!(found <= 1.02 * peer, "{recipe}: {found}, llama-quantize's {peer}");
    }
}
