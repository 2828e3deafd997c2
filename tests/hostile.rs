//! Hostile files, one for each known attack on readers of these formats: an error with its words, within a second or
//! so and a gigabyte of address space.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::{fixture, text};

/// Address space that a run gets, stacks and the program itself included, in KiB.
const SPACE: u64 = 1 << 20;

/// An error takes milliseconds; this is for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the program with little space: exit code and stderr.
#[track_caller]
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let folder = TempDir::new().expect("a temporary folder");
    let said = folder.path().join("stderr");
    let mut command = if cfg!(unix) {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            &format!("ulimit -v {SPACE}; exec \"$@\""),
            "sh",
            env!("CARGO_BIN_EXE_quantpress"),
        ]);
        shell
    } else {
        Command::new(env!("CARGO_BIN_EXE_quantpress"))
    };
    command.args(arguments).stdout(Stdio::null()).stderr(fs::File::create(&said).expect("created"));
    let start = Instant::now();
    let mut child = command.spawn().expect("the program starts");
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().expect("killed");
            panic!("{arguments:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    (status.code(), String::from_utf8_lossy(&fs::read(said).expect("read")).into_owned())
}

/// Runs every file of a folder of `fixtures/hostile`, each of which must be in the list and fail with its words.
#[track_caller]
fn refused(kind: &str, cases: &[(&str, &str)], check: impl Fn(&Path) -> Vec<(Option<i32>, String)>) {
    let folder = fixture("hostile").join(kind);
    let files: BTreeSet<String> = fs::read_dir(&folder)
        .expect("read")
        .map(|file| file.expect("a file").file_name().into_string().expect("UTF-8"))
        .collect();
    let listed: BTreeSet<String> = cases.iter().map(|case| case.0.to_owned()).collect();
    assert_eq!(files, listed, "each file is a case");
    let mut wrong = String::new();
    for (file, words) in cases {
        for (code, stderr) in check(&folder.join(file)) {
            let sound = matches!(code, Some(2..=4)) && !stderr.contains("panicked") && stderr.contains(words);
            if !sound {
                let stderr: String = stderr.chars().take(400).collect();
                wrong += &format!("{kind}/{file}: exit {code:?}, expected \"{words}\" in: {stderr}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Plans a copy of the fixture with one file replaced.
fn plan_with(name: &'static str) -> impl Fn(&Path) -> Vec<(Option<i32>, String)> {
    move |path| {
        let copy = Copy::new();
        copy.write(name, &fs::read(path).expect("read"));
        vec![run(&["plan", text(copy.path())])]
    }
}

#[test]
fn gguf_files() {
    let cases = [
        ("alignment-huge", "general.alignment is"),
        ("alignment-odd", "general.alignment is"),
        ("alignment-text", "general.alignment is"),
        ("alignment-zero", "general.alignment is"),
        ("array-hangs", "the file ends at 43"),
        ("array-length-most", "an array of 18446744073709551615 elements"),
        ("array-length-wraps", "an array of 2305843009213693952 elements"),
        ("array-of-arrays", "an array of arrays"),
        ("array-of-unknown", "the unknown type 99"),
        ("big-endian", "big-endian"),
        ("block-bytes-wrap", "too large"),
        ("bookkeeping-wraps", "50127021939428130 tensors"),
        ("bool-of-seven", "the bool 7"),
        ("bytes-after", "its tensors end at"),
        ("bytes-wrap", "too large"),
        ("dimensions", "4294967295 dimensions"),
        ("elements-wrap", "too large"),
        ("five-dimensions", "5 dimensions"),
        ("key-count", "18446744073709551615 keys"),
        ("key-twice", "the key \"general.architecture\" is there twice"),
        ("magic-only", "the header cannot be read"),
        ("name-too-long", "a name of 64 bytes"),
        ("name-twice", "is there twice"),
        ("no-columns", "without weights"),
        ("no-dimensions", "0 dimensions"),
        ("no-rows", "without weights"),
        ("not-utf8", "not UTF-8"),
        ("offset-past-the-end", "cut short"),
        ("overlap", "begins at byte"),
        ("padding-wraps", "too large"),
        ("past-the-end", "cut short"),
        ("sizes-sum-wraps", "cut short"),
        ("split-blocks", "do not fill blocks"),
        ("split-of-many", "split.count is 4294967295"),
        ("tensor-count", "2305843009213693952 tensors"),
        ("text-length", "the header cannot be read"),
        ("text-length-wraps", "the header cannot be read"),
        ("token-length", "has 2147483649 bytes"),
        ("unknown-type", "type id 4"),
        ("unknown-value", "the unknown type 13"),
        ("version-1", "GGUF version 1"),
    ];
    // What is sound as a single file, but no whole model.
    let only_verified = ["bytes-after", "split-of-many"];
    refused("gguf", &cases, |path| {
        let mut runs = vec![run(&["verify", text(path), "-t", "1"])];
        if !only_verified.contains(&path.file_name().expect("a name").to_str().expect("UTF-8")) {
            runs.push(run(&["inspect", text(path)]));
        }
        runs
    });
}

#[test]
fn safetensors_files() {
    let cases = [
        ("bytes-after", "its tensors end at"),
        ("bytes-wrap", "overflows"),
        ("float-shape", "dtype, shape and data_offsets"),
        ("half-bytes", "overflows"),
        ("header-length-most", "says its header has 18446744073709551615 bytes"),
        ("header-length-wraps", "says its header has 18446744073709551608 bytes"),
        ("header-past-the-end", "says its header has 100 bytes"),
        ("hole", "leaves a gap"),
        ("name-twice", "named twice"),
        ("negative", "dtype, shape and data_offsets"),
        ("nested", "dtype, shape and data_offsets"),
        ("not-json", "not a JSON object"),
        ("offset-wraps", "cut short"),
        ("offsets-turned", "its offsets are 8 to 0"),
        ("overlap", "overlaps the tensor before"),
        ("past-the-end", "cut short"),
        ("same-data-often", "overlaps the tensor before"),
        ("shape-wraps", "overflows"),
    ];
    refused("safetensors", &cases, |path| {
        let folder = TempDir::new().expect("a temporary folder");
        fs::copy(fixture("tiny-r1/config.json"), folder.path().join("config.json")).expect("copied");
        fs::copy(path, folder.path().join("model.safetensors")).expect("copied");
        vec![run(&["plan", text(folder.path())])]
    });
}

#[test]
fn configurations() {
    let cases = [
        ("experts", "n_routed_experts is 1048576"),
        ("heads", "num_attention_heads is 1048576"),
        ("infinite-theta", "config.json"),
        ("layers", "num_hidden_layers is 513"),
        ("layers-most", "num_hidden_layers is 18446744073709551615"),
        ("layers-mtp", "num_nextn_predict_layers is 4294967295"),
        ("list", "expected a JSON object"),
        ("nested", "recursion limit"),
        ("no-experts", "n_routed_experts is 0"),
        ("no-groups", "n_group is 0"),
        ("no-scale-block", "weight_block_size is [0, 128]"),
        ("vocabulary", "vocab_size is 16777216"),
        ("width", "hidden_size is 2147483648"),
    ];
    refused("config", &cases, |path| {
        let copy = Copy::new();
        copy.write("config.json", &fs::read(path).expect("read"));
        let output = copy.file("out.gguf");
        vec![run(&["quantize", text(copy.path()), "-o", text(&output), "-t", "1"])]
    });
}

#[test]
fn tokenizers() {
    let cases = [
        ("added-id-most", "has id 4294967295"),
        ("cut", "expected a tokenizer"),
        ("id-most", "has id 4294967295"),
        ("id-negative", "expected a tokenizer"),
        ("id-twice", "both have id 5"),
        ("id-wraps", "expected a tokenizer"),
        ("merges-of-three", "expected a tokenizer"),
        ("nested-steps", "recursion limit"),
        ("no-model", "expected a tokenizer"),
    ];
    refused("tokenizer", &cases, plan_with("tokenizer.json"));
}

#[test]
fn indexes() {
    let cases = [
        ("absolute", "not a file name"),
        ("climbs", "not a file name"),
        ("long-name", "not a file name"),
        ("nested", "weight_map"),
        ("no-name", "not a file name"),
        ("number", "weight_map"),
        ("zero-byte", "not a file name"),
    ];
    refused("index", &cases, plan_with("model.safetensors.index.json"));
}

#[test]
fn importance_matrices() {
    let plan = |path: &Path| vec![run(&["plan", text(&fixture("tiny-r1")), "--imatrix", text(path)])];
    let cases = [
        ("calls-negative", "ends inside of an entry"),
        ("count-most", "ends inside of an entry"),
        ("count-negative", "ends inside of an entry"),
        ("infinite", "column 0 is inf"),
        ("name-length", "ends inside of an entry"),
        ("name-negative", "ends inside of an entry"),
        ("not-utf8", "not UTF-8"),
        ("twice", "is there twice"),
        ("values-most", "ends inside of an entry"),
        ("values-negative", "ends inside of an entry"),
    ];
    refused("imatrix_dat", &cases, plan);
    let cases = [
        ("count-is-nan", "the count NaN"),
        ("counts-of-another-type", "not F32"),
        ("no-columns", "without weights"),
        ("no-counts", "no counts"),
        ("no-imatrix", "general.type is not there"),
        ("offset-past-the-end", "cut short"),
        ("past-the-end", "cut short"),
        ("sums-negative", "column 0 is -1"),
        ("type-is-a-list", "general.type is no text"),
    ];
    refused("imatrix_gguf", &cases, plan);
}

#[test]
fn recipes() {
    let cases = [
        ("file-type.toml", "file_type"),
        ("layers-most.toml", "chooses no layers"),
        ("many-rules.toml", "a list of up to 2000 rules"),
        ("nested.toml", "TOML parse error at line 3"),
        ("pattern-explodes.toml", "size limit"),
        ("pattern-nested.toml", "nest"),
        ("share-by-zero.toml", "is no share"),
        ("tables.toml", "recursion limit"),
    ];
    refused("recipe", &cases, |path| vec![run(&["plan", text(&fixture("tiny-r1")), "--recipe", text(path)])]);
}

#[test]
fn large_files_of_settings_are_not_read() {
    let copy = Copy::new();
    copy.write("config.json", format!("[{}1]", "[],".repeat(3 << 20)).as_bytes());
    let (code, stderr) = run(&["plan", text(copy.path())]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("config.json") && stderr.contains("at most 4194304"), "{stderr}");
}

#[test]
fn a_crowd_of_chat_templates() {
    let copy = Copy::new();
    let one = |i: usize| serde_json::json!({"name": format!("n{i}"), "template": ""});
    copy.edit("tokenizer_config.json", |config| config["chat_template"] = (0..60_000).map(one).collect());
    let (code, stderr) = run(&["plan", text(copy.path())]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("chat_template lists 60000 templates"), "{stderr}");
}
