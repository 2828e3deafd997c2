//! `quantize --feedback`: closer to the checkpoint at the same size, on text that it did not see, with any threads.

use std::fs;
use std::path::{Path, PathBuf};

use quantpress::gguf::{Contents, Value as GgufValue};
use serde_json::Value;
use tempfile::TempDir;

#[cfg(unix)]
use crate::support::interrupted::killed_at;
use crate::support::{
    assert_golden, divergence, fail, fixture, quantize_fixture, succeed, tensor_hashes, text,
};

fn with_feedback(folder: &Path, name: &str, extra: &[&str]) -> PathBuf {
    let words = fixture("tiny-r1/calibration.txt");
    let mut arguments = vec!["--feedback", "--text", text(&words), "--context", "256"];
    arguments.extend(extra);
    quantize_fixture(folder, name, &arguments)
}

#[test]
fn files_are_much_closer_to_the_checkpoint_at_the_same_size() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    for (recipe, bound) in [("ud-iq1_s", 0.6), ("q2_k", 0.6)] {
        let types = ["--recipe", recipe, "--imatrix", text(&imatrix)];
        let plain = quantize_fixture(folder.path(), "plain.gguf", &types);
        let fed = with_feedback(folder.path(), "fed.gguf", &[&types[..], &["--chunks", "24"]].concat());
        // The digest of the text is in the metadata, and nothing else is larger.
        let larger = fs::metadata(&fed).expect("made").len() - fs::metadata(&plain).expect("made").len();
        assert!(larger <= 128, "{larger} bytes larger");
        let (plain, fed) = (divergence(&plain), divergence(&fed));
        eprintln!("{recipe}: KL divergence {fed:.5} with feedback, {plain:.5} without: {:.3}", fed / plain);
        assert!(fed < bound * plain, "{recipe}: {fed}, without feedback {plain}");
    }
}

#[test]
fn threads_do_not_change_the_bytes() {
    let folder = TempDir::new().expect("a temporary folder");
    let run = |name: &str, threads: &str| {
        let arguments =
            ["--recipe", "q2_k", "--override", "ffn_down_exps=iq1_s", "--chunks", "2", "--threads", threads];
        fs::read(with_feedback(folder.path(), name, &arguments)).expect("read")
    };
    let one = run("one.gguf", "1");
    assert!(one == run("three.gguf", "3"));
    assert_golden("feedback", &one);
}

#[cfg(unix)]
#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_bytes() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let chosen = ["--recipe", "q2_k", "--override", "ffn_down_exps=iq1_s", "--chunks", "2"];
    let undisturbed = with_feedback(folder.path(), "a.gguf", &[&chosen[..], &["--split", "2"]].concat());
    assert!(!undisturbed.exists(), "split");
    let output = folder.path().join("b.gguf");
    let mut arguments = vec!["quantize", text(&checkpoint), "-o", text(&output), "--split", "2", "--json"];
    arguments.extend(["--feedback", "--text", text(&words), "--context", "256", "--sync-seconds", "0"]);
    arguments.extend(chosen);
    for kill in 0..8 {
        // When slices are recorded, and after the states of a layer are kept.
        let (moment, count) = if kill == 5 { ("kept", 1) } else { ("recorded", 1 + kill * 29 % 40) };
        assert!(killed_at(&arguments, moment, count), "kill {kill} came too late");
    }
    let said = succeed(&arguments);
    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |event: &str| events.iter().filter(|e| e["event"] == event).collect::<Vec<_>>();
    assert!(of("started")[0]["done_before"].as_u64() > Some(0), "{said}");
    assert_eq!(of("done").len(), 1, "{said}");
    for part in ["00001-of-00002", "00002-of-00002"] {
        let [a, b] = ["a", "b"].map(|name| folder.path().join(format!("{name}-{part}.gguf")));
        assert!(fs::read(&a).expect("read") == fs::read(&b).expect("read"), "{part}");
        let manifest = fs::read_to_string(format!("{}.json", b.display())).expect("read");
        let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
        assert_eq!(manifest["feedback"]["sha256"].as_str().map(str::len), Some(64), "{part}");
    }
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("read").map(|f| f.expect("a file").file_name()).collect();
    assert_eq!(left.len(), 8, "{left:?}");
    let path = folder.path().join("b-00001-of-00002.gguf");
    succeed(&["verify", text(&path), "--against", text(&checkpoint)]);
}

/// Three files that are each made by itself: of the fixture, with Q2_K and few tokens.
struct Parts {
    folder: TempDir,
    /// The layers before which files begin.
    starts: Vec<u64>,
}

impl Parts {
    const TYPES: [&str; 6] = ["--recipe", "q2_k", "--override", "ffn_down_exps=iq1_s", "--chunks", "2"];

    fn new() -> Self {
        let checkpoint = fixture("tiny-r1");
        let arguments =
            ["plan", text(&checkpoint), "--recipe", "q2_k", "--feedback", "--split", "3", "--json"];
        let plan: Value = serde_json::from_str(&succeed(&arguments)).expect("JSON");
        let starts = plan["parts_begin_before"].as_array().expect("layers");
        let starts = starts.iter().map(|layer| layer.as_u64().expect("a number")).collect();
        Self { folder: TempDir::new().expect("a temporary folder"), starts }
    }

    fn states(&self) -> PathBuf {
        self.folder.path().join("states")
    }

    /// The states before the first layers of all files, as `plan` says.
    fn keep_states(&self) {
        let at = self.starts.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
        let (imatrix, states) = (self.folder.path().join("imatrix.gguf"), self.states());
        let arguments = ["calibrate", text(&checkpoint), "--text", text(&words), "-o", text(&imatrix)];
        let kept = ["--context", "256", "--chunks", "2", "--states", text(&states), "--at", &at, "--quiet"];
        succeed(&[&arguments[..], &kept].concat());
    }

    fn arguments(&self, name: &str, part: &str, extra: &[&str]) -> Vec<String> {
        let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
        let output = self.folder.path().join(name);
        let arguments = ["quantize", text(&checkpoint), "-o", text(&output), "--quiet", "--part", part];
        let fed = ["--feedback", "--text", text(&words), "--context", "256"];
        let all = [&arguments[..], &fed, &Self::TYPES, extra].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    fn make(&self, name: &str, part: &str, extra: &[&str]) {
        let arguments = self.arguments(name, part, extra);
        succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn file(&self, name: &str, part: usize) -> PathBuf {
        self.folder.path().join(format!("{name}-0000{part}-of-00003.gguf"))
    }

    fn bytes(&self, name: &str) -> [Vec<u8>; 3] {
        [1, 2, 3].map(|part| fs::read(self.file(name, part)).expect("read"))
    }
}

#[test]
fn files_of_a_split_are_made_by_themselves_from_the_original_models_states() {
    let parts = Parts::new();
    assert_eq!(parts.starts, [1, 3, 5], "two files behind the first, and its head");
    parts.keep_states();
    let states = parts.states();
    for part in ["3/3", "1/3", "2/3"] {
        parts.make("kept.gguf", part, &["--states", text(&states)]);
        // Without states it goes through the layers before, with the same result.
        parts.make("gone.gguf", part, &["--threads", "1"]);
    }
    let made = parts.bytes("kept");
    assert!(made == parts.bytes("gone"), "kept states or threads change the bytes");

    let first = parts.file("kept", 1);
    let contents = Contents::read(&first).expect("sound");
    assert_eq!(contents.metadata.get("quantpress.feedback.parts"), Some(&GgufValue::U32(3)));
    succeed(&["verify", text(&first), "--against", text(&fixture("tiny-r1"))]);

    // The whole at once: the first layers are alike, what comes later has other inputs there.
    let whole = [&Parts::TYPES[..], &["--split", "3"]].concat();
    with_feedback(parts.folder.path(), "whole.gguf", &whole);
    let [fed, whole] = ["kept", "whole"].map(|name| {
        let files = [1, 2, 3].map(|part| parts.file(name, part));
        (divergence(&files[0]), tensor_hashes(&files))
    });
    let same = |tensor: &str| fed.1[tensor] == whole.1[tensor];
    assert!(same("blk.1.ffn_up_exps.weight") && !same("blk.4.ffn_up_exps.weight") && !same("output.weight"));
    let plain = quantize_fixture(parts.folder.path(), "plain.gguf", &Parts::TYPES[..4]);
    let plain = divergence(&plain);
    let [fed, whole] = [fed.0, whole.0].map(|kl| kl / plain);
    eprintln!("KL divergence beside that without feedback: {whole:.3} at once, {fed:.3} by parts");
    assert!(fed < 0.8, "{fed}");

    // A whole run is other work.
    let output = parts.folder.path().join("kept.gguf");
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let arguments = ["quantize", text(&checkpoint), "-o", text(&output), "--split", "3", "--feedback"];
    let more = ["--text", text(&words), "--context", "256"];
    fail(&[&arguments[..], &more, &Parts::TYPES].concat(), 2);
}

#[cfg(unix)]
#[test]
fn a_part_that_is_killed_goes_on_to_the_same_bytes() {
    let parts = Parts::new();
    for part in ["1/3", "2/3"] {
        parts.make("a.gguf", part, &[]);
        let arguments = parts.arguments("b.gguf", part, &["--sync-seconds", "0"]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // On the way to its layers, in their midst, and behind them on the way to the head.
        for (moment, count) in [("kept", 1), ("recorded", 5), ("kept", 1), ("kept", 1)] {
            assert!(killed_at(&arguments, moment, count), "part {part}: {moment} {count} came too late");
        }
        succeed(&arguments);
    }
    for part in [1, 2] {
        let [a, b] = ["a", "b"].map(|name| fs::read(parts.file(name, part)).expect("read"));
        assert!(a == b, "part {part}");
    }
}

#[test]
fn states_of_something_else_or_damaged_are_refused() {
    let parts = Parts::new();
    parts.keep_states();
    let states = parts.states();
    let refused = |words: &Path| {
        let (checkpoint, output) = (fixture("tiny-r1"), parts.folder.path().join("a.gguf"));
        let arguments = ["quantize", text(&checkpoint), "-o", text(&output), "--part", "2/3", "--feedback"];
        let more = ["--text", text(words), "--context", "256", "--states", text(&states)];
        let stderr = fail(&[&arguments[..], &more, &Parts::TYPES].concat(), 2);
        assert!(!parts.file("a", 2).exists());
        stderr
    };
    let other = refused(&fixture("tiny-r1/evaluation.txt"));
    assert!(other.contains("hidden-1.f32.json is of other states: the text's tokens was 512"), "{other}");
    let kept = states.join("hidden-1.f32");
    let mut bytes = fs::read(&kept).expect("read");
    bytes[100] ^= 1;
    fs::write(&kept, bytes).expect("written");
    let damaged = refused(&fixture("tiny-r1/calibration.txt"));
    assert!(damaged.contains("hidden-1.f32 is not as it was written"), "{damaged}");

    let (checkpoint, output) = (fixture("tiny-r1"), parts.folder.path().join("b.gguf"));
    let alone = ["quantize", text(&checkpoint), "-o", text(&output), "--states", text(&states)];
    assert!(fail(&alone, 2).contains("--part"));
    let fed = ["--feedback", "--text", text(&checkpoint), "--split", "3"];
    assert!(fail(&[&alone[..], &fed].concat(), 2).contains("--split"));
}

#[test]
fn without_a_text_the_weights_say_what_to_feed_back_by() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let types = ["--recipe", "q2_k", "--imatrix", text(&imatrix)];
    let plain = quantize_fixture(folder.path(), "plain.gguf", &types);
    let fed = |name: &str, extra: &[&str]| {
        let arguments = [&types[..], &["--feedback"], extra].concat();
        quantize_fixture(folder.path(), name, &arguments)
    };
    let one = fed("fed.gguf", &["--threads", "1"]);
    assert!(fs::read(&one).expect("read") == fs::read(fed("three.gguf", &["--threads", "3"])).expect("read"));
    let manifest = fs::read_to_string(format!("{}.json", one.display())).expect("read");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest["feedback"]["sha256"], "0".repeat(64));
    let (plain_kl, fed_kl) = (divergence(&plain), divergence(&one));
    eprintln!("KL divergence {fed_kl:.5} by the weights alone, {plain_kl:.5} without feedback");
    assert!(fed_kl < 0.8 * plain_kl, "{fed_kl}, without feedback {plain_kl}");
    // A file of a split has the same tensors as the whole, made by itself or not: no layer needs another.
    let part = fed("part.gguf", &["--part", "2/3"]);
    assert!(!part.exists(), "split");
    let part = folder.path().join("part-00002-of-00003.gguf");
    let (whole, part) = (tensor_hashes(&[one]), tensor_hashes(&[part]));
    assert!(!part.is_empty());
    for (name, hash) in part {
        assert_eq!(whole.get(&name), Some(&hash), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn without_a_text_what_is_killed_goes_on_to_the_same_bytes() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let chosen = ["--recipe", "q2_k", "--override", "ffn_down_exps=iq1_s", "--feedback"];
    let undisturbed = quantize_fixture(folder.path(), "a.gguf", &chosen);
    let output = folder.path().join("b.gguf");
    let mut arguments =
        vec!["quantize", text(&checkpoint), "-o", text(&output), "--json", "--sync-seconds", "0"];
    arguments.extend(chosen);
    for count in [1, 12, 30] {
        assert!(killed_at(&arguments, "recorded", count), "the kill at {count} came too late");
    }
    succeed(&arguments);
    assert!(fs::read(&undisturbed).expect("read") == fs::read(&output).expect("read"));
    succeed(&["verify", text(&output), "--against", text(&checkpoint)]);
}

#[test]
fn a_text_for_feedback_has_at_least_a_chunk() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, output) = (fixture("tiny-r1"), folder.path().join("out.gguf"));
    let words = folder.path().join("few.txt");
    fs::write(&words, "The river").expect("written");
    let arguments =
        ["quantize", text(&checkpoint), "-o", text(&output), "--feedback", "--text", text(&words)];
    let stderr = fail(&arguments, 2);
    assert!(stderr.contains("less than a chunk of 512") && !output.exists(), "{stderr}");
}
