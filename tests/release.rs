//! Files that go to a hub as they are made: the bytes of local ones, whatever goes wrong on the way, never by half, and never
//! more than two on this machine's disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::support::bench::{Bench, failed, succeeded};
use crate::support::hub::{commit, files};
#[cfg(unix)]
use crate::support::interrupted::{SLOWLY, stopped_in};
use crate::support::{FAST, fixture, hex, quantize_fixture, text};

/// A hub with an empty repository, and a folder for files on their way.
fn hub() -> (Bench, PathBuf) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join(".gitattributes"), "*.gguf filter=lfs\n").expect("written");
    let mut bench = Bench::serving(folder.path());
    let staging = bench.at("staging");
    fs::create_dir(&staging).expect("a folder");
    bench.keep(folder);
    (bench, staging)
}

/// Arguments of a release of the fixture in three files.
fn arguments<'a>(checkpoint: &'a Path, staging: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let all = ["quantize", text(checkpoint), "-o", "hf://tiny/R1/q8/tiny.gguf", "-r", FAST, "--split", "3"];
    [&all[..], &["--staging", text(staging), "--drop"], more].concat()
}

const NAMES: [&str; 3] = ["tiny-00001-of-00003.gguf", "tiny-00002-of-00003.gguf", "tiny-00003-of-00003.gguf"];

/// The files that the same command makes on this machine.
fn expected(folder: &Path) -> Vec<Vec<u8>> {
    quantize_fixture(folder, "tiny.gguf", &["-r", FAST, "--split", "3"]);
    NAMES.iter().map(|name| fs::read(folder.join(name)).expect("read")).collect()
}

/// Every commit has whole files alone, each with its manifest, and the last has all of them.
#[track_caller]
fn assert_released(bench: &Bench) {
    let expected = expected(bench.folder.path());
    let commits = bench.hub.state.commits.lock().expect("sound").clone();
    for (sha, folder) in &commits {
        for file in files(folder).into_iter().filter(|file| file.extension().is_some_and(|end| end == "gguf"))
        {
            let name = file.file_name().expect("a name").to_str().expect("UTF-8");
            let which = NAMES.iter().position(|known| *known == name).expect("one of the three");
            assert!(fs::read(&file).expect("read") == expected[which], "{sha}: {name}");
            let manifest = fs::read_to_string(format!("{}.json", file.display())).expect("it is beside it");
            assert!(manifest.contains(&hex(&expected[which])), "{sha}: {name}");
        }
    }
    let last = &commits.last().expect("a commit").1;
    assert!(NAMES.iter().all(|name| last.join("q8").join(name).exists()), "{:?}", files(last));
}

fn commits(bench: &Bench) -> usize {
    bench.hub.state.commits.lock().expect("sound").len()
}

#[test]
fn a_split_is_uploaded_file_by_file_and_two_lie_here_at_most() {
    let (bench, staging) = hub();
    let checkpoint = fixture("tiny-r1");
    *bench.hub.state.token.lock().expect("sound") = Some("hf_secret".into());
    *bench.hub.state.watched.lock().expect("sound") = Some(staging.clone());
    let run = |more: &[&str]| {
        let mut command = bench.command();
        command.env("HF_TOKEN", "hf_secret").args(arguments(&checkpoint, &staging, more));
        succeeded(&command.output().expect("it starts"))
    };
    let (stdout, stderr) = run(&[]);
    assert!(stdout.contains("hf://tiny/R1/q8/tiny.gguf: 3 files") && stdout.contains("uploaded"), "{stdout}");
    assert!(stderr.contains("uploaded tiny-00002-of-00003.gguf"), "{stderr}");
    assert_released(&bench);
    assert_eq!(commits(&bench), 4, "one for each file");
    assert!(!bench.hub.state.leaked.load(Ordering::Relaxed), "the token is the hub's alone");
    let most = bench.hub.state.most.load(Ordering::Relaxed);
    assert!((1..=2).contains(&most), "{most} files lay here at once");
    assert!(files(&staging).is_empty(), "{:?}", files(&staging));
    let last = bench.hub.state.commits.lock().expect("sound").last().expect("a commit").1.clone();
    let card = fs::read_to_string(last.join("q8/README.md")).expect("a card");
    assert!(card.contains("| tiny-00003-of-00003.gguf |") && card.contains("| recipe | q8_0 |"), "{card}");
    // What is there is neither made nor sent again, on whatever machine.
    let (stdout, _) = run(&["--json"]);
    assert!(
        stdout.contains("\"already_made\":true") && !stdout.contains("\"event\":\"started\""),
        "{stdout}"
    );
    assert_eq!(commits(&bench), 4);
}

#[test]
fn whatever_fails_is_tried_again() {
    let (bench, staging) = hub();
    bench.hub.state.fails.store(4, Ordering::Relaxed);
    // Six parts of a file.
    bench.hub.state.part.store(1 << 20, Ordering::Relaxed);
    succeeded(&bench.run(&arguments(&fixture("tiny-r1"), &staging, &["-q"])));
    assert_released(&bench);
}

#[cfg(unix)]
#[test]
fn killed_at_any_moment_it_goes_on() {
    let (bench, staging) = hub();
    bench.hub.state.part.store(1 << 20, Ordering::Relaxed);
    let checkpoint = fixture("tiny-r1");
    let arguments = arguments(&checkpoint, &staging, &[]);
    // While the first is made, while it is sent, before and after its commit, and so on: each run goes on a little.
    for moment in [
        "recorded:5",
        "sent:1",
        "committing:1",
        "uploaded:1",
        "sent:2",
        "committing:1",
        "uploaded:1",
        "sent:3",
    ] {
        let mut command = bench.command();
        let run =
            command.env("QUANTPRESS_AT", format!("{moment}:kill")).args(&arguments).args(SLOWLY).output();
        let run = run.expect("it starts");
        assert!(
            run.status.code().is_none(),
            "it ended before {moment}: {}",
            String::from_utf8_lossy(&run.stderr)
        );
    }
    let made = commits(&bench);
    succeeded(&bench.run(&arguments));
    assert!(commits(&bench) > made);
    assert_released(&bench);
    assert!(files(&staging).is_empty(), "{:?}", files(&staging));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_upload_and_what_is_made_is_kept() {
    let (bench, staging) = hub();
    bench.hub.state.part.store(1 << 20, Ordering::Relaxed);
    let checkpoint = fixture("tiny-r1");
    let arguments = arguments(&checkpoint, &staging, &[]);
    let mut command = bench.command();
    command.args(&arguments);
    let run = stopped_in(command, "sent", 2).go_on_with("INT").wait_with_output();
    failed(&run.expect("ended"), 130, &["interrupted", "kept beside", "the same command goes on"]);
    // The commit that comes next may be on its way before the thread that waits for signals has told of this one.
    let made = commits(&bench);
    assert!(staging.join(NAMES[0]).exists() && (1..=2).contains(&made), "{made} commits");
    succeeded(&bench.run(&arguments));
    assert_released(&bench);
    assert!(commits(&bench) > made);
}

#[cfg(unix)]
#[test]
fn a_branch_may_move_meanwhile() {
    let (bench, staging) = hub();
    let mut command = bench.command();
    command.args(arguments(&fixture("tiny-r1"), &staging, &[]));
    let stopped = stopped_in(command, "committing", 2);
    let other = tempfile::TempDir::new().expect("a temporary folder");
    let last = bench.hub.state.commits.lock().expect("sound").last().expect("a commit").1.clone();
    for file in files(&last) {
        let path = other.path().join(file.strip_prefix(&last).expect("in it"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::copy(file, path).expect("copied");
    }
    fs::write(other.path().join("notes.md"), "of somebody else").expect("written");
    bench.hub.state.commits.lock().expect("sound").push((commit(0xee), other.path().to_owned()));
    succeeded(&stopped.go_on().wait_with_output().expect("ended"));
    assert_released(&bench);
    let last = bench.hub.state.commits.lock().expect("sound").last().expect("a commit").1.clone();
    assert!(last.join("notes.md").exists());
}

#[test]
fn what_will_not_be_taken_is_refused_before_the_work() {
    let (bench, staging) = hub();
    let checkpoint = fixture("tiny-r1");
    let arguments = arguments(&checkpoint, &staging, &[]);
    bench.hub.state.read_only.store(true, Ordering::Relaxed);
    failed(
        &bench.run(&arguments),
        1,
        &["hf://tiny/R1/q8/tiny.gguf", "403", "this token only reads", "may write"],
    );
    assert!(files(&staging).is_empty());
    bench.hub.state.read_only.store(false, Ordering::Relaxed);
    // A file of other work.
    let other =
        ["quantize", text(&checkpoint), "-o", "hf://tiny/R1/q8/tiny.gguf", "-r", "q6_k", "--split", "3"];
    let other = [&other[..], &["--staging", text(&staging), "--drop", "-q"]].concat();
    succeeded(&bench.run(&other));
    let before = commits(&bench);
    failed(
        &bench.run(&arguments),
        2,
        &["hf://tiny/R1/q8/tiny-00001-of-00003.gguf is there already; --force"],
    );
    assert_eq!(commits(&bench), before);
    succeeded(&bench.run(&[&arguments[..], &["--force"]].concat()));
    let expected = expected(bench.folder.path());
    let last = bench.hub.state.commits.lock().expect("sound").last().expect("a commit").1.clone();
    for (name, expected) in NAMES.iter().zip(expected) {
        assert!(fs::read(last.join("q8").join(name)).expect("read") == expected);
    }
    failed(
        &bench.run(&["quantize", text(&checkpoint), "-o", "hf://tiny/R1"]),
        2,
        &["hf://org/name/FILE.gguf"],
    );
    let absent = ["quantize", text(&checkpoint), "-o", "hf://tiny/absent/a.gguf"];
    failed(&bench.run(&absent), 1, &["RepoNotFound", "hf repo create tiny/absent"]);
    let local = bench.at("a.gguf");
    let local = ["quantize", text(&checkpoint), "-o", text(&local), "--drop"];
    failed(&bench.run(&local), 2, &["--drop is for files that are uploaded"]);
}

#[test]
fn a_card_of_ones_own_and_what_is_not_dropped() {
    let (bench, staging) = hub();
    let checkpoint = fixture("tiny-r1");
    let (output, template) = ("hf://tiny/R1/tiny.gguf", bench.at("card.md"));
    fs::write(&template, "# {{ title }} by {{ recipe }}, {{ files[0].bytes }}\n").expect("written");
    let run = [
        "quantize",
        text(&checkpoint),
        "-o",
        output,
        "-r",
        FAST,
        "--staging",
        text(&staging),
        "--name",
        "Tiny",
    ];
    succeeded(&bench.run(&[&run[..], &["--card", text(&template), "-q"]].concat()));
    let last = bench.hub.state.commits.lock().expect("sound").last().expect("a commit").1.clone();
    let bytes = fs::read(last.join("tiny.gguf")).expect("read");
    let card = fs::read_to_string(last.join("README.md")).expect("read");
    assert_eq!(card, format!("# Tiny by q8_0, {}\n", bytes.len()));
    assert!(fs::read(staging.join("tiny.gguf")).expect("it stays") == bytes);
    fs::write(&template, "{{ titel }}").expect("written");
    failed(
        &bench.run(&[&run[..], &["--card", text(&template), "--force"]].concat()),
        2,
        &["--card", "undefined"],
    );
}

/// With feedback a layer is made on those before it: all files are made, then sent.
#[test]
fn errors_are_fed_back_before() {
    let (bench, staging) = hub();
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let more = ["-q", "--feedback", "--text", text(&words), "--context", "64", "--chunks", "2"];
    succeeded(&bench.run(&arguments(&checkpoint, &staging, &more)));
    quantize_fixture(bench.folder.path(), "tiny.gguf", &[&["-r", FAST, "--split", "3"], &more[1..]].concat());
    let last = bench.hub.state.commits.lock().expect("sound").last().expect("a commit").1.clone();
    for name in NAMES {
        let expected = fs::read(bench.at(name)).expect("read");
        assert!(fs::read(last.join("q8").join(name)).expect("read") == expected);
    }
    assert!(files(&staging).is_empty());
}
