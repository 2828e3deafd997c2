//! Interrupted runs: killed, stopped, out of space, with a source that breaks; each goes on and ends in the same bytes.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::Child;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::interrupted::{
    SLOWLY, SmallDisk, beside, journal_bytes, kill_midway, killed_at, stopped_at,
};
use crate::support::{FAST, fail, fixture, hex, quantize_fixture, quantpress, succeed, text};

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
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &["-r", FAST, "--imatrix", text(&imatrix)]);
    let output = folder.path().join("b.gguf");
    let mut arguments = vec![
        "quantize",
        text(&checkpoint),
        "-r",
        FAST,
        "-o",
        text(&output),
        "--imatrix",
        text(&imatrix),
        "--quiet",
    ];
    arguments.extend(SLOWLY);
    let mut state = 4;
    let mut sizes = Vec::new();
    for kill in 0..25 {
        // A few pieces in most runs, killed when they are recorded or in the midst of that; every fifth run is killed
        // while it looks at what is there.
        let (moment, count) = match kill % 5 {
            4 => ("opened", 1),
            3 => ("recording", 1 + random(&mut state) % 8),
            _ => ("recorded", 1 + random(&mut state) % 8),
        };
        assert!(killed_at(&arguments, moment, count), "kill {kill} came too late");
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
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &["-r", FAST, "--split", "3"]);
    let output = folder.path().join("b.gguf");
    let mut arguments =
        vec!["quantize", text(&checkpoint), "-r", FAST, "-o", text(&output), "--split", "3", "--quiet"];
    arguments.extend(["--sync-seconds", "0"]);
    // As long as the journal is there, the work is not over.
    for (moment, count) in [("sealed", 1), ("renamed", 1), ("renamed", 2), ("told", 2)] {
        assert!(killed_at(&arguments, moment, count), "{moment} {count}");
        assert!(beside(&output, ".journal").exists(), "{moment} {count}");
    }
    succeed(&arguments);
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
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &["-r", FAST]);
    let output = folder.path().join("b.gguf");
    let arguments =
        [&["quantize", text(&checkpoint), "-r", FAST, "-o", text(&output), "--json"], &SLOWLY[..]].concat();
    for name in ["INT", "TERM"] {
        let (code, stderr) = stderr(stopped_at(&arguments, "recorded", 20).go_on_with(name));
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
    assert!(size > 6_000_000);
    for words in ["b.gguf has", "are needed", "bytes are missing"] {
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
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &["-r", FAST]);
    let output = folder.path().join("b.gguf");
    let copy = Copy::new();
    let last = "model-00004-of-000004.safetensors";
    let bytes = fs::read(copy.file(last)).expect("read");
    copy.write(last, &bytes);
    let arguments = [&["quantize", text(copy.path()), "-r", FAST, "-o", text(&output)], &SLOWLY[..]].concat();
    let stopped = stopped_at(&arguments, "recorded", 10);
    fs::OpenOptions::new().write(true).open(copy.file(last)).expect("opened").set_len(20_000).expect("cut");
    let (code, stderr) = stderr(stopped.go_on());
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
    let whole =
        [&["quantize", text(&checkpoint), "-r", FAST, "-o", text(&output), "--split", "3"], &SLOWLY[..]]
            .concat();
    let first = stopped_at(&whole, "recorded", 20);
    let part = ["quantize", text(&checkpoint), "-r", FAST, "-o", text(&output), "--part", "2/3"];
    for (arguments, restart) in [(&whole[..], false), (&whole, true), (&part, false), (&part, true)] {
        let arguments = [arguments, if restart { &["--restart"] } else { &[] }].concat();
        let stderr = fail(&arguments, 1);
        // The part's own journal does not exist, so to it the file is another's.
        assert!(stderr.contains("is being written by another process"), "{stderr}");
    }
    assert_eq!(stderr(first.go_on()).0, Some(0));
    let hashes = |folder: &Path| {
        let names = (1..=3).map(|number| folder.join(format!("a-0000{number}-of-00003.gguf")));
        names.map(|name| hex(&fs::read(name).expect("read"))).collect::<Vec<_>>()
    };
    let found = hashes(folder.path());
    let other = TempDir::new().expect("a temporary folder");
    quantize_fixture(other.path(), "a.gguf", &["-r", FAST, "--split", "3"]);
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

    // A journal whose head is damaged; a journal that is none; a file without a journal, and one of somebody else's.
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
    fs::write(&part, "another program's").expect("written");
    refused("tells of other contents than");
    assert_eq!(fs::read(&part).expect("still there"), b"another program's");
    fs::remove_file(&journal).expect("removed");
    refused("b.gguf.part is");
    assert_eq!(fs::read(&part).expect("still there"), b"another program's");
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
fn restart_in_another_division_leaves_nothing_of_the_old_one() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let output = folder.path().join("b.gguf");
    let run = |more: &[&str]| -> Vec<String> {
        let all = [&["quantize", text(&checkpoint), "-o", text(&output), "-r", "q8_0", "-q"], more].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let names = || {
        let names = fs::read_dir(folder.path()).expect("read").map(|file| file.expect("a file").file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().expect("a name")).collect();
        names.retain(|name| !name.ends_with(".gguf") && !name.ends_with(".gguf.json"));
        names.sort();
        names
    };
    let killed = |more: &[&str]| {
        let all = run(&[more, &SLOWLY[..]].concat());
        assert!(killed_at(&all.iter().map(String::as_str).collect::<Vec<_>>(), "recorded", 1));
    };
    let done = |more: &[&str]| {
        let all = run(more);
        succeed(&all.iter().map(String::as_str).collect::<Vec<_>>());
    };
    killed(&["--split", "3"]);
    assert_eq!(names().len(), 4);
    // Of another run, which is not restarted.
    killed(&["--part", "5/5"]);
    let others = ["b-00005-of-00005.gguf.journal", "b-00005-of-00005.gguf.part"];
    done(&["--restart", "--split", "2"]);
    assert_eq!(names(), others);
    killed(&[]);
    done(&["--restart", "--force", "--split", "2"]);
    assert_eq!(names(), others);
    // A part has a journal of its own, which tells of nothing when its file is taken over.
    done(&["--restart", "--split", "5"]);
    assert_eq!(names(), [""; 0]);
}

#[test]
fn torn_and_damaged_records_are_pieces_to_be_made_again() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let undisturbed = fs::read(quantize_fixture(folder.path(), "a.gguf", &["-r", FAST])).expect("read");
    let output = folder.path().join("b.gguf");
    let arguments = [&["quantize", text(&checkpoint), "-r", FAST, "-o", text(&output)], &SLOWLY[..]].concat();
    kill_midway(&arguments, &output);
    let journal = beside(&output, ".journal");
    let length = journal_bytes(&output);
    let file = fs::OpenOptions::new().write(true).open(&journal).expect("opened");
    file.set_len(length - 17).expect("torn");
    file.set_len(length + 100).expect("with zeros behind");
    drop(file);
    let mut bytes = fs::read(&journal).expect("read");
    let record = length as usize - 30 * 68;
    bytes[record] ^= 1;
    fs::write(&journal, bytes).expect("written");
    // Half of what is kept is looked at by another kill: what is appended to such a journal is read again.
    assert!(killed_at(&arguments, "recorded", 5));
    let begun = started(&succeed(&[&arguments[..], &["--json"]].concat()));
    assert!(begun["done_before"].as_u64() > Some(0), "{begun}");
    assert_eq!(fs::read(&output).expect("read"), undisturbed);
}

/// What the file has lost, and how it is put there.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn what_the_disk_has_lost_is_made_again() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let undisturbed = fs::read(quantize_fixture(folder.path(), "a.gguf", &["-r", FAST])).expect("read");
    let output = folder.path().join("b.gguf");
    let arguments =
        [&["quantize", text(&checkpoint), "-r", FAST, "-o", text(&output), "--force", "--json"], &SLOWLY[..]]
            .concat();
    let part = beside(&output, ".part");
    let open = |path: &Path| fs::OpenOptions::new().write(true).open(path).expect("opened");
    let size = undisturbed.len() as u64;
    let damages: [Damage; 5] = [
        ("all", &|part| {
            open(part).set_len(0).expect("cut");
            open(part).set_len(size).expect("zeros");
        }),
        ("the second half", &|part| open(part).set_len(size / 2).expect("cut")),
        ("a bit of each megabyte", &|part| {
            let mut bytes = fs::read(part).expect("read");
            bytes.iter_mut().skip(200_000).step_by(1 << 20).for_each(|byte| *byte ^= 4);
            fs::write(part, bytes).expect("written");
        }),
        ("its mark and header", &|part| {
            let mut bytes = fs::read(part).expect("read");
            bytes[3..3000].fill(0x55);
            fs::write(part, bytes).expect("written");
        }),
        ("its name", &|part| fs::remove_file(part).expect("removed")),
    ];
    for (what, damage) in damages {
        // Between two runs, and during one, after which the journal tells of pieces that are not there.
        assert!(killed_at(&[&arguments[..], &["--restart"]].concat(), "recorded", 40), "{what}");
        damage(&part);
        succeed(&arguments);
        assert!(fs::read(&output).expect("read") == undisturbed, "{what} between runs");
        if what != "its name" {
            let stopped = stopped_at(&arguments, "recorded", 150);
            damage(&part);
            let (code, stderr) = stderr(stopped.go_on());
            assert_eq!(code, Some(0), "{what}: {stderr}");
            assert!(fs::read(&output).expect("read") == undisturbed, "{what} during a run");
        }
        succeed(&["verify", text(&output)]);
    }
}

/// --split 3 and --part 2/3, and two spellings of an output, are at the same unfinished files with journals of their own.
#[test]
fn an_unfinished_file_is_of_one_run_alone() {
    let base = TempDir::new().expect("a temporary folder");
    quantize_fixture(base.path(), "a.gguf", &["-r", FAST, "--split", "3"]);
    let checkpoint = fixture("tiny-r1");
    for (other, journal) in [
        (&["-o", "OUT.gguf", "--part", "2/3"][..], "OUT-00002-of-00003.gguf"),
        (&["-o", "OUT", "--split", "3"], "OUT"),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let command = |wishes: &[&str]| -> Vec<String> {
            let mut all = ["quantize", text(&checkpoint), "-r", FAST, "--quiet"].map(str::to_owned).to_vec();
            let name = |wish: &&str| {
                if wish.starts_with("OUT") { text(&at(wish)).to_owned() } else { (*wish).to_owned() }
            };
            all.extend(wishes.iter().map(name));
            all.extend(SLOWLY.map(str::to_owned));
            all
        };
        let as_str = |all: &[String]| all.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
        let run = |all: &[String]| fail(&as_str(all).iter().map(|s| &**s).collect::<Vec<_>>(), 2);
        let split = command(&["-o", "OUT.gguf", "--split", "3"]);
        let other = command(other);
        let killed = |all: &[String], count| {
            killed_at(&as_str(all).iter().map(|s| &**s).collect::<Vec<_>>(), "recorded", count)
        };
        // Most of the second file is there.
        assert!(killed(&split, 200));
        let stderr = run(&other);
        assert!(stderr.contains(&format!("{journal}.journal: is not there, but ")), "{stderr}");
        let anew = [&other[..], &["--restart".to_owned()]].concat();
        assert!(killed(&anew, 10));
        // The journal of the first tells of pieces that are gone.
        let stderr = run(&split);
        assert!(stderr.contains("is not of the run that left") && stderr.contains("--restart"), "{stderr}");
        let anew = [&split[..], &["--restart".to_owned()]].concat();
        succeed(&anew.iter().map(|s| &**s).collect::<Vec<_>>());
        for number in 1..=3 {
            let name = |stem: &str| format!("{stem}-0000{number}-of-00003.gguf");
            let made = fs::read(at(&name("OUT"))).expect("read");
            assert!(made == fs::read(base.path().join(name("a"))).expect("read"), "{number}");
        }
        // The other finds its work done by somebody else.
        succeed(&other.iter().map(|s| &**s).collect::<Vec<_>>());
        assert!(!at(&format!("{journal}.journal")).exists());
    }
}

#[test]
fn a_process_whose_files_were_taken_away_does_not_touch_anothers() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let undisturbed = fs::read(quantize_fixture(folder.path(), "a.gguf", &["-r", FAST])).expect("read");
    let output = folder.path().join("b.gguf");
    let arguments =
        [&["quantize", text(&checkpoint), "-r", FAST, "-o", text(&output), "--quiet"], &SLOWLY[..]].concat();
    let first = stopped_at(&arguments, "recorded", 20);
    fs::remove_file(beside(&output, ".part")).expect("removed");
    fs::remove_file(beside(&output, ".journal")).expect("removed");
    let second = stopped_at(&arguments, "recorded", 20);
    let (code, said) = stderr(first.go_on());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("b.gguf.part was removed or replaced"), "{said}");
    assert_eq!(left(&output), ["b.gguf.journal", "b.gguf.part"]);
    assert_eq!(stderr(second.go_on()).0, Some(0));
    assert_eq!(fs::read(&output).expect("read"), undisturbed);
}

#[test]
fn finished_work_is_not_done_again_and_other_files_are_not_replaced() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    for (wishes, name) in
        [(&[][..], "b.gguf"), (&["--split", "2"], "b-00002-of-00002.gguf"), (&["--part", "1/2"], "")]
    {
        let output = folder.path().join("b.gguf");
        let base = [&["quantize", text(&checkpoint), "-o", text(&output), "--json"], wishes].concat();
        succeed(&base);
        let again = succeed(&base);
        assert!(!again.contains("\"started\"") && again.contains("\"already_made\":true"), "{again}");
        if name.is_empty() {
            continue;
        }
        // Other work, and a file that is not as it was made.
        let other = [&base[..], &["--recipe", "q8_0"]].concat();
        let file = folder.path().join(name);
        let made = fs::read(&file).expect("read");
        let stderr = fail(&other, 2);
        assert!(stderr.contains("is there already; --force replaces it"), "{stderr}");
        let mut bytes = made.clone();
        let last = bytes.len() - 5000;
        bytes[last..].iter_mut().for_each(|byte| *byte ^= 1);
        fs::write(&file, &bytes).expect("written");
        let stderr = fail(&base, 2);
        assert!(
            stderr.contains("made of this, but tensor \"") && stderr.contains("--force makes it anew"),
            "{stderr}"
        );
        assert!(fs::read(&file).expect("read") == bytes, "untouched");
        succeed(&[&base[..], &["--force"]].concat());
        assert!(fs::read(&file).expect("read") == made);
        for left in left(&output) {
            fs::remove_file(folder.path().join(left)).expect("removed");
        }
    }
    // A refusal costs nothing that an earlier run has done, with --restart either.
    let output = folder.path().join("d.gguf");
    let arguments = [&["quantize", text(&checkpoint), "-o", text(&output)], &SLOWLY[..]].concat();
    kill_midway(&arguments, &output);
    fs::write(&output, "precious").expect("written");
    let journal = fs::read(beside(&output, ".journal")).expect("read");
    assert!(fail(&[&arguments[..], &["--restart"]].concat(), 2).contains("--force replaces it"));
    assert!(fs::read(beside(&output, ".journal")).expect("still there") == journal);
    let begun = started(&succeed(&[&arguments[..], &["--force", "--json"]].concat()));
    assert!(begun["done_before"].as_u64() > Some(0), "{begun}");
    // A file that comes to be there during the work.
    let output = folder.path().join("c.gguf");
    let arguments = [&["quantize", text(&checkpoint), "-o", text(&output)], &SLOWLY[..]].concat();
    let stopped = stopped_at(&arguments, "recorded", 10);
    fs::write(&output, "precious").expect("written");
    let (code, said) = stderr(stopped.go_on());
    assert_eq!((code, fs::read(&output).expect("read")), (Some(2), b"precious".to_vec()), "{said}");
    succeed(&[&arguments[..], &["--force"]].concat());
    // And one that comes to be where its manifest will be.
    let output = folder.path().join("e.gguf");
    let (notes, arguments) = (beside(&output, ".json"), ["quantize", text(&checkpoint), "-o", text(&output)]);
    let stopped = stopped_at(&arguments, "sealed", 1);
    fs::write(&notes, "precious").expect("written");
    let (code, said) = stderr(stopped.go_on());
    assert_eq!((code, fs::read(&notes).expect("read")), (Some(2), b"precious".to_vec()), "{said}");
    assert!(said.contains("e.gguf.json is there already"), "{said}");
    fs::remove_file(&notes).expect("removed");
    succeed(&arguments);
    assert!(notes.exists() && !beside(&output, ".journal").exists());
}
