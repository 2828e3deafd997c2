//! Shards that were written again since work of theirs began or was finished, where no sample of the fingerprint
//! looks: it is a warning, and a copy of the checkpoint costs nothing.
#![cfg(unix)]

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::interrupted::{SLOWLY, beside, kill_midway, killed_at, stopped_at};
use crate::support::{FAST, fixture, quantize_fixture, quantpress, text};

const SHARD: &str = "model-00002-of-000004.safetensors";

/// Stdout and stderr of a run that must succeed.
#[track_caller]
fn said(arguments: &[&str]) -> (String, String) {
    let run = quantpress(arguments);
    let [stdout, stderr] = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(run.status.success(), "{arguments:?}: {stderr}");
    (stdout, stderr)
}

/// Writes a shard again as it is.
fn rewrite(copy: &Copy) {
    copy.write(SHARD, &fs::read(copy.file(SHARD)).expect("read"));
}

/// A warning, but that 64 tokens are few for experts, which is said each time.
fn warning(stderr: &str) -> Option<&str> {
    stderr.lines().find(|line| line.contains("warning") && !line.contains("were chosen by fewer than"))
}

#[test]
fn what_is_made_already_is_not_believed_without_a_word() {
    let copy = Copy::new();
    let folder = TempDir::new().expect("a temporary folder");
    let [file, matrix] = ["a.gguf", "m.gguf"].map(|name| folder.path().join(name));
    let words = fixture("tiny-r1/calibration.txt");
    let quantize = ["quantize", text(copy.path()), "-o", text(&file), "-r", "q8_0"];
    let calibrate = ["calibrate", text(copy.path()), "--text", text(&words), "-o", text(&matrix)];
    let calibrate = [&calibrate[..], &["--context", "64", "--chunks", "1"]].concat();
    for arguments in [&quantize[..], &calibrate] {
        said(arguments);
        let (stdout, stderr) = said(arguments);
        assert!(stdout.contains("already made of this"), "{stdout}");
        assert_eq!(warning(&stderr), None);
    }
    rewrite(&copy);
    for (arguments, file) in [(&quantize[..], &file), (&calibrate, &matrix)] {
        let (stdout, stderr) = said(arguments);
        assert!(stdout.contains("already made of this"), "{stdout}");
        let words = [SHARD, "was written, copied or replaced since", text(file), "--force"];
        assert!(stderr.contains("warning") && words.iter().all(|words| stderr.contains(words)), "{stderr}");
        said(&[arguments, &["--force"]].concat());
        assert_eq!(warning(&said(arguments).1), None);
    }
}

#[test]
fn what_was_made_of_a_mended_shard_is_made_again() {
    let copy = Copy::new();
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("b.gguf");
    let arguments =
        [&["quantize", text(copy.path()), "-r", FAST, "-o", text(&output), "--json"], &SLOWLY[..]].concat();
    kill_midway(&arguments, &output);
    rewrite(&copy);
    let (_, stderr) = said(&arguments);
    assert!(stderr.contains("1 of the shards were written or replaced since this work began"), "{stderr}");
    let expected = fs::read(quantize_fixture(folder.path(), "a.gguf", &["-r", FAST])).expect("read");
    assert!(fs::read(&output).expect("read") == expected);
    // It is of the shards as they are now.
    assert!(!said(&arguments).1.contains("warning"));
    // Written while they are read.
    let output = folder.path().join("c.gguf");
    let arguments = ["quantize", text(copy.path()), "-r", FAST, "-o", text(&output), "-q"];
    let stopped = stopped_at(&arguments, "sealed", 1);
    rewrite(&copy);
    let run = stopped.go_on().wait_with_output().expect("ended");
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success() && stderr.contains(SHARD) && stderr.contains("since this run began"),
        "{stderr}"
    );
}

#[test]
fn a_copied_checkpoint_loses_nothing() {
    let folder = TempDir::new().expect("a temporary folder");
    let [moved, output] = ["checkpoint", "b.gguf"].map(|name| folder.path().join(name));
    let copied = |from: &Path| {
        fs::create_dir(&moved).expect("created");
        for file in fs::read_dir(from).expect("read").map(|file| file.expect("a file")) {
            let bytes = fs::read(file.path()).expect("read");
            fs::write(moved.join(file.file_name()), bytes).expect("written");
        }
    };
    copied(&fixture("tiny-r1"));
    let arguments =
        [&["quantize", text(&moved), "-r", FAST, "-o", text(&output), "--json"], &SLOWLY[..]].concat();
    kill_midway(&arguments, &output);
    let words = fixture("tiny-r1/calibration.txt");
    let matrix = folder.path().join("m.gguf");
    let calibrate = ["calibrate", text(&moved), "--text", text(&words), "-o", text(&matrix)];
    let calibrate = [&calibrate[..], &["--context", "64", "--chunks", "1"]].concat();
    assert!(killed_at(&calibrate, "kept", 3));
    fs::remove_dir_all(&moved).expect("removed");
    copied(&fixture("tiny-r1"));
    let (stdout, stderr) = said(&arguments);
    assert!(!stdout.contains("\"done_before\":0"), "{stdout}");
    assert!(
        stderr.contains("(and 3 more of 4 shards)") && stderr.contains("--restart begins anew"),
        "{stderr}"
    );
    let (_, stderr) = said(&calibrate);
    assert!(
        stderr.contains("3 of 5 layers were finished before") && stderr.contains("--restart begins"),
        "{stderr}"
    );
    assert!(!beside(&matrix, ".calibrating").exists());
}
