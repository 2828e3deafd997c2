//! Files of a size that is named: never above, hardly below, the same by the recipe that was saved.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use quantpress::checkpoint::{Checkpoint, Fingerprint};
use quantpress::model::{Model, Options};
use quantpress::progress::UNTOLD;
use quantpress::sensitivity::{DEFAULT_TYPES, Sampling, measure};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{assert_golden, fail, fixture, quantize_fixture, succeed, text};

/// SplitMix64, for sizes between two others.
pub struct Random(pub u64);

impl Random {
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        first + (z ^ (z >> 31)) % (last - first + 1)
    }
}

/// The smallest and the largest size, from the message about an impossible one.
pub fn possible(checkpoint: &str, more: &[&str]) -> [u64; 2] {
    let mut arguments = vec!["plan", checkpoint, "--size", "1KB"];
    arguments.extend(more);
    let message = fail(&arguments, 2);
    let size = |before: &str| {
        let (_, rest) = message.split_once(before).unwrap_or_else(|| panic!("{message}"));
        let number = rest.split(" bytes").next().expect("a number").replace(',', "");
        number.trim().parse().unwrap_or_else(|_| panic!("{message}"))
    };
    [size("smallest file has"), size("the largest")]
}

/// A plan as JSON.
pub fn plan(checkpoint: &str, more: &[&str]) -> Value {
    let mut arguments = vec!["plan", checkpoint, "--json"];
    arguments.extend(more);
    serde_json::from_str(&succeed(&arguments)).expect("JSON")
}

/// Measured once for all tests, without an importance matrix.
fn plain() -> [&'static str; 2] {
    static FILE: OnceLock<(TempDir, String)> = OnceLock::new();
    let (_, file) = FILE.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        let file = text(&folder.path().join("sensitivity.json")).to_owned();
        let checkpoint = fixture("tiny-r1");
        succeed(&["plan", text(&checkpoint), "--size", "7MB", "--sensitivity", &file]);
        (folder, file)
    });
    ["--sensitivity", file]
}

/// The same with the fixture's importance matrix, of which a test gets a copy.
fn sensitivity(folder: &Path) -> String {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let file = folder.join("sensitivity.json");
    let table = TABLE.get_or_init(|| {
        let (checkpoint, imatrix) = (fixture("tiny-r1"), fixture("tiny-r1/imatrix.gguf"));
        let size = ["plan", text(&checkpoint), "--size", "7MB", "--imatrix", text(&imatrix)];
        succeed(&[&size[..], &["--sensitivity", text(&file)]].concat());
        fs::read(&file).expect("read")
    });
    fs::write(&file, table).expect("written");
    text(&file).to_owned()
}

#[test]
fn twenty_two_sizes_of_the_fixture_are_met_from_below() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let sensitivity = sensitivity(folder.path());
    let given = ["--imatrix", text(&imatrix), "--sensitivity", &sensitivity];
    let [smallest, largest] = possible(text(&checkpoint), &given);
    let mut random = Random(5);
    for round in 0..22 {
        let size = random.between(smallest, largest);
        let wanted = format!("{size}B");
        let all = [&given[..], &["--size", &wanted]].concat();
        let planned = plan(text(&checkpoint), &all)["file_bytes"].as_u64().expect("bytes");
        // The smallest step is that of attn_v_b, from IQ4_XS to Q4_K: 131,072 weights by a quarter of a bit.
        assert!(planned <= size && size - planned <= (size / 1000).max(4096), "{planned} of {size}");
        // Ten of them are made.
        if round % 2 == 0 && round < 20 {
            let made = quantize_fixture(folder.path(), "out.gguf", &all);
            assert_eq!(made.metadata().expect("made").len(), planned);
        }
    }
}

#[test]
fn a_saved_recipe_makes_the_same_file_and_is_the_same_each_time() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let saved = [folder.path().join("a.toml"), folder.path().join("b.toml")];
    let kept = folder.path().join("kept.json");
    // Measured anew with one thread and with two, then from the file that the second wrote.
    let made: Vec<Vec<u8>> = [("a.gguf", &saved[0]), ("b.gguf", &saved[1]), ("c.gguf", &saved[1])]
        .into_iter()
        .map(|(name, recipe)| {
            let mut arguments =
                vec!["--size", "6.5MB", "--imatrix", text(&imatrix), "--save-recipe", text(recipe)];
            if name != "a.gguf" {
                arguments.extend(["--sensitivity", text(&kept)]);
            }
            fs::read(quantize_fixture(folder.path(), name, &arguments)).expect("read")
        })
        .collect();
    assert!(made[0] == made[1] && made[0] == made[2]);
    assert_golden("size", &made[0]);
    let recipes = saved.each_ref().map(|path| fs::read_to_string(path).expect("read"));
    assert_eq!(recipes[0], recipes[1]);
    assert_eq!(recipes[0].lines().filter(|line| line.contains("reason = ")).count(), 59);
    let arguments = ["--recipe", text(&saved[0]), "--imatrix", text(&imatrix)];
    let again = quantize_fixture(folder.path(), "d.gguf", &arguments);
    assert!(made[0] == fs::read(again).expect("read"));
}

#[test]
fn gate_and_up_experts_of_a_layer_share_a_type_and_bounds_hold() {
    let checkpoint = fixture("tiny-r1");
    for size in ["5.5MB", "6.6MB", "8MB"] {
        let plan = plan(text(&checkpoint), &[&plain()[..], &["--size", size]].concat());
        let list = plan["tensor_list"].as_array().expect("tensors");
        let kind = |name: &str| {
            let tensor = list.iter().find(|tensor| tensor["name"] == name);
            tensor.unwrap_or_else(|| panic!("{name}"))["type"].as_str().expect("a type")
        };
        for layer in 1..5 {
            let [gate, up] = ["gate", "up"].map(|name| kind(&format!("blk.{layer}.ffn_{name}_exps.weight")));
            assert_eq!(gate, up, "{size}");
        }
        assert!(matches!(kind("output.weight"), "Q5_K" | "Q6_K" | "Q8_0"), "{size}");
    }
}

#[test]
fn bits_per_weight_and_types_are_kept() {
    let checkpoint = fixture("tiny-r1");
    let found = plan(text(&checkpoint), &["--bpw", "4.6", "--types", "q4_k,Q5_K,q8_0"]);
    let bits = found["bits_per_weight"].as_f64().expect("a number");
    assert!(bits <= 4.6 && bits > 4.595, "{bits}");
    let types = found["types"].as_object().expect("types");
    // attn_k_b's rows of 128 do not fit the K types.
    let known = ["F32", "Q4_K", "Q5_K", "Q5_0", "Q5_1", "Q8_0"];
    assert!(types.keys().all(|name| known.contains(&name.as_str())), "{types:?}");
}

#[test]
fn a_machines_size_is_the_largest_that_runs_well_there() {
    let checkpoint = fixture("tiny-r1");
    let [_, largest] = possible(text(&checkpoint), &plain());
    // Held in memory, streamed where that is too little, with a slow disk, on a graphics card, and a machine that has
    // room for more than there is. 1 GB on each side is not the file's.
    for (machine, held, most) in [
        (&["--ram", "1.025GB"][..], true, false),
        (&["--ram", "1.025GB", "--ctx-size", "100"], true, false),
        (&["--ram", "1.019GB"], false, false),
        (&["--ram", "1.019GB", "--disk", "2MB", "--slowest", "2"], false, false),
        (&["--ram", "1.016GB", "--vram", "1.020GB"], true, false),
        (&["--ram", "2GB", "-c", "512"], true, true),
    ] {
        let arguments = [&plain()[..], machine].concat();
        let with = |size: &str| plan(text(&checkpoint), &[&arguments[..], &["--size", size]].concat());
        let runs = |plan: &Value| {
            plan["fit"]["well"] == true && (!held || plan["fit"]["disk_tokens_per_second"].is_null())
        };
        let found = with("auto");
        let bytes = found["file_bytes"].as_u64().expect("bytes");
        assert!(runs(&found), "{machine:?}: {}", found["fit"]);
        assert_eq!(bytes == largest, most, "{machine:?}: {bytes} of {largest}");
        // `--size` with that number gives the same file, and it runs well too.
        let named = found["recipe"].as_str().expect("a name").replace("auto for ", "").replace(" bytes", "B");
        let again = with(&named);
        for part in ["file_bytes", "recipe", "fit", "tensor_list", "tradeoff", "chosen"] {
            assert_eq!(found[part], again[part], "{machine:?}: {part}");
        }
        assert!(runs(&with(&format!("{bytes}B"))), "{machine:?}: {bytes}");
        // The embedding, which is mapped and not counted, may be larger than in the smallest file. To a card layers go
        // whole, which has its own limits.
        let more = bytes + bytes / 40;
        assert!(
            most || machine.contains(&"--vram") || !runs(&with(&format!("{more}B"))),
            "{machine:?}: {more} runs as well"
        );
    }
}

#[test]
fn quantize_makes_the_file_of_the_machine() {
    let folder = TempDir::new().expect("a temporary folder");
    let machine = ["--size", "auto", "--ram", "1.02GB", "--ctx-size", "300"];
    let made = quantize_fixture(folder.path(), "a.gguf", &[&plain()[..], &machine].concat());
    let checkpoint = fixture("tiny-r1");
    let planned = plan(text(&checkpoint), &[&plain()[..], &machine].concat());
    assert_eq!(planned["file_bytes"], made.metadata().expect("made").len());
    let output = folder.path().join("b.gguf");
    let quantize = ["quantize", text(&checkpoint), "-o", text(&output)];
    let refused = |arguments: &[&str], code| fail(&[&quantize[..], &plain(), arguments].concat(), code);
    // A machine alone says nothing of the file here.
    assert!(fail(&[&quantize[..], &["--ram", "20GB"]].concat(), 2).contains("--size auto"));
    assert!(refused(&["--ram", "20GB", "--size", "7MB"], 2).contains("--size auto"));
    assert!(refused(&["--size", "auto"], 2).contains("--ram"));
    let message = refused(&["--size", "auto", "--ram", "20MB"], 2);
    assert!(message.contains("20.00 MB (19.07 MiB) of memory is asked for"), "{message}");
    assert!(message.contains("the smallest file has") && message.contains("the largest"), "{message}");
    let message = refused(&["--size", "auto", "--ram", "2GB", "--ctx-size", "1025"], 2);
    assert!(message.contains("a context of 1025 tokens"), "{message}");
    assert!(!output.exists());
}

#[test]
fn split_files_keep_the_size_together() {
    let checkpoint = fixture("tiny-r1");
    for split in ["3", "2MB"] {
        let found = plan(text(&checkpoint), &[&plain()[..], &["--size", "7MB", "--split", split]].concat());
        let bytes = found["file_bytes"].as_u64().expect("bytes");
        assert!(bytes <= 7_000_000 && bytes > 6_990_000, "{bytes}");
    }
}

#[test]
fn impossible_sizes_and_wrong_recipes_say_so() {
    let checkpoint = fixture("tiny-r1");
    let [smallest, largest] = possible(text(&checkpoint), &plain());
    assert!(smallest < largest);
    for size in [smallest - 1, largest + largest / 500] {
        let [option, file] = plain();
        let message = fail(&["plan", text(&checkpoint), "--size", &format!("{size}B"), option, file], 2);
        assert!(message.contains("the smallest file has") && message.contains("MiB"), "{message}");
    }
    for size in [smallest, largest] {
        let found = plan(text(&checkpoint), &[&plain()[..], &["--size", &format!("{size}B")]].concat());
        assert_eq!(found["file_bytes"], size);
    }
    let message = fail(&["plan", text(&checkpoint), "--size", "7MB", "--recipe", "q4_k_m"], 2);
    assert!(message.contains("leaves no type open") && message.contains("auto"), "{message}");
    let message = fail(&["plan", text(&checkpoint), "--recipe", "auto"], 2);
    assert!(message.contains("--size"), "{message}");
    let message = fail(&["plan", text(&checkpoint), "--size", "7MB", "--types", "iq1_s"], 2);
    assert!(message.contains("output.weight: no type is left"), "{message}");
}

#[test]
fn sensitivities_of_other_work_are_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let file = sensitivity(folder.path());
    let run = || fail(&["plan", text(&checkpoint), "--size", "7MB", "--sensitivity", &file], 2);
    // Measured with an importance matrix.
    assert!(run().contains("was measured with the importance matrix"), "{}", run());
    let original = fs::read_to_string(&file).expect("read");
    let table: Value = serde_json::from_str(&original).expect("JSON");
    for (key, value, words) in [
        ("imatrix_sha256", Value::Null, "has no error of"),
        ("sample_sha256", "0".into(), "another checkpoint"),
        ("version", 1.into(), "version 1"),
        ("blocks", serde_json::json!([{"layer": 0, "ffn": true, "share": -1.0}]), "block of layer 0"),
        ("more", 1.into(), "is no table of sensitivities"),
    ] {
        let mut table = table.clone();
        table[key] = value;
        table["tensors"].as_array_mut().expect("a list").pop();
        fs::write(&file, table.to_string()).expect("written");
        assert!(run().contains(words), "{key}: {}", run());
    }
}

#[test]
fn measuring_does_not_depend_on_threads_and_sees_the_types_in_order() {
    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let source = Fingerprint::of(&checkpoint).expect("read");
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let sampling = Sampling {
            store: &checkpoint,
            model: &model,
            source: &source,
            imatrix: None,
            types: &DEFAULT_TYPES,
            stop: &AtomicBool::new(false),
        };
        pool.install(|| measure(&sampling, UNTOLD).expect("measured").0)
    };
    let table = with(1);
    assert_eq!(table, with(3));
    assert_eq!(table.tensors.len(), 59);
    for tensor in &table.tensors {
        let error = |name: &str| tensor.errors.get(name).copied();
        if let (Some(low), Some(high)) = (error("IQ1_S"), error("Q8_0")) {
            assert!(low > 0.05 && high < 1e-3 && low < 1.0, "{}: {low} {high}", tensor.name);
        }
    }
}

#[test]
fn measuring_stops_when_the_user_wants_to() {
    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("the fixture");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let source = Fingerprint::of(&checkpoint).expect("read");
    let stop = AtomicBool::new(true);
    let sampling = Sampling {
        store: &checkpoint,
        model: &model,
        source: &source,
        imatrix: None,
        types: &DEFAULT_TYPES,
        stop: &stop,
    };
    assert!(matches!(measure(&sampling, UNTOLD), Err(quantpress::Error::Interrupted)));
}
