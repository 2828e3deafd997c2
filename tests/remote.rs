//! Checkpoints of a hub and of a web server: the same bytes as from disk, whatever goes wrong on the way, and nothing on
//! this machine's disk.

use std::fs;
use std::sync::atomic::Ordering;

use serde_json::Value;

use crate::support::bench::{ADDRESS, Bench, failed, succeeded};
use crate::support::checkpoint::Copy;
use crate::support::hub::{commit, web};
#[cfg(unix)]
use crate::support::interrupted::{SLOWLY, stopped_in};
use crate::support::{FAST, fixture, quantize_fixture, text};

#[test]
fn the_bytes_are_those_of_the_local_checkpoint() {
    let bench = Bench::serving(&fixture("tiny-r1"));
    *bench.hub.state.token.lock().expect("sound") = Some("hf_secret".into());
    let output = bench.at("a.gguf");
    let arguments = ["quantize", ADDRESS, "-o", text(&output), "-r", FAST, "-q"];
    let mut command = bench.command();
    succeeded(&command.env("HF_TOKEN", "hf_secret").args(arguments).output().expect("it starts"));
    assert!(fs::read(&output).expect("read") == bench.expected());
    assert!(!bench.hub.state.leaked.load(Ordering::Relaxed), "the token is the hub's alone");
    // Shards come once, and nothing is kept of them.
    let shards: u64 = fs::read_dir(fixture("tiny-r1"))
        .expect("read")
        .map(|file| file.expect("a file").metadata().expect("there").len())
        .sum();
    let sent = bench.hub.state.sent.load(Ordering::Relaxed);
    assert!(sent < shards + shards / 4, "{sent} of {shards}");
    assert!(!bench.at("home").exists());
    let checked = bench
        .command()
        .env("HF_TOKEN", "hf_secret")
        .args(["verify", text(&output), "--against", ADDRESS])
        .output();
    succeeded(&checked.expect("it starts"));
}

#[test]
fn gguf_files_are_read_where_they_are() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    fs::create_dir(folder.path().join("q8")).expect("a folder");
    let source = quantize_fixture(&folder.path().join("q8"), "tiny.gguf", &["-r", FAST, "--split", "3"]);
    let any = source.with_file_name("tiny-00002-of-00003.gguf");
    let bench = Bench::serving(folder.path());
    let made = |from: &str, name: &str| {
        let output = bench.at(name);
        let arguments = ["quantize", from, "-o", text(&output), "-r", "q4_k_m", "--allow-requantize", "-q"];
        succeeded(&bench.run(&arguments));
        fs::read(output).expect("read")
    };
    let expected = made(text(&any), "here.gguf");
    assert!(made("hf://tiny/R1/q8/tiny-00002-of-00003.gguf", "hub.gguf") == expected);
    let address = web(&folder.path().join("q8"));
    assert!(made(&format!("{address}/tiny-00003-of-00003.gguf"), "web.gguf") == expected);

    fs::remove_file(source.with_file_name("tiny-00003-of-00003.gguf")).expect("removed");
    for (from, place) in
        [(text(&any), text(&any)), ("hf://tiny/R1/q8/tiny-00001-of-00003.gguf", "hf://tiny/R1@")]
    {
        let words = [place, "is one of a split, whose file", "tiny-00003-of-00003.gguf is not there"];
        failed(&bench.run(&["plan", from, "--allow-requantize"]), 3, &words);
    }
    failed(&bench.run(&["plan", "hf://tiny/R1/q8/other.gguf"]), 1, &["q8/other.gguf"]);
}

#[test]
fn whatever_fails_is_tried_again() {
    let bench = Bench::serving(&fixture("tiny-r1"));
    // Every fourth request, in four ways, and addresses that expire after five uses.
    bench.hub.state.fails.store(4, Ordering::Relaxed);
    bench.hub.state.uses.store(5, Ordering::Relaxed);
    assert!(bench.quantize("a.gguf", &[]) == bench.expected());
    assert!(bench.hub.state.requests.load(Ordering::Relaxed) > 20);
}

#[cfg(unix)]
#[test]
fn killed_it_goes_on_though_the_branch_has_moved() {
    let copy = Copy::new();
    let bench = Bench::serving(copy.path());
    let output = bench.at("a.gguf");
    let mut arguments = vec!["quantize", ADDRESS, "-o", text(&output), "-r", FAST, "--json"];
    // Room for what is read ahead besides.
    arguments.extend(SLOWLY.map(|argument| if argument == "6MB" { "90MB" } else { argument }));
    let killed = || {
        let run = bench.command().env("QUANTPRESS_AT", "recorded:30:kill").args(&arguments).output();
        assert!(run.expect("it starts").status.code().is_none(), "it ended too soon");
    };
    killed();
    // Another commit, of a README alone.
    let next = Copy::new();
    next.write("README.md", b"# Tiny");
    bench.hub.state.commits.lock().expect("sound").push((commit(0xa2), next.path().to_owned()));
    let (stdout, stderr) = succeeded(&bench.run(&arguments));
    assert!(!stdout.contains("\"done_before\":0") && !stderr.contains("warning"), "{stdout}{stderr}");
    assert!(fs::read(&output).expect("read") == bench.expected());
    // And one of other weights: what was made of that shard is made again, and said.
    fs::remove_file(&output).expect("removed");
    fs::remove_file(bench.at("a.gguf.json")).expect("removed");
    killed();
    let other = Copy::new();
    let expert = "model.layers.4.mlp.experts.9.up_proj.weight";
    other.edit_shard(expert, |shard| shard.tensor(expert)[1000..1100].fill(0x38));
    bench.hub.state.commits.lock().expect("sound").push((commit(0xa3), other.path().to_owned()));
    let (_, stderr) = succeeded(&bench.run(&arguments));
    assert!(stderr.contains("since this work began") && stderr.contains(&other.shard_of(expert)), "{stderr}");
    let expected = bench.at("other.gguf");
    crate::support::succeed(&["quantize", text(other.path()), "-o", text(&expected), "-r", FAST, "-q"]);
    assert!(fs::read(&output).expect("read") == fs::read(expected).expect("read"));
    // The first commit is still to be had.
    let first = bench.at("first.gguf");
    let named = format!("{ADDRESS}@{}", commit(0xa1));
    succeeded(&bench.run(&["quantize", &named, "-o", text(&first), "-r", FAST, "-q"]));
    assert!(fs::read(first).expect("read") == bench.expected());
}

/// However long the server wants to be waited for.
#[cfg(unix)]
#[test]
fn nothing_is_waited_for_after_ctrl_c() {
    let bench = Bench::serving(&fixture("tiny-r1"));
    bench.hub.state.fails.store(1, Ordering::Relaxed);
    let mut command = bench.command();
    command.args(["plan", ADDRESS]);
    let run = stopped_in(command, "waits", 1).go_on_with("INT").wait_with_output();
    failed(&run.expect("ended"), 130, &["interrupted"]);
    assert_eq!(bench.hub.state.requests.load(Ordering::Relaxed), 1);
}

#[cfg(unix)]
#[test]
fn a_hub_that_does_not_answer_is_told_of_before_the_last_try() {
    let bench = Bench::serving(&fixture("tiny-r1"));
    bench.hub.state.fails.store(1, Ordering::Relaxed);
    let mut command = bench.command();
    command.args(["plan", ADDRESS]);
    let run = stopped_in(command, "waits", 3).go_on_with("INT").wait_with_output();
    failed(&run.expect("ended"), 130, &["tried again, up to 8 times", "interrupted"]);
}

/// Some mirrors redirect nothing, so that files beyond what is read at once come from them as small ones do.
#[test]
fn large_files_of_a_mirror_that_redirects_nothing_are_read_in_ranges() {
    let copy = Copy::new();
    let mut tokenizer = fs::read(fixture("tiny-r1/tokenizer.json")).expect("read");
    tokenizer.resize(17 << 20, b' ');
    copy.write("tokenizer.json", &tokenizer);
    let bench = Bench::serving(copy.path());
    bench.hub.state.large_tokenizer.store(false, Ordering::Relaxed);
    let (far, _) = succeeded(&bench.run(&["plan", ADDRESS, "--json"]));
    let (near, _) = succeeded(&bench.run(&["plan", text(copy.path()), "--json"]));
    let [far, near] = [far, near].map(|plan| serde_json::from_str::<Value>(&plan).expect("JSON"));
    assert_eq!(far["tensor_list"], near["tensor_list"]);
}

#[test]
fn a_text_runs_through_it() {
    let bench = Bench::serving(&fixture("tiny-r1"));
    let [far, near] = ["far.gguf", "near.gguf"].map(|name| bench.at(name));
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    for (address, output) in [(ADDRESS, &far), (text(&checkpoint), &near)] {
        let arguments = ["calibrate", address, "-o", text(output), "--text", text(&words), "-q"];
        succeeded(&bench.run(&[&arguments[..], &["--context", "64", "--chunks", "1"]].concat()));
    }
    assert!(fs::read(far).expect("read") == fs::read(near).expect("read"));
}

#[test]
fn with_a_cache_blocks_come_once() {
    let bench = Bench::serving(&fixture("tiny-r1"));
    let cache = bench.at("cache");
    let sent_for = |name: &str, more: &[&str]| {
        let before = bench.hub.state.sent.load(Ordering::Relaxed);
        assert!(bench.quantize(name, more) == bench.expected());
        bench.hub.state.sent.load(Ordering::Relaxed) - before
    };
    let with_cache = ["--cache", text(&cache)];
    let [first, again] = ["a.gguf", "b.gguf"].map(|name| sent_for(name, &with_cache));
    // Headers and norms are asked for anew.
    assert!(again < first / 5, "{again} after {first}");
    let kept = || -> u64 {
        let files = fs::read_dir(&cache).expect("a folder");
        files.map(|file| file.expect("a file").metadata().expect("there").len()).sum()
    };
    assert!(kept() > first / 2 && kept() < first + (1 << 20), "{} of {first}", kept());
    // A block that rots on the disk is asked for again.
    for file in fs::read_dir(&cache).expect("a folder") {
        let path = file.expect("a file").path();
        let mut bytes = fs::read(&path).expect("read");
        bytes[0] ^= 1;
        fs::write(path, bytes).expect("written");
    }
    assert!(sent_for("c.gguf", &with_cache) > first / 2);
    // Room for less than a block.
    let none = bench.at("none");
    sent_for("d.gguf", &["--cache", text(&none), "--cache-size", "1MB"]);
    assert_eq!(fs::read_dir(&none).expect("a folder").count(), 1, "but for the tag");
    let file = bench.at("a.gguf");
    failed(&bench.run(&["plan", ADDRESS, "--cache", text(&file)]), 1, &["--cache", text(&file)]);
}

#[test]
fn a_folder_of_a_web_server_is_read_as_well() {
    let bench = Bench::serving(&fixture("tiny-r1"));
    let address = web(&fixture("tiny-r1"));
    let output = bench.at("a.gguf");
    succeeded(&bench.run(&["quantize", &address, "-o", text(&output), "-r", FAST, "-q"]));
    assert!(fs::read(&output).expect("read") == bench.expected());
    let absent = format!("{address}/elsewhere");
    failed(&bench.run(&["plan", &absent]), 1, &["elsewhere/config.json", "cannot read"]);
}

#[test]
fn what_the_hubs_own_programs_have_is_read_there() {
    let bench = Bench::serving(&fixture("tiny-r1"));
    let cache = bench.at("home/hub/models--tiny--R1");
    let snapshot = cache.join("snapshots").join(commit(0xa1));
    fs::create_dir_all(&snapshot).expect("folders");
    fs::create_dir_all(cache.join("refs")).expect("folders");
    fs::write(cache.join("refs/main"), commit(0xa1)).expect("written");
    let copied = |file: &str| fs::copy(fixture("tiny-r1").join(file), snapshot.join(file)).expect("copied");
    // Half of the shards are here.
    for file in ["model-00001-of-000004.safetensors", "model-00003-of-000004.safetensors"] {
        copied(file);
    }
    assert!(bench.quantize("a.gguf", &[]) == bench.expected());
    let sent = bench.hub.state.sent.load(Ordering::Relaxed);
    assert!(sent < 15_000_000, "{sent} bytes were sent");
    // All of them, and no hub.
    for file in fs::read_dir(fixture("tiny-r1")).expect("read") {
        copied(&file.expect("a file").file_name().into_string().expect("a name"));
    }
    let output = bench.at("b.gguf");
    let mut command = bench.command();
    command.env("HF_HUB_OFFLINE", "1").env("HF_ENDPOINT", "http://127.0.0.1:9");
    succeeded(
        &command
            .args(["quantize", ADDRESS, "-o", text(&output), "-r", FAST, "-q"])
            .output()
            .expect("it starts"),
    );
    assert!(fs::read(&output).expect("read") == bench.expected());
    let run = bench.command().env("HF_HUB_OFFLINE", "1").args(["plan", "hf://tiny/other"]).output();
    failed(&run.expect("it starts"), 1, &["hf://tiny/other", "HF_HUB_OFFLINE"]);
}

#[test]
fn errors_say_what_a_user_can_do() {
    let bench = Bench::serving(&fixture("tiny-r1"));
    failed(&bench.run(&["plan", "hf://tiny"]), 2, &["hf://org/name"]);
    failed(
        &bench.run(&["plan", "hf://tiny/R1@v9"]),
        1,
        &["hf://tiny/R1@v9", "RevisionNotFound", "no such repository"],
    );
    failed(&bench.run(&["plan", "hf://tiny/other"]), 1, &["RepoNotFound", "HF_TOKEN"]);
    // A name without its scheme, where no folder has it.
    failed(&bench.run(&["plan", "tiny/R1"]), 2, &["of the hub would be hf://tiny/R1"]);
    *bench.hub.state.token.lock().expect("sound") = Some("hf_secret".into());
    failed(&bench.run(&["plan", ADDRESS]), 1, &["401", "GatedRepo", "HF_TOKEN"]);
    let wrong = bench.command().env("HF_TOKEN", "hf_other").args(["plan", ADDRESS]).output();
    failed(&wrong.expect("it starts"), 1, &["403", "GatedRepo", "page says how"]);
    // The token of hf auth login.
    fs::create_dir_all(bench.at("home")).expect("a folder");
    fs::write(bench.at("home/token"), "hf_secret\n").expect("written");
    let (stdout, _) = succeeded(&bench.run(&["plan", ADDRESS, "--json"]));
    let plan: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(plan["tensors"], 88);
}
