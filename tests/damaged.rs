//! Damage that is legal: matrices and importances of zeros only. It is a warning, and under --strict an error.

use std::fs;

use serde_json::Value;

use crate::support::checkpoint::Copy;
use crate::support::{FAST, fail, fixture, succeed, text};

#[test]
fn plan_tells_of_matrices_of_zeros_that_it_samples() {
    let copy = Copy::new();
    let expert = "model.layers.1.mlp.experts.3.up_proj.weight";
    copy.edit_shard(expert, |shard| shard.tensor(expert).fill(0));
    let plan = ["plan", text(copy.path()), "--size", "9MB", "--types", "q2_k,q4_k,q6_k"];
    let found = succeed(&plan);
    let warnings: Vec<&str> = found.lines().filter(|line| line.starts_with("warning")).collect();
    let told = |line: &&&str| {
        line.contains(expert) && line.contains("zeros only") && line.contains("1 of the 16 slices")
    };
    assert_eq!(warnings.iter().filter(told).count(), 1, "{found}");
    let stderr = fail(&[&plan[..], &["--strict"]].concat(), 3);
    assert!(stderr.contains(expert), "{stderr}");
    let sound = succeed(&["plan", text(&fixture("tiny-r1")), "--size", "9MB", "--types", "q2_k,q4_k,q6_k"]);
    assert!(!sound.contains("zeros only"), "{sound}");
}

/// A shard whose second half is zeros: a download that stopped in a preallocated file.
#[cfg(unix)]
#[test]
fn quantize_tells_of_matrices_of_zeros_however_often_it_was_interrupted() {
    use crate::support::interrupted::{SLOWLY, killed_at};
    let copy = Copy::new();
    let shard = "model-00002-of-000004.safetensors";
    let mut bytes = fs::read(copy.file(shard)).expect("read");
    let half = bytes.len() / 2;
    bytes[half..].fill(0);
    copy.write(shard, &bytes);
    let output = copy.file("out.gguf");
    let arguments = [&["quantize", text(copy.path()), "-r", FAST, "-o", text(&output)], &SLOWLY[..]].concat();
    let warnings = |stderr: &str| -> Vec<String> {
        let of_zeros = |line: &&str| line.starts_with("warning: ") && line.contains("unfinished download");
        stderr.lines().filter(of_zeros).map(str::to_owned).collect()
    };
    let run = |arguments: &[&str]| {
        let run = crate::support::quantpress(arguments);
        assert_eq!(run.status.code(), Some(0), "{run:?}");
        warnings(&String::from_utf8_lossy(&run.stderr))
    };
    let told = run(&arguments);
    assert!(told.iter().any(|line| line.contains(shard) && line.contains("zeros only")), "{told:?}");
    let manifest: Value =
        serde_json::from_slice(&fs::read(copy.file("out.gguf.json")).expect("read")).expect("JSON");
    assert_eq!(manifest["warnings"].as_array().expect("a list").len(), told.len());
    let said = succeed(&["verify", text(&output)]);
    assert!(said.contains("warning   ") && said.contains("zeros only"), "{said}");
    fail(&["verify", text(&output), "--strict"], 3);
    // What is known of pieces that an earlier run made is in the journal.
    let forced = [&arguments[..], &["--force"]].concat();
    assert!(killed_at(&forced, "recorded", 120));
    assert_eq!(run(&forced), told);
    // With --strict the error comes as soon as a matrix is complete, and the work is kept.
    let strict = [&forced[..], &["--strict"]].concat();
    let stderr = fail(&strict, 3);
    for words in ["zeros", shard, "(--strict)", "% of the work is done", "when that is mended"] {
        assert!(stderr.contains(words), "\"{words}\" is not in {stderr}");
    }
    assert!(!stderr.contains("100 % of the work"), "{stderr}");
    // Sound input is not suspicious.
    let sound = crate::support::quantize_fixture(copy.path(), "sound.gguf", &["-r", FAST, "--strict"]);
    succeed(&["verify", text(&sound), "--strict"]);
}

/// No sample of the checkpoint tells that these rows were mended: what looked damaged is read again.
#[test]
fn what_was_mended_is_read_again() {
    let copy = Copy::new();
    let expert = "model.layers.4.mlp.experts.9.up_proj.weight";
    let shard = copy.shard_of(expert);
    let sound = fs::read(copy.file(&shard)).expect("read");
    let output = copy.file("out.gguf");
    let arguments = ["quantize", text(copy.path()), "-r", FAST, "-o", text(&output), "--quiet"];
    let strict = [&arguments[..], &["--strict"]].concat();
    let expected = crate::support::quantize_fixture(copy.path(), "sound.gguf", &["-r", FAST]);
    let expected = fs::read(expected).expect("read");
    copy.edit_shard(expert, |shard| shard.tensor(expert)[..170 * 256].fill(0));
    let damaged = fs::read(copy.file(&shard)).expect("read");
    // Work that stopped at it.
    fail(&strict, 3);
    copy.write(&shard, &sound);
    succeed(&strict);
    assert!(fs::read(&output).expect("read") == expected);
    // Work that was finished with a warning.
    copy.write(&shard, &damaged);
    succeed(&[&arguments[..], &["--force"]].concat());
    assert!(fs::read(&output).expect("read") != expected);
    copy.write(&shard, &sound);
    let stderr = fail(&arguments, 2);
    assert!(stderr.contains("looked damaged") && stderr.contains("--force makes it anew"), "{stderr}");
    succeed(&[&arguments[..], &["--force"]].concat());
    assert!(fs::read(&output).expect("read") == expected);
}

/// The fixture's importance matrix with entries changed: name and values of each.
fn imatrix(copy: &Copy, change: impl Fn(&str, &mut Vec<f32>)) -> std::path::PathBuf {
    let bytes = fs::read(fixture("tiny-r1/imatrix.dat")).expect("read");
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four")) as usize;
    let (mut out, mut at) = (bytes[..4].to_vec(), 4);
    for _ in 0..number(0) {
        let end = at + 4 + number(at);
        let name = std::str::from_utf8(&bytes[at + 4..end]).expect("UTF-8").to_owned();
        let (values, start) = (number(end + 4), end + 8);
        let mut numbers: Vec<f32> =
            bytes[start..start + 4 * values].as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        change(&name, &mut numbers);
        out.extend(&bytes[at..end + 4]);
        out.extend((numbers.len() as u32).to_le_bytes());
        out.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
        at = start + 4 * values;
    }
    out.extend(&bytes[at..]);
    let path = copy.file("changed.dat");
    fs::write(&path, out).expect("written");
    path
}

#[test]
fn importances_of_zeros_are_no_measurement() {
    let copy = Copy::new();
    let zero = |name: &str, values: &mut Vec<f32>| match name {
        "blk.2.ffn_down_exps.weight" => values[..256].fill(0.0),
        "blk.2.attn_output.weight" => values.fill(0.0),
        _ => {}
    };
    let path = imatrix(&copy, zero);
    let output = copy.file("out.gguf");
    let plan = ["plan", text(copy.path()), "--imatrix", text(&path)];
    let found = succeed(&plan);
    assert!(found.contains("holds zeros only, as do 2 slices of 2 tensors"), "{found}");
    fail(&[&plan[..], &["--strict"]].concat(), 3);
    succeed(&["quantize", text(copy.path()), "-o", text(&output), "--imatrix", text(&path), "--quiet"]);
    let manifest = fs::read(copy.file("out.gguf.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let entry = |name: &str| {
        let tensors = manifest["tensors"].as_array().expect("a list");
        tensors.iter().find(|tensor| tensor["name"] == name).expect("there").clone()
    };
    assert_eq!(entry("blk.2.ffn_down_exps.weight")["unseen_experts"], 1);
    assert_ne!(entry("blk.2.attn_output.weight")["importances"], "imatrix");
}

#[cfg(unix)]
#[test]
fn an_importance_matrix_is_a_file() {
    let copy = Copy::new();
    let pipe = copy.file("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    for file in [text(&pipe), "/dev/zero", text(copy.path())] {
        let stderr = fail(&["plan", text(copy.path()), "--imatrix", file], 3);
        assert!(stderr.contains(file) && stderr.contains("is no regular file"), "{stderr}");
    }
}

#[test]
fn one_row_for_all_heads_is_used_for_each() {
    let copy = Copy::new();
    let of_heads = |name: &str| name.contains("attn_k_b") || name.contains("attn_v_b");
    // The same values for every head, in both layouts.
    let first = |values: &[f32]| values[..values.len() / 4].to_vec();
    let each = imatrix(&copy, |name, values| {
        if of_heads(name) {
            *values = first(values).repeat(4)
        }
    });
    let quantize = |path: &std::path::Path, name: &str| {
        let output = copy.file(name);
        succeed(&["quantize", text(copy.path()), "-o", text(&output), "--imatrix", text(path), "--quiet"]);
        crate::support::tensor_hashes(&[output])
    };
    let expected = quantize(&each, "each.gguf");
    let one = imatrix(&copy, |name, values| {
        if of_heads(name) {
            *values = first(values)
        }
    });
    assert!(quantize(&one, "one.gguf") == expected);
    let found = succeed(&["plan", text(copy.path()), "--imatrix", text(&one)]);
    assert!(found.contains("has one row of values for all of its slices, as have 10 tensors"), "{found}");
}
