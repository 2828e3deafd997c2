//! The command line: help that is read before it changes, exit codes, machine-readable output.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::{FAST, fail, fixture, quantize_fixture, quantpress, succeed, text};

#[test]
fn help_is_the_golden_text() {
    let mut found = String::new();
    for arguments in [
        &["--help"][..],
        &["quantize", "--help"],
        &["plan", "--help"],
        &["calibrate", "--help"],
        &["evaluate", "--help"],
        &["inspect", "--help"],
        &["verify", "--help"],
        &["report", "--help"],
        &["bench", "--help"],
        &["completions", "--help"],
        &["man", "--help"],
    ] {
        found.push_str(&format!("$ quantpress {}\n", arguments.join(" ")));
        found.push_str(&succeed(arguments));
        found.push('\n');
    }
    let golden = fixture("help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &found).expect("written");
    }
    let expected = fs::read_to_string(&golden).expect("fixtures/help.txt");
    assert_eq!(
        found, expected,
        "if the new text is right: UPDATE_GOLDEN=1 cargo test help_is_the_golden_text"
    );
}

#[test]
fn quantize_tells_programs_what_it_does() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    let checkpoint = fixture("tiny-r1");
    let stdout = succeed(&["quantize", text(&checkpoint), "-o", text(&output), "--recipe", "q8_0", "--json"]);
    let events: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!((kinds[0], kinds[1]), ("planned", "started"), "{kinds:?}");
    assert_eq!((kinds[kinds.len() - 2], kinds[kinds.len() - 1]), ("finished", "done"), "{kinds:?}");
    let size = output.metadata().expect("made").len();
    assert_eq!(events[0]["file_bytes"], size);
    let done = &events[events.len() - 1];
    assert_eq!(done["bytes"], size);
    let finished = &events[events.len() - 2];
    assert_eq!((&finished["percent"], &finished["seconds_left"]), (&100.0.into(), &0.0.into()), "{finished}");
    // Which stage was the limit, and how busy each was.
    let stages = ["read", "quantize", "write"];
    let busy = stages.map(|stage| done["busy"][stage].as_f64().expect("a share"));
    assert!(busy.iter().all(|share| (0.0..1.1).contains(share)), "{done}");
    let limit = stages.iter().position(|stage| done["limit"] == *stage).expect("one of the three");
    assert!(busy.iter().all(|share| *share <= busy[limit]), "{done}");
}

#[test]
fn quiet_says_nothing() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    let checkpoint = fixture("tiny-r1");
    let run = quantpress(&["quantize", text(&checkpoint), "-o", text(&output), "--quiet"]);
    assert!(run.status.success() && run.stdout.is_empty() && run.stderr.is_empty(), "{run:?}");
}

#[test]
fn results_go_to_stdout_and_talk_to_stderr() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    let checkpoint = fixture("tiny-r1");
    let run = quantpress(&["quantize", text(&checkpoint), "-o", text(&output), "--recipe", "q8_0"]);
    let stdout = String::from_utf8_lossy(&run.stdout);
    assert!(stdout.lines().count() == 1 && stdout.contains("out.gguf: 19.43 MB (18.53 MiB)"), "{stdout}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("million weights a second"));
}

#[test]
fn every_long_command_says_how_far_it_is_and_how_long_it_will_take() {
    let folder = TempDir::new().expect("a temporary folder");
    let (imatrix, made) = (folder.path().join("i.gguf"), folder.path().join("out.gguf"));
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let of = ["--text", text(&words), "--context", "64", "--chunks", "2"];
    let calibrate = ["calibrate", text(&checkpoint), "-o", text(&imatrix)];
    let quantize = ["quantize", text(&checkpoint), "-o", text(&made), "--feedback"];
    let evaluate = ["evaluate", text(&checkpoint), text(&made)];
    for command in [&calibrate[..], &quantize, &evaluate] {
        let run = quantpress(&[command, &of].concat());
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        let layers: Vec<&str> = said.lines().filter(|line| line.contains(" of 5: ")).collect();
        assert_eq!(layers.len(), 5, "{said}");
        let percents = layers.iter().map(|line| {
            assert!(line.ends_with(" left"), "{line}");
            line.split_once('%').expect("a percentage").0.trim().parse().expect("a number")
        });
        let percents: Vec<u32> = percents.collect();
        assert!(percents.is_sorted() && percents[4] >= 90, "{percents:?}");
    }
}

#[test]
fn inspect_shows_metadata_types_and_tensors() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "out.gguf", &[]);
    let shown = succeed(&["inspect", text(&file), "--tensors"]);
    for words in
        ["deepseek2.block_count", "1,024 values", "IQ2_XXS       1 tensors", "blk.4.ffn_down_exps.weight"]
    {
        assert!(shown.contains(words), "\"{words}\" is not in:\n{shown}");
    }
    let json: Value = serde_json::from_str(&succeed(&["inspect", text(&file), "--json"])).expect("JSON");
    assert_eq!(json["metadata"]["quantpress.recipe"], "ud-iq1_s");
    assert_eq!(json["tensors"].as_array().map(Vec::len), Some(88));
    assert_eq!(json["file_bytes"], file.metadata().expect("made").len());
}

#[test]
fn inspect_refuses_what_is_no_sound_gguf() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "out.gguf", &[]);
    let whole = fs::read(&file).expect("read");
    let refused = |bytes: &[u8], words: &str| {
        let bad = folder.path().join("bad.gguf");
        fs::write(&bad, bytes).expect("written");
        let stderr = fail(&["inspect", text(&bad)], 3);
        assert!(stderr.contains("bad.gguf") && stderr.contains(words), "\"{words}\" is not in: {stderr}");
    };
    refused(b"", "GGUF");
    refused(b"not a gguf file", "GGUF");
    refused(&whole[..100], "cannot be read");
    refused(&whole[..whole.len() - 1000], "cut short");
    fail(&["inspect", text(&folder.path().join("absent.gguf"))], 1);
}

#[test]
fn recipes_and_overrides_choose_types() {
    let folder = TempDir::new().expect("a temporary folder");
    let recipe = folder.path().join("mine.toml");
    let rules = "name = \"mine\"\nfile_type = 7\n[[rule]]\nrole = \"experts\"\nlayers = \"1-2\"\ntype = \"q4_0\"\n\
                 reason = \"a try\"\n[[rule]]\ntype = \"q8_0\"\nreason = \"all others\"\n";
    fs::write(&recipe, rules).expect("written");
    let checkpoint = fixture("tiny-r1");
    let plan = |extra: &[&str]| {
        let mut arguments = vec!["plan", text(&checkpoint), "--json", "--recipe", text(&recipe)];
        arguments.extend(extra);
        serde_json::from_str::<Value>(&succeed(&arguments)).expect("JSON")
    };
    assert_eq!(plan(&[])["types"]["Q4_0"], 6);
    let overridden = plan(&["--override", "ffn_down_exps=q6_k", "--override", "_exps=iq4_nl"]);
    assert_eq!((&overridden["types"]["Q6_K"], &overridden["types"]["IQ4_NL"]), (&4.into(), &8.into()));
}

#[test]
fn a_plan_is_drawn_in_characters() {
    let checkpoint = fixture("tiny-r1");
    let shown = succeed(&["plan", text(&checkpoint)]);
    for line in [
        "size      EEEEEEEEEEEEEEEEEEEEEEEEAAAAAAAAAAAAAAAAAAAAAAAAASSSSSSDDDDOOTRN",
        "bits      experts        .1111",
        "bits      attention      55555",
        "bits      dense-ffn      5....",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "\"{line}\" is not in:\n{shown}");
    }
    // Colours are for terminals.
    assert!(!shown.contains('\u{1b}'));
}

#[test]
fn a_machine_is_told_what_it_can_run() {
    let checkpoint = fixture("tiny-r1");
    let shown = succeed(&["plan", text(&checkpoint), "--ram", "2GB", "--ctx-size", "1000"]);
    for line in ["needs     KV cache 3.20 MB (3.05 MiB)", "disk      not read once", "-c 1000\n"] {
        assert!(shown.contains(line), "\"{line}\" is not in:\n{shown}");
    }
    let shown = succeed(&["plan", text(&checkpoint), "--ram", "20MB"]);
    let none = "no file (the smallest of this model has some 3.55 MB (3.39 MiB)) held in memory";
    assert!(shown.contains("of memory are missing") && shown.contains(none), "{shown}");
    for (arguments, words) in [
        (&["--vram", "2GB"][..], "--ram"),
        (&["--ram", "2GB", "-c", "1025"], "a context of 1025 tokens: the model was made for up to 1024"),
        (&["--ram", "2GB", "--kv-context", "0"], "--ctx-size"),
        (&["--ram", "2"], "--ram"),
        (&["--ram", "-2GB"], "is no size"),
        (&["--ram", "2GB", "--slowest", "0"], "--slowest"),
    ] {
        let stderr = fail(&[&["plan", text(&checkpoint)], arguments].concat(), 2);
        assert!(stderr.contains(words), "\"{words}\" is not in: {stderr}");
    }
}

#[test]
fn numbers_of_threads_make_sense() {
    let checkpoint = fixture("tiny-r1");
    for threads in ["0", "100000", "many"] {
        let stderr = fail(&["plan", text(&checkpoint), "--threads", threads], 2);
        assert!(stderr.contains("--threads"), "{stderr}");
    }
}

#[test]
fn bench_measures_given_rows() {
    let folder = TempDir::new().expect("a temporary folder");
    let (rows, blocks) = (folder.path().join("x.f32"), folder.path().join("blocks"));
    let write = |scale: f32| {
        let x: Vec<u8> = (0..1024).flat_map(|i| (((i * 37) % 101) as f32 * scale).to_le_bytes()).collect();
        fs::write(&rows, x).expect("written");
    };
    write(0.01);
    let bench = ["bench", "--rows", text(&rows), "--cols", "512", "--seconds", "0", "--threads", "1"];
    let arguments = [&bench[..], &["--json", "--type", "q8_0", "--blocks", text(&blocks)]].concat();
    let measured: Value = serde_json::from_str(&succeed(&arguments)).expect("JSON");
    assert_eq!((&measured["type"], &measured["threads"]), (&"Q8_0".into(), &1.into()));
    assert!(measured["nmse"].as_f64().is_some_and(|x| x < 1e-4), "{measured}");
    for field in ["mw_per_s", "gain", "unit_gain_error"] {
        assert!(measured[field].is_number(), "{field}: {measured}");
    }
    assert_eq!(blocks.metadata().expect("made").len(), 1024 / 32 * 34);
    write(0.0);
    let stderr = fail(&[&arguments[..], &["--force"]].concat(), 2);
    assert!(stderr.contains("Q8_0: the rows do not come back"), "{stderr}");
}

#[test]
fn wrong_recipes_and_overrides_are_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let refused = |extra: &[&str], words: &[&str]| {
        let mut arguments = vec!["plan", text(&checkpoint)];
        arguments.extend(extra);
        let stderr = fail(&arguments, 2);
        for word in words {
            assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
        }
    };
    refused(&["--recipe", "ud-iq0"], &["ud-iq0", "no preset", "ud-iq1_s", "bf16"]);
    refused(&["--override", "nothing_like_it=q8_0"], &["nothing_like_it=Q8_0", "matches no tensor"]);
    refused(&["--override", "output_norm=q8_0"], &["matches no tensor"]);
    refused(&["--override", "(=q8_0"], &["REGEX=TYPE", "unclosed"]);
    refused(&["--override", "a=q9"], &["unknown tensor type \"q9\"", "IQ2_XXS"]);
    let recipe = folder.path().join("bad.toml");
    for (rules, words) in [
        ("name = 1", "expected a string"),
        ("name = \"a\"\nfile_type = 1\nrule = []\nsurprise = 1", "surprise"),
        ("name = \"a\"\nfile_type = 1\n[[rule]]\nrole = \"cook\"\ntype = \"q8_0\"\nreason = \"\"", "cook"),
        (
            "name = \"a\"\nfile_type = 1\n[[rule]]\nlayers = \"last\"\ntype = \"q8_0\"\nreason = \"\"",
            "chooses no layers",
        ),
        (
            "name = \"a\"\nfile_type = 1\n[[rule]]\nrole = \"output\"\ntype = \"q8_0\"\nreason = \"\"",
            "no rule matches",
        ),
    ] {
        fs::write(&recipe, rules).expect("written");
        refused(&["--recipe", text(&recipe)], &[words]);
    }
}

#[test]
fn shells_and_manual_readers_know_every_command() {
    let folder = TempDir::new().expect("a temporary folder");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeed(&["completions", shell]);
        for word in ["quantize", "calibrate", "imatrix", "sensitivity"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    succeed(&["man", text(folder.path())]);
    for command in
        ["quantize", "plan", "calibrate", "evaluate", "inspect", "verify", "report", "bench", "man"]
    {
        let page = folder.path().join(format!("quantpress-{command}.1"));
        let page = fs::read_to_string(&page).expect("a page");
        assert!(page.contains(".SH SYNOPSIS") && page.contains(".SH OPTIONS"), "{command}");
    }
    let absent = folder.path().join("absent");
    assert!(fail(&["man", text(&absent)], 1).contains("no such folder"));
    assert!(fail(&["completions", "sh"], 2).contains("possible values"));
    let version = succeed(&["--version"]);
    assert!(version.starts_with("quantpress 0.1.0\n") && version.contains("instructions: "), "{version}");
    assert_eq!(succeed(&["-V"]), "quantpress 0.1.0\n");
}

#[test]
fn variables_stand_in_for_options() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    for (threads, memory, words) in
        [("0", "1GB", "'0' for '--threads"), ("2", "100KB", "--memory is 100000 bytes")]
    {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantpress"));
        command.env("QUANTPRESS_THREADS", threads).env("QUANTPRESS_MEMORY", memory);
        let run = command.args(["quantize", text(&fixture("tiny-r1")), "-o", text(&output)]).output();
        let run = run.expect("the program starts");
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.code() == Some(2) && stderr.contains(words), "{stderr}");
    }
}

#[test]
fn verbose_says_what_is_decided_and_twice_every_piece() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, output) = (fixture("tiny-r1"), folder.path().join("out.gguf"));
    let run = |more: &[&str]| {
        let arguments = ["quantize", text(&checkpoint), "-o", text(&output), "-r", "q8_0", "--force", "-q"];
        let run = quantpress(&[&arguments[..], more].concat());
        assert!(run.status.success() && run.stdout.is_empty());
        String::from_utf8(run.stderr).expect("UTF-8")
    };
    let [nothing, some, all] = [run(&[]), run(&["-v"]), run(&["-vv"])];
    assert_eq!(nothing, "");
    assert!(some.contains("checkpoint shards=4") && !some.contains("piece tensor"), "{some}");
    assert!(all.contains("piece tensor=\"output.weight\""), "{all}");
}

#[test]
fn with_json_an_error_is_the_last_event() {
    let copy = Copy::new();
    let expert = "model.layers.2.mlp.experts.5.up_proj.weight";
    // No number in E4M3.
    copy.edit_shard(expert, |shard| shard.tensor(expert)[7] = 0x7f);
    let output = copy.file("out.gguf");
    let run = quantpress(&["quantize", text(copy.path()), "-o", text(&output), "-r", FAST, "--json"]);
    assert_eq!(run.status.code(), Some(3));
    let stdout = String::from_utf8(run.stdout).expect("UTF-8");
    let events: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    assert_eq!((&events[0]["event"], &events[0]["schema"]), (&"planned".into(), &1.into()));
    let error = events.last().expect("events");
    assert_eq!(
        (&error["event"], &error["schema"], &error["exit_code"]),
        (&"error".into(), &1.into(), &3.into())
    );
    assert_eq!(
        (error["file"].as_str(), error["tensor"].as_str()),
        (Some(&*copy.shard_of(expert)), Some(expert))
    );
    assert!(error["message"].as_str().is_some_and(|message| message.contains(expert)), "{error}");
    // Of commands that print one object, too.
    let run = quantpress(&["plan", text(&copy.file("elsewhere")), "--json"]);
    let error: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!((&error["event"], &error["exit_code"]), (&"error".into(), &2.into()));
}
