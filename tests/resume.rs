//! Interrupted runs: killed, stopped, out of space, with a source that breaks; each goes on and ends in the same bytes.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::interrupted::{
    SLOWLY, SmallDisk, beside, journal_bytes, kill_midway, signal, start, wait_for,
};
use crate::support::{fail, fixture, hex, quantize_fixture, quantpress, succeed, text};

/// Names of what is in a folder and begins like the output.
fn left(output: &Path) -> Vec<String> {
    let name = output.file_stem().expect("a name").to_string_lossy().into_owned();
    let folder = fs::read_dir(output.parent().expect("a folder")).expect("read");
    let names = folder.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|found| found.starts_with(&name)).collect();
    names.sort();
    names
}

/// Numbers that look random and are the same in every run.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn stderr(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("ended");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What the first event of the work says.
fn started(stdout: &str) -> Value {
    let events = stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    events.into_iter().find(|event| event["event"] == "started").expect("it started")
}

#[test]
fn twenty_five_kills_over_one_conversion_leave_the_same_bytes() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &["--imatrix", text(&imatrix)]);
    let output = folder.path().join("b.gguf");
    let mut arguments =
        vec!["quantize", text(&checkpoint), "-o", text(&output), "--imatrix", text(&imatrix), "--quiet"];
    arguments.extend(SLOWLY);
    let mut state = 4;
    let mut sizes = Vec::new();
    for kill in 0..25 {
        let mut child = start(&arguments);
        // A few pieces in most runs; every fifth is killed while it plans or looks at what is there.
        let before = journal_bytes(&output);
        let pieces = 1 + random(&mut state) % 8;
        if kill % 5 == 4 {
            std::thread::sleep(Duration::from_millis(random(&mut state) % 40));
        } else {
            assert!(wait_for(&mut child, &output, before, 48 * pieces), "kill {kill} came too late");
            std::thread::sleep(Duration::from_micros(random(&mut state) % 3000));
        }
        assert_eq!(child.try_wait().expect("it can be asked"), None, "kill {kill} came too late");
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(!output.exists());
        sizes.push(journal_bytes(&output));
    }
    arguments.retain(|argument| *argument != "--quiet");
    arguments.push("--json");
    let begun = started(&succeed(&arguments));
    eprintln!("journal after each kill: {sizes:?}; done before the last run: {}", begun["done_before"]);
    assert!(begun["done_before"].as_u64() > Some(0), "{begun}");
    assert_eq!(hex(&fs::read(&undisturbed).expect("read")), hex(&fs::read(&output).expect("read")));
    let manifests = [&undisturbed, &output].map(|file| {
        let manifest = fs::read_to_string(beside(file, ".json")).expect("read");
        manifest.replace("b.gguf", "a.gguf")
    });
    assert_eq!(manifests[0], manifests[1]);
    assert_eq!(left(&output), ["b.gguf", "b.gguf.json"]);
}

#[test]
fn a_run_killed_while_it_seals_can_be_finished() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &["--split", "3"]);
    let output = folder.path().join("b.gguf");
    let mut arguments = vec!["quantize", text(&checkpoint), "-o", text(&output), "--split", "3", "--quiet"];
    arguments.extend(["--sync-seconds", "0"]);
    // Kill at every stage of the end: as long as the journal is there, the work is not over.
    let mut sealed = false;
    for _ in 0..200 {
        let mut child = start(&arguments);
        let part = folder.path().join("b-00001-of-00003.gguf");
        let status = loop {
            if let Some(status) = child.try_wait().expect("it can be asked") {
                break Some(status);
            }
            if !sealed && part.exists() {
                child.kill().expect("killed");
                child.wait().expect("ended");
                break None;
            }
            std::hint::spin_loop();
        };
        match status {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => sealed = true,
        }
    }
    assert!(sealed, "it was killed after the first file got its name");
    for number in 1..=3 {
        let name = |stem: &str| folder.path().join(format!("{stem}-0000{number}-of-00003.gguf"));
        assert_eq!(fs::read(name("a")).expect("read"), fs::read(name("b")).expect("read"));
        assert!(beside(&name("b"), ".json").exists());
    }
    assert!(!beside(&output, ".journal").exists() && !beside(&output, ".json").exists());
    drop(undisturbed);
}

#[test]
fn ctrl_c_ends_cleanly_and_says_how_to_go_on() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &[]);
    let output = folder.path().join("b.gguf");
    let arguments = [&["quantize", text(&checkpoint), "-o", text(&output), "--json"], &SLOWLY[..]].concat();
    for name in ["INT", "TERM"] {
        let before = journal_bytes(&output);
        let mut child = start(&arguments);
        assert!(wait_for(&mut child, &output, before, if before == 0 { 2500 } else { 1000 }));
        signal(&child, name);
        let (code, stderr) = stderr(child);
        assert_eq!(code, Some(130), "{stderr}");
        for words in
            ["interrupted; ", " % of the work is done", "b.gguf", "the same command goes on", "--restart"]
        {
            assert!(stderr.contains(words), "\"{words}\" is not in: {stderr}");
        }
        assert_eq!(left(&output), ["b.gguf.journal", "b.gguf.part"]);
    }
    let begun = started(&succeed(&arguments));
    assert!(
        begun["done_before"].as_u64() > Some(0) && begun["done_before"].as_u64() < begun["weights"].as_u64()
    );
    assert_eq!(fs::read(undisturbed).expect("read"), fs::read(&output).expect("read"));
}

#[test]
fn an_interruption_before_anything_is_done_leaves_nothing() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("a.gguf");
    let copy = Copy::new();
    let weight = "model.layers.0.mlp.gate_proj.weight";
    // Whatever comes first is broken: no piece is done.
    for shard in 1..=4 {
        let name = format!("model-{shard:05}-of-000004.safetensors");
        let mut bytes = fs::read(copy.file(&name)).expect("read");
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
        bytes[header..].fill(0xff);
        copy.write(&name, &bytes);
    }
    let stderr = fail(&["quantize", text(copy.path()), "-o", text(&output), "--quiet"], 3);
    assert!(stderr.contains("NaN") && !stderr.contains("goes on"), "{stderr}");
    assert!(left(&output).is_empty(), "{weight}");
}

#[test]
fn a_full_disk_is_an_error_at_once_or_resumable() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), 3000) else { return };
    let checkpoint = fixture("tiny-r1");
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &[]);
    let output = disk.path.join("b.gguf");
    let arguments = ["quantize", text(&checkpoint), "-o", text(&output), "--quiet"];
    // 6.6 MB do not fit into 3.
    let stderr = fail(&arguments, 1);
    let size = undisturbed.metadata().expect("made").len();
    for words in ["b.gguf has", &format!("{size} are needed"), "bytes are missing"] {
        assert!(stderr.contains(words), "\"{words}\" is not in: {stderr}");
    }
    assert!(left(&output).is_empty());
    // Without the reservation it is full in the midst of the work.
    let unreserved = [&arguments[..], &["--no-reserve"], &SLOWLY].concat();
    let stderr = fail(&unreserved, 1);
    for words in ["b.gguf", "No space left", "% of the work is done", "the same command goes on"] {
        assert!(stderr.contains(words), "\"{words}\" is not in: {stderr}");
    }
    assert_eq!(left(&output), ["b.gguf.journal", "b.gguf.part"]);
    // Again, with the space reserved: what is missing now.
    let stderr = fail(&arguments, 1);
    assert!(stderr.contains("bytes are missing"), "{stderr}");
    disk.resize(20_000);
    let json = [&arguments[..4], &["--json"]].concat();
    assert!(started(&succeed(&json))["done_before"].as_u64() > Some(0));
    assert_eq!(fs::read(undisturbed).expect("read"), fs::read(&output).expect("read"));
}

#[test]
fn a_shard_cut_short_midway_is_an_error_and_resumable_once_mended() {
    let folder = TempDir::new().expect("a temporary folder");
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &[]);
    let output = folder.path().join("b.gguf");
    let copy = Copy::new();
    let last = "model-00004-of-000004.safetensors";
    let bytes = fs::read(copy.file(last)).expect("read");
    copy.write(last, &bytes);
    let arguments = [&["quantize", text(copy.path()), "-o", text(&output)], &SLOWLY[..]].concat();
    let mut child = start(&arguments);
    assert!(wait_for(&mut child, &output, 0, 1600));
    fs::OpenOptions::new().write(true).open(copy.file(last)).expect("opened").set_len(20_000).expect("cut");
    let (code, stderr) = stderr(child);
    assert_eq!(code, Some(3), "{stderr}");
    for words in [last, "tensor \"", "the file ends before its byte", "the same command goes on"] {
        assert!(stderr.contains(words), "\"{words}\" is not in: {stderr}");
    }
    copy.write(last, &bytes);
    let json = [&arguments[..], &["--json"]].concat();
    assert!(started(&succeed(&json))["done_before"].as_u64() > Some(0));
    assert_eq!(fs::read(undisturbed).expect("read"), fs::read(&output).expect("read"));
}

#[test]
fn a_second_process_on_the_same_output_refuses() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let output = folder.path().join("a.gguf");
    let whole = [&["quantize", text(&checkpoint), "-o", text(&output), "--split", "3"], &SLOWLY[..]].concat();
    let mut first = start(&whole);
    assert!(wait_for(&mut first, &output, 0, 2000));
    let part = ["quantize", text(&checkpoint), "-o", text(&output), "--part", "2/3"];
    for (arguments, restart) in [(&whole[..], false), (&whole, true), (&part, false), (&part, true)] {
        let arguments = [arguments, if restart { &["--restart"] } else { &[] }].concat();
        let stderr = fail(&arguments, 1);
        // The part's own journal does not exist, so to it the file is another's.
        assert!(stderr.contains("is being written by another process"), "{stderr}");
    }
    assert_eq!(first.try_wait().expect("it can be asked"), None, "the first was there all the time");
    assert_eq!(stderr(first).0, Some(0));
    let hashes = |folder: &Path| {
        let names = (1..=3).map(|number| folder.join(format!("a-0000{number}-of-00003.gguf")));
        names.map(|name| hex(&fs::read(name).expect("read"))).collect::<Vec<_>>()
    };
    let found = hashes(folder.path());
    let other = TempDir::new().expect("a temporary folder");
    quantize_fixture(other.path(), "a.gguf", &["--split", "3"]);
    assert_eq!(found, hashes(other.path()));
}

#[test]
fn unfinished_work_of_another_kind_is_refused_with_what_differs() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("b.gguf");
    let copy = Copy::new();
    let command = |extra: &[&'static str]| {
        let base = ["quantize", text(copy.path()), "-o", text(&output), "--recipe", "q4_k_m", "--quiet"];
        base.iter().chain(extra).map(|s| (*s).to_owned()).collect::<Vec<String>>()
    };
    let with = |extra: &[&'static str], words: &[&str]| {
        let arguments = command(extra);
        let stderr = fail(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 2);
        for word in words.iter().chain(&["b.gguf.journal", "is of other work", "--restart begins anew"]) {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
    };
    let slowly = command(&SLOWLY);
    kill_midway(&slowly.iter().map(String::as_str).collect::<Vec<_>>(), &output);
    let journal = fs::read(beside(&output, ".journal")).expect("read");

    with(&["--override", "ffn_down_exps=q6_k"], &["--override was , now ffn_down_exps=Q6_K"]);
    with(&["--name", "Tiny"], &["--name was , now Tiny"]);
    with(&["--keep-mtp"], &["--keep-mtp was false, now true"]);
    let imatrix = fixture("tiny-r1/imatrix.dat");
    let mut arguments = command(&[]);
    arguments.extend(["--imatrix".to_owned(), text(&imatrix).to_owned()]);
    let stderr = fail(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 2);
    assert!(stderr.contains("the importance matrix was none, now "), "{stderr}");
    arguments = command(&[]);
    arguments[5] = "q8_0".to_owned();
    let stderr = fail(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 2);
    assert!(stderr.contains("the recipe was q4_k_m, now q8_0"), "{stderr}");
    // The source: its configuration, then its weights.
    let config = fs::read(copy.file("config.json")).expect("read");
    copy.edit("config.json", |config| config["torch_dtype"] = "float16".into());
    with(&[], &["the checkpoint's configuration and tokenizer was "]);
    copy.write("config.json", &config);
    let shard = "model-00002-of-000004.safetensors";
    let bytes = fs::read(copy.file(shard)).expect("read");
    let mut other = bytes.clone();
    let middle = other.len() / 2;
    other[middle..].iter_mut().for_each(|byte| *byte &= 0x8f);
    copy.write(shard, &other);
    with(&[], &["the checkpoint's weights, as sampled was "]);
    copy.write(shard, &bytes);
    assert_eq!(fs::read(beside(&output, ".journal")).expect("read"), journal, "nothing was touched");

    // A file that was touched since its checkpoint was copied is the same; so is one at another place.
    let again = Copy::new();
    let mut arguments = command(&["--threads", "2"]);
    arguments[1] = text(again.path()).to_owned();
    succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &["--recipe", "q4_k_m"]);
    assert_eq!(fs::read(undisturbed).expect("read"), fs::read(&output).expect("read"));
}

#[test]
fn restart_begins_anew_whatever_is_there() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let output = folder.path().join("b.gguf");
    let run = |extra: &[&'static str]| {
        let mut arguments = vec!["quantize", text(&checkpoint), "-o", text(&output)];
        arguments.extend(extra);
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let as_text = |arguments: &[String]| arguments.iter().map(String::clone).collect::<Vec<_>>();
    let call =
        |extra: &[&'static str]| quantpress(&as_text(&run(extra)).iter().map(|s| &**s).collect::<Vec<_>>());
    let refused = |words: &str| {
        let found = call(&["--quiet"]);
        let stderr = String::from_utf8_lossy(&found.stderr).into_owned();
        assert_eq!(found.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains("--restart begins anew"), "{words}: {stderr}");
    };
    let interrupt = || {
        let _ = fs::remove_file(&output);
        let arguments = run(&SLOWLY);
        kill_midway(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &output);
    };
    let undisturbed = fs::read(quantize_fixture(folder.path(), "a.gguf", &[])).expect("read");
    let (part, journal) = (beside(&output, ".part"), beside(&output, ".journal"));

    // A journal that is damaged, that has no file, whose file has another size; a file without a journal.
    interrupt();
    let mut bytes = fs::read(&journal).expect("read");
    bytes[40] ^= 1;
    fs::write(&journal, &bytes).expect("written");
    refused("is damaged");
    fs::write(&journal, "my diary\n").expect("written");
    refused("is no journal of quantpress");
    assert!(call(&["--restart", "--quiet"]).status.success());
    assert_eq!(fs::read(&output).expect("read"), undisturbed);

    interrupt();
    fs::remove_file(&part).expect("removed");
    refused("b.gguf.part is not");
    fs::write(&part, "short").expect("written");
    refused("does not have");
    fs::remove_file(&journal).expect("removed");
    refused("b.gguf.part is");
    assert_eq!(fs::read(&part).expect("still there"), b"short");
    let found = call(&["--restart", "--json"]);
    assert_eq!(started(&String::from_utf8_lossy(&found.stdout))["done_before"], 0);
    assert_eq!(fs::read(&output).expect("read"), undisturbed);

    // Sound, but not wanted any more.
    interrupt();
    let found = call(&["--restart", "--json", "--recipe", "q8_0"]);
    assert!(found.status.success(), "{found:?}");
    assert_eq!(left(&output), ["b.gguf", "b.gguf.json"]);
    assert_eq!(
        fs::read(&output).expect("read"),
        fs::read(quantize_fixture(folder.path(), "c.gguf", &["--recipe", "q8_0"])).expect("read")
    );
}

#[test]
fn a_torn_last_record_is_tolerated() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let undisturbed = fs::read(quantize_fixture(folder.path(), "a.gguf", &[])).expect("read");
    let output = folder.path().join("b.gguf");
    let arguments = [&["quantize", text(&checkpoint), "-o", text(&output)], &SLOWLY[..]].concat();
    kill_midway(&arguments, &output);
    let journal = beside(&output, ".journal");
    let length = journal_bytes(&output);
    let file = fs::OpenOptions::new().write(true).open(&journal).expect("opened");
    file.set_len(length - 17).expect("torn");
    file.set_len(length + 100).expect("with zeros behind");
    drop(file);
    assert!(started(&succeed(&[&arguments[..], &["--json"]].concat()))["done_before"].as_u64() > Some(0));
    assert_eq!(fs::read(&output).expect("read"), undisturbed);
}
