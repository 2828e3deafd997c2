//! Split files: the same tensors however the work is divided, and real llama.cpp loads them.

use std::fs;
use std::path::{Path, PathBuf};

use quantpress::gguf::Contents;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::interrupted::{SLOWLY, beside, kill_midway, killed_at};
use crate::support::python::llama;
use crate::support::{FAST, excerpt, fail, fixture, quantize_fixture, succeed, tensor_hashes, text};

fn files(folder: &Path, stem: &str, count: usize) -> Vec<PathBuf> {
    (1..=count).map(|number| folder.join(format!("{stem}-{number:05}-of-{count:05}.gguf"))).collect()
}

#[test]
fn threads_splits_parts_and_kills_do_not_change_a_byte() {
    let checkpoint = fixture("tiny-r1");
    let base = TempDir::new().expect("a temporary folder");
    let whole = quantize_fixture(base.path(), "a.gguf", &["-r", FAST, "--threads", "1"]);
    let expected = tensor_hashes(std::slice::from_ref(&whole));
    quantize_fixture(base.path(), "a.gguf", &["-r", FAST, "--split", "3", "--threads", "1"]);
    // Each with its manifest.
    let with_manifest = |file: &PathBuf| [file.clone(), beside(file, ".json")];
    let expected_files: Vec<Vec<u8>> = files(base.path(), "a", 3)
        .iter()
        .flat_map(with_manifest)
        .map(|file| fs::read(file).expect("read"))
        .collect();
    assert_eq!(tensor_hashes(&files(base.path(), "a", 3)), expected);

    for threads in ["1", "2", "7"] {
        for killed in [false, true] {
            let folder = TempDir::new().expect("a temporary folder");
            let output = folder.path().join("a.gguf");
            let run = |extra: &[&str]| {
                let mut arguments = vec![
                    "quantize",
                    text(&checkpoint),
                    "-r",
                    FAST,
                    "-o",
                    text(&output),
                    "--threads",
                    threads,
                    "--quiet",
                ];
                arguments.extend(extra);
                if killed {
                    let slowly = [&arguments[..], &["--memory", "16MB", "--sync-seconds", "0"]].concat();
                    assert!(killed_at(&slowly, "recorded", 10), "it ended too soon");
                }
                succeed(&arguments);
            };
            run(&[]);
            assert_eq!(fs::read(&output).expect("read"), fs::read(&whole).expect("read"));
            run(&["--split", "3"]);
            let split = files(folder.path(), "a", 3);
            let check = |how: &str| {
                for (file, expected) in split.iter().flat_map(with_manifest).zip(&expected_files) {
                    assert!(
                        &fs::read(&file).expect("read") == expected,
                        "{how}, {threads}, {killed}: {file:?}"
                    );
                    fs::remove_file(file).expect("removed");
                }
            };
            check("together");
            for part in ["1/3", "2/3", "3/3"] {
                run(&["--part", part]);
            }
            check("apart");
        }
    }
}

#[test]
fn a_size_limits_the_files_and_plan_tells_of_them() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let plan = succeed(&["plan", text(&checkpoint), "--split", "2.5MB", "--json"]);
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    let output = quantize_fixture(folder.path(), "a.gguf", &["--split", "2.5MB"]);
    assert!(!output.exists());
    let planned = plan["files"].as_array().expect("files");
    let found = files(folder.path(), "a", planned.len());
    let mut tensors = 0;
    for (number, (planned, file)) in planned.iter().zip(&found).enumerate() {
        let contents = Contents::read(file).expect("sound");
        assert!(contents.file_size <= 2_500_000);
        assert_eq!(planned["bytes"], contents.file_size);
        assert_eq!(planned["tensors"], contents.tensors.len());
        assert!(text(file).ends_with(planned["name"].as_str().expect("a name")));
        assert_eq!(contents.metadata["split.no"].as_u64(), Some(number as u64));
        assert_eq!(contents.metadata["split.count"].as_u64(), Some(planned_count(&plan) as u64));
        assert_eq!(contents.metadata["split.tensors.count"].as_u64(), Some(88));
        assert_eq!(contents.metadata.len() == 3, number > 0);
        tensors += contents.tensors.len();
    }
    assert_eq!(tensors, 88);
    let sum: u64 = found.iter().map(|file| file.metadata().expect("made").len()).sum();
    assert_eq!(plan["file_bytes"], sum);
    let shown = succeed(&["plan", text(&checkpoint), "--split", "2.5MB"]);
    assert!(shown.contains("-00001-of-0000"), "{shown}");

    let stderr = fail(&["plan", text(&checkpoint), "--split", "100KB"], 2);
    assert!(stderr.contains("cannot be split") && stderr.contains("alone has"), "{stderr}");
    let stderr = fail(&["plan", text(&checkpoint), "--split", "89"], 2);
    assert!(stderr.contains("89 files cannot hold 88 tensors"), "{stderr}");
    for (flag, wrong) in [("--split", "0"), ("--split", "48"), ("--part", "9/8"), ("--memory", "lots")] {
        let wrong = if wrong == "48" { "48 parsecs" } else { wrong };
        fail(&["quantize", text(&checkpoint), "-o", text(&output), flag, wrong], 2);
    }
}

fn planned_count(plan: &Value) -> usize {
    plan["files"].as_array().expect("files").len()
}

#[test]
fn a_part_resumes_by_itself() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let output = folder.path().join("a.gguf");
    let part = &files(folder.path(), "a", 2)[1];
    let arguments =
        [&["quantize", text(&checkpoint), "-o", text(&output), "--part", "2/2"], &SLOWLY[..]].concat();
    kill_midway(&arguments, part);
    succeed(&arguments);
    quantize_fixture(folder.path(), "b.gguf", &["--split", "2"]);
    assert_eq!(fs::read(part).expect("read"), fs::read(&files(folder.path(), "b", 2)[1]).expect("read"));
}

#[test]
fn real_llama_cpp_loads_split_files_that_were_made_apart() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let output = folder.path().join("a.gguf");
    for part in ["1/3", "2/3", "3/3"] {
        succeed(&["quantize", text(&checkpoint), "-r", FAST, "-o", text(&output), "--part", part, "--quiet"]);
    }
    let whole = quantize_fixture(folder.path(), "whole.gguf", &["-r", FAST]);
    let evaluation = excerpt(folder.path(), 60);
    let measure = |model: &Path| llama(&["measure", text(model), text(&evaluation)]);
    let Some(found) = measure(&files(folder.path(), "a", 3)[0]) else { return };
    assert_eq!(found["perplexity"], measure(&whole).expect("it ran before")["perplexity"]);
}

/// The soft limit is raised to the hard one, and of the checkpoint's shards no more stay open than that allows.
#[cfg(unix)]
#[test]
fn few_open_files_are_enough() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let expected = quantize_fixture(folder.path(), "a.gguf", &["--split", "20"]);
    let output = folder.path().join("b.gguf");
    for limit in ["ulimit -S -n 10", "ulimit -H -n 40; ulimit -S -n 10"] {
        let script = format!("{limit}; exec \"$@\"");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_quantpress"), "quantize", text(&checkpoint)]);
        let run = shell.args(["-o", text(&output), "--split", "20", "--quiet", "--force"]).output();
        let run = run.expect("sh starts");
        assert!(run.status.success(), "{limit}: {run:?}");
        for (a, b) in files(folder.path(), "a", 20).iter().zip(files(folder.path(), "b", 20)) {
            assert!(fs::read(a).expect("read") == fs::read(b).expect("read"), "{limit}");
        }
    }
    drop(expected);
}
