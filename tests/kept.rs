//! What is kept of unfinished work beside a result: it is of one work and one process, is not believed when it is
//! damaged, and is no place for anything of somebody else's.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::interrupted::{SLOWLY, beside, killed_at, stopped_at};
use crate::support::{FAST, fail, fixture, quantize_fixture, quantpress, succeed, text};

/// A folder, and commands that calibrate on some of the fixture's text.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder") }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn calibrate(&self, checkpoint: &Path, words: &Path, output: &str) -> Vec<String> {
        let output = self.at(output);
        let all = ["calibrate", text(checkpoint), "-o", text(&output), "--text", text(words)];
        let all = all.into_iter().chain([
            "--context",
            "128",
            "--chunks",
            "6",
            "--json",
            "--quiet",
            "--threads",
            "1",
        ]);
        all.map(str::to_owned).collect()
    }

    /// On one of two texts.
    fn on(&self, words: &str, output: &str) -> Vec<String> {
        self.calibrate(&fixture("tiny-r1"), &fixture("tiny-r1").join(words), output)
    }
}

fn strs(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("ended");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn two_calibrations_do_not_mix() {
    let bench = Bench::new();
    let [a, b] = ["calibration.txt", "evaluation.txt"].map(|words| bench.on(words, "out.gguf"));
    succeed(&strs(&bench.on("calibration.txt", "a.gguf")));
    let first = stopped_at(&strs(&a), "kept", 2);
    let stderr = fail(&strs(&b), 1);
    assert!(stderr.contains("is being written by another process"), "{stderr}");
    assert_eq!(ended(first.go_on()).0, Some(0));
    assert!(fs::read(bench.at("out.gguf")).expect("read") == fs::read(bench.at("a.gguf")).expect("read"));
    // Unfinished work on one text is not gone on with on another.
    let [a, b] = ["calibration.txt", "evaluation.txt"].map(|words| bench.on(words, "second.gguf"));
    succeed(&strs(&bench.on("evaluation.txt", "b.gguf")));
    assert!(killed_at(&strs(&a), "kept", 3));
    for (all, words) in [
        (b.clone(), &["the texts' names was calibration.txt, now evaluation.txt", "as tokens"][..]),
        ([&a[..], &["--cover".to_owned()]].concat(), &["--cover was false, now true"]),
    ] {
        let stderr = fail(&strs(&all), 2);
        let words = words
            .iter()
            .chain(&["second.gguf.calibrating: the unfinished file is of other work", "--restart"]);
        words.for_each(|words| assert!(stderr.contains(words), "\"{words}\" is not in {stderr}"));
    }
    succeed(&strs(&[&b[..], &["--restart".to_owned()]].concat()));
    assert!(fs::read(bench.at("second.gguf")).expect("read") == fs::read(bench.at("b.gguf")).expect("read"));
}

#[test]
fn a_name_is_of_one_process_whatever_the_command() {
    let bench = Bench::new();
    let calibrate = bench.on("calibration.txt", "out.gguf");
    let checkpoint = fixture("tiny-r1");
    let output = bench.at("out.gguf");
    let quantize = [&["quantize", text(&checkpoint), "-o", text(&output), "-q"], &SLOWLY[..]].concat();
    for (mut first, second) in [
        (stopped_at(&strs(&calibrate), "kept", 1), quantize.clone()),
        (stopped_at(&quantize, "opened", 1), strs(&calibrate)),
    ] {
        let stderr = fail(&second, 1);
        assert!(stderr.contains("out.gguf is being written by another process"), "{stderr}");
        first.0.kill().expect("killed");
        first.0.wait().expect("ended");
    }
    // Whoever is refused leaves nothing, and a manifest is of the file that has the name.
    let split = ["quantize", text(&checkpoint), "-o", text(&bench.at("m.gguf")), "--split", "2", "-q"]
        .map(str::to_owned);
    let first = stopped_at(&strs(&split), "opened", 2);
    let stderr = fail(&strs(&bench.on("calibration.txt", "m-00002-of-00002.gguf")), 1);
    assert!(stderr.contains("m-00002-of-00002.gguf is being written"), "{stderr}");
    assert!(!bench.at("m-00002-of-00002.gguf.calibrating").exists());
    let mut first = first.0;
    first.kill().expect("killed");
    first.wait().expect("ended");
    let late = stopped_at(&strs(&bench.on("calibration.txt", "late.gguf")), "kept", 5);
    fs::write(bench.at("late.gguf"), "somebody else's").expect("written");
    let (code, stderr) = ended(late.go_on());
    assert!(code == Some(2) && stderr.contains("late.gguf is there already"), "{code:?}: {stderr}");
    assert!(!bench.at("late.gguf.json").exists());
}

#[test]
fn other_weights_are_other_work() {
    let bench = Bench::new();
    let other = Copy::new();
    other.edit_shard("model.layers.0.mlp.up_proj.weight", |shard| {
        let scale = shard.tensor("model.layers.0.mlp.up_proj.weight_scale_inv");
        scale
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .for_each(|x| *x = (1.5 * f32::from_le_bytes(*x)).to_le_bytes());
    });
    // The samples of a fingerprint miss a few numbers: most of the shard is changed too.
    let words = fixture("tiny-r1/calibration.txt");
    let link = bench.at("checkpoint");
    let all = bench.calibrate(&link, &words, "out.gguf");
    symlink(fixture("tiny-r1"), &link).expect("a link");
    assert!(killed_at(&strs(&all), "kept", 3));
    fs::remove_file(&link).expect("removed");
    let experts = "model.layers.1.mlp.experts.3.up_proj.weight";
    other.edit_shard(experts, |shard| shard.data.iter_mut().step_by(3).for_each(|byte| *byte &= 0xbf));
    symlink(other.path(), &link).expect("a link");
    let stderr = fail(&strs(&all), 2);
    assert!(stderr.contains("the checkpoint's weights, as sampled was"), "{stderr}");
    succeed(&strs(&[&all[..], &["--restart".to_owned()]].concat()));
    succeed(&strs(&bench.calibrate(other.path(), &words, "expected.gguf")));
    assert!(
        fs::read(bench.at("out.gguf")).expect("read") == fs::read(bench.at("expected.gguf")).expect("read")
    );
}

#[test]
fn damaged_states_and_sums_are_made_again() {
    let bench = Bench::new();
    succeed(&strs(&bench.on("calibration.txt", "expected.gguf")));
    let expected = fs::read(bench.at("expected.gguf")).expect("read");
    let all = bench.on("calibration.txt", "out.gguf");
    let zeroed = |path: &Path| {
        let size = path.metadata().expect("there").len();
        let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
        file.set_len(size / 2).expect("cut");
        file.set_len(size).expect("zeros");
    };
    for damaged in ["hidden-3.f32", "layer-1.imatrix", "done.json"] {
        assert!(killed_at(&strs(&all), "kept", 3), "{damaged}");
        zeroed(&beside(&bench.at("out.gguf"), ".calibrating").join(damaged));
        succeed(&strs(&all));
        assert!(fs::read(bench.at("out.gguf")).expect("read") == expected, "{damaged}");
        fs::remove_file(bench.at("out.gguf")).expect("removed");
    }
}

#[test]
fn killed_at_the_end_it_can_be_finished() {
    let bench = Bench::new();
    succeed(&strs(&bench.on("calibration.txt", "expected.gguf")));
    let expected = fs::read(bench.at("expected.gguf")).expect("read");
    for moment in ["told", "joined", "unkept"] {
        let output = bench.at(&format!("{moment}.gguf"));
        let all = bench.on("calibration.txt", &format!("{moment}.gguf"));
        assert!(killed_at(&strs(&all), moment, 1), "{moment}");
        succeed(&strs(&all));
        assert!(fs::read(&output).expect("read") == expected, "{moment}");
        assert!(!beside(&output, ".calibrating").exists(), "{moment}");
        // And it is not done again.
        let again: Value = serde_json::from_str(&succeed(&strs(&all))).expect("JSON");
        assert_eq!(again["already"], true, "{moment}");
        assert_eq!(again["tensors"].as_u64(), Some(62), "{moment}: {again}");
        let other = bench.on("evaluation.txt", &format!("{moment}.gguf"));
        assert!(fail(&strs(&other), 2).contains("--force replaces it"), "{moment}");
    }
    // What is this work's and was changed since is said to be so.
    let mut changed = expected.clone();
    *changed.last_mut().expect("not empty") ^= 1;
    fs::write(bench.at("told.gguf"), changed).expect("written");
    let stderr = fail(&strs(&bench.on("calibration.txt", "told.gguf")), 2);
    assert!(stderr.contains("made of this, but was changed") && stderr.contains("--force"), "{stderr}");
    // The older layout has no room for whose work it is; its manifest has.
    let dat = [bench.on("calibration.txt", "a.dat"), vec!["--format".into(), "dat".into()]].concat();
    assert!(killed_at(&strs(&dat), "joined", 1));
    for _ in 0..2 {
        let again: Value = serde_json::from_str(&succeed(&strs(&dat))).expect("JSON");
        assert_eq!(again["already"], true);
    }
}

#[test]
fn an_interrupted_calibration_says_how_to_go_on() {
    let bench = Bench::new();
    let all = bench.on("calibration.txt", "out.gguf");
    for signal in ["INT", "TERM", "HUP"] {
        let (code, stderr) = ended(stopped_at(&strs(&all), "kept", 1).go_on_with(signal));
        assert_eq!(code, Some(130), "{signal}: {stderr}");
        for words in
            ["interrupted", "% of the work is done", "out.gguf", "the same command goes on", "--restart"]
        {
            assert!(stderr.contains(words), "{signal}: \"{words}\" is not in {stderr}");
        }
    }
    succeed(&strs(&[&all[..], &["--restart".to_owned()]].concat()));
}

#[test]
fn names_of_somebody_elses_are_left_alone() {
    let bench = Bench::new();
    let victim = bench.at("victim");
    let precious = || {
        fs::write(&victim, "precious").expect("written");
    };
    let untouched = |what: &str| assert_eq!(fs::read(&victim).expect("there"), b"precious", "{what}");
    // Links under the names of unfinished files.
    precious();
    for (suffix, arguments) in [
        (".part", vec!["quantize".to_owned(), text(&fixture("tiny-r1")).to_owned(), "-q".into()]),
        (".journal", vec!["quantize".to_owned(), text(&fixture("tiny-r1")).to_owned(), "-q".into()]),
    ] {
        let output = bench.at("out.gguf");
        symlink(&victim, beside(&output, suffix)).expect("a link");
        let all = [&arguments[..], &["-o".to_owned(), text(&output).to_owned()]].concat();
        for restart in [false, true] {
            let all = [
                &all[..],
                if restart { &["--restart"] as &[&str] } else { &[] }
                    .iter()
                    .map(|s| (*s).to_owned())
                    .collect::<Vec<_>>()
                    .as_slice(),
            ]
            .concat();
            let run = quantpress(&strs(&all));
            assert!(run.status.code().is_some_and(|code| [1, 2].contains(&code)), "{suffix}: {run:?}");
            untouched(suffix);
        }
        fs::remove_file(beside(&output, suffix)).expect("the link is there");
    }
    // calibrate and reports write no such names at all, and the manifest's is not a link's target either.
    for name in ["matrix.gguf.part", "matrix.gguf.json.part", "b.gguf.json.part"] {
        symlink(&victim, bench.at(name)).expect("a link");
    }
    succeed(&strs(&bench.on("calibration.txt", "matrix.gguf")));
    quantize_fixture(bench.folder.path(), "b.gguf", &[]);
    untouched("manifest");
    // A folder of the user's.
    let own = bench.at("mine.gguf.calibrating");
    fs::create_dir(&own).expect("a folder");
    fs::write(own.join("notes"), "mine").expect("written");
    let stderr = fail(&strs(&bench.on("calibration.txt", "mine.gguf")), 2);
    assert!(stderr.contains("has notes in it"), "{stderr}");
    assert_eq!(fs::read(own.join("notes")).expect("there"), b"mine");
    // An unfinished quantize of the same name is not a calibration's.
    let unfinished = bench.at("c.gguf");
    let checkpoint = fixture("tiny-r1");
    let arguments = [&["quantize", text(&checkpoint), "-o", text(&unfinished), "-q"], &SLOWLY[..]].concat();
    assert!(killed_at(&arguments, "recorded", 30));
    let part = fs::read(beside(&unfinished, ".part")).expect("read");
    succeed(&strs(&bench.on("calibration.txt", "c.gguf")));
    assert!(fs::read(beside(&unfinished, ".part")).expect("read") == part);
    // A manifest's name that is a file of another kind.
    let copy = Copy::new();
    let tokenizer = copy.file("tokenizer");
    let own = fs::read(copy.file("tokenizer.json")).expect("read");
    for command in ["quantize", "calibrate"] {
        let words = fixture("tiny-r1/calibration.txt");
        let mut all = vec![command, text(copy.path()), "-o", text(&tokenizer), "-q"];
        if command == "calibrate" {
            all.extend(["--text", text(&words), "--chunks", "1", "--context", "64"]);
        }
        fail(&all, 2);
        assert!(fs::read(copy.file("tokenizer.json")).expect("read") == own, "{command}");
    }
}

#[test]
fn pipes_under_our_names_do_not_hang() {
    let bench = Bench::new();
    let output = bench.at("o.gguf");
    let checkpoint = fixture("tiny-r1");
    for suffix in [".journal", ".part"] {
        let made = Command::new("mkfifo").arg(beside(&output, suffix)).status().expect("mkfifo");
        assert!(made.success());
        let refused = || {
            let stderr = fail(&["quantize", text(&checkpoint), "-o", text(&output), "-q"], 1);
            assert!(
                stderr.contains("is no regular file") && stderr.contains("remove what is there"),
                "{suffix}: {stderr}"
            );
        };
        refused();
        fs::remove_file(beside(&output, suffix)).expect("it is there");
        symlink("elsewhere", beside(&output, suffix)).expect("a link");
        refused();
        fs::remove_file(beside(&output, suffix)).expect("it is there");
        fs::create_dir(beside(&output, suffix)).expect("a folder");
        refused();
        fs::remove_dir(beside(&output, suffix)).expect("it is there");
    }
}

/// A file system without a lock service, and one that cannot promise that anything is durable.
#[test]
fn locks_and_syncing_are_not_asked_for_where_there_are_none() {
    let bench = Bench::new();
    let (source, library) = (bench.at("without.c"), bench.at("without.so"));
    let calls = "#include <errno.h>\nint flock(int f, int o) { errno = ENOLCK; return -1; }\n\
                 int fsync(int f) { errno = EINVAL; return -1; }\nint fdatasync(int f) { errno = ENOTSUP; return -1; }\n";
    fs::write(&source, calls).expect("written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o", text(&library), text(&source)]).status();
    assert!(built.expect("a C compiler").success());
    let expected =
        fs::read(quantize_fixture(bench.folder.path(), "expected.gguf", &["-r", FAST])).expect("read");
    let output = bench.at("o.gguf");
    let checkpoint = fixture("tiny-r1");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quantpress"));
        command.args(arguments).env("LD_PRELOAD", &library).output().expect("the program starts")
    };
    let found = run(&["quantize", text(&checkpoint), "-r", FAST, "-o", text(&output), "-q"]);
    assert!(found.status.success(), "{found:?}");
    assert!(fs::read(&output).expect("read") == expected);
    let found = run(&strs(&bench.on("calibration.txt", "m.gguf")));
    assert!(found.status.success(), "{found:?}");
}

/// A matrix of two bands of rows, of whose pieces an early one's record is lost: it is made again on the same inputs.
#[test]
fn a_piece_of_an_early_band_is_made_again_with_feedback() {
    const ROWS: usize = (16 << 20) / 256 + 1024;
    let copy = Copy::new();
    copy.edit("config.json", |config| {
        config["vocab_size"] = ROWS.into();
        config["num_nextn_predict_layers"] = 0.into();
    });
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        copy.edit_shard(name, |shard| {
            let before = shard.tensor(name).to_vec();
            assert_eq!(shard.header[name]["dtype"], "BF16");
            let rows: Vec<u8> = (0..ROWS * 512).map(|byte| before[byte % before.len()]).collect();
            shard.take(name);
            let end = shard.data.len();
            shard.data.extend(&rows);
            let entry =
                json!({"dtype": "BF16", "shape": [ROWS, 256], "data_offsets": [end, end + rows.len()]});
            shard.header.insert(name.to_owned(), entry);
        });
    }
    // The layer for multi-token prediction goes, with its own copies of them.
    copy.edit("model.safetensors.index.json", |index| {
        let all = index["weight_map"].as_object_mut().expect("tensors");
        all.retain(|name, _| !name.starts_with("model.layers.5."));
    });
    let folder = TempDir::new().expect("a temporary folder");
    let words = fixture("tiny-r1/calibration.txt");
    let command = |name: &str| -> Vec<String> {
        let output = folder.path().join(name);
        let all =
            ["quantize", text(copy.path()), "-o", text(&output), "-r", "q4_k_m", "--quiet", "--feedback"];
        let all = all.into_iter().chain(["--text", text(&words), "--chunks", "2", "--context", "64"]);
        all.map(str::to_owned).collect()
    };
    succeed(&strs(&command("a.gguf")));
    let all = command("b.gguf");
    assert!(killed_at(&strs(&all), "sealed", 1));
    let journal = folder.path().join("b.gguf.journal");
    let mut bytes = fs::read(&journal).expect("read");
    // The head is the first tensor of the file: its third piece, of the first band.
    let length = u32::from_le_bytes(bytes[37..41].try_into().expect("four bytes")) as usize;
    let head = 41 + length + 32;
    let lost = bytes[head..].chunks_exact_mut(68).filter(|record| record[..4] == [2, 0, 0, 0]);
    assert_eq!(lost.map(|record| record.fill(0)).count(), 1);
    fs::write(&journal, bytes).expect("written");
    succeed(&strs(&all));
    let [a, b] = ["a.gguf", "b.gguf"].map(|name| fs::read(folder.path().join(name)).expect("read"));
    assert!(a == b);
}
