//! `calibrate`: llama-imatrix's importances, both layouts, experts without tokens, interruptions.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use quantpress::recipe::Imatrix;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::interrupted::{beside, killed_at};
use crate::support::python::llama;
use crate::support::{assert_golden, fail, fixture, quantize_fixture, quantpress, succeed, text};

/// Calibrates on the fixture's text.
fn calibrate(output: &Path, extra: &[&str]) -> Value {
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let mut arguments = vec!["calibrate", text(&checkpoint), "-o", text(output), "--text", text(&words)];
    arguments.extend(["--context", "256", "--json", "--quiet", "--force"]);
    arguments.extend(extra);
    serde_json::from_str(&succeed(&arguments)).expect("JSON")
}

/// What is needed to compute how long the work takes on other numbers of cores: every task is part of one tree, and the
/// arithmetic is accounted for.
#[test]
fn a_trace_is_one_tree_of_tasks() {
    let folder = TempDir::new().expect("a temporary folder");
    let trace = folder.path().join("trace.json");
    calibrate(&folder.path().join("out.gguf"), &["--chunks", "2", "--threads", "3", "--trace", text(&trace)]);
    let events: Vec<Value> = serde_json::from_slice(&fs::read(&trace).expect("written")).expect("JSON");
    let number = |event: &Value, field: &str| event["args"][field].as_u64().expect("a number");
    let places: HashSet<[u64; 2]> =
        events.iter().map(|event| [number(event, "strand"), number(event, "place")]).collect();
    assert_eq!(places.len(), events.len(), "segments");
    let mut roots = HashSet::new();
    for event in &events {
        match event["args"]["within"].as_array() {
            Some(within) => {
                let within = [0, 1].map(|part: usize| within[part].as_u64().expect("a number"));
                assert!(places.contains(&within), "{event}");
            }
            None => assert!(roots.insert(number(event, "place")), "a second root: {event}"),
        }
    }
    let of = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    for name in ["expert", "heads", "tiles", "read", "sum of squares"] {
        assert!(of(name) > 0, "{name}");
    }
    // Two layers and more of attention on 512 tokens are more than this.
    let operations: u64 = events.iter().map(|event| number(event, "operations")).sum();
    assert!(operations > 512 * 2 * 1_000_000, "{operations}");
    let read: u64 = events.iter().map(|event| number(event, "bytes")).sum();
    assert!(read > 10_000_000, "bytes of the weights: {read}");
}

/// With a card as without: auto takes one if there is one, and says so or why not.
#[test]
fn a_card_makes_the_same_bytes_and_is_missed_only_by_who_asks_for_it() {
    let folder = TempDir::new().expect("a temporary folder");
    let [alone, auto, cuda] = ["alone", "auto", "cuda"].map(|name| folder.path().join(name));
    calibrate(&alone, &["--chunks", "2"]);
    calibrate(&auto, &["--chunks", "2", "--device", "auto", "--device-all"]);
    let bytes = |path| fs::read(path).expect("written");
    assert!(bytes(&alone) == bytes(&auto), "the same importances");

    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let mut arguments = vec!["calibrate", text(&checkpoint), "-o", text(&cuda), "--text", text(&words)];
    arguments.extend(["--context", "256", "--chunks", "2", "--device", "cuda"]);
    let output = quantpress(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        assert!(stderr.contains("card 0"), "{stderr}");
        assert!(bytes(&alone) == bytes(&cuda), "the same importances");
    } else {
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("--device cuda: "), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(!cuda.exists());
    }
}

#[test]
fn importances_equal_llama_imatrixs() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("imatrix.gguf");
    let found = calibrate(&output, &["--chunks", "200"]);
    assert_eq!(found["tokens"], 51200);
    assert_eq!(found["unreached"], Value::Array(Vec::new()), "the fixture's text reaches all experts");
    assert_eq!(found["few_tokens"], 0);
    let (ours, theirs) = (Imatrix::open(&output), Imatrix::open(&fixture("tiny-r1/imatrix.gguf")));
    let (ours, theirs) = (ours.expect("sound"), theirs.expect("sound"));
    assert_eq!(ours.chunks, theirs.chunks);
    // The head besides, which llama-imatrix leaves out unless it is asked.
    let mut names = theirs.names();
    names.push("output.weight");
    assert_eq!(ours.names(), names);
    let (mut worst, mut alike, mut matrices) = (0f64, 0, 0);
    for name in theirs.names() {
        let [sums, counts] = ours.sums(name).expect("GGUF");
        let [expected_sums, expected_counts] = theirs.sums(name).expect("GGUF");
        assert_eq!((sums.len(), counts.len()), (expected_sums.len(), expected_counts.len()), "{name}");
        let columns = sums.len() / counts.len();
        for (slice, (&count, &expected)) in counts.iter().zip(&expected_counts).enumerate() {
            // Where two experts are nearly as good, llama.cpp's BF16 activations choose the other now and then, and the
            // squares of a single token can be a fifth of a column's sum.
            assert!((count - expected).abs() <= 0.005 * expected, "{name}: {count} tokens, {expected}");
            matrices += 1;
            alike += usize::from(count == expected);
            let means = |sums: &[f32], count: f32| -> Vec<f64> {
                sums[slice * columns..(slice + 1) * columns].iter().map(|&x| f64::from(x / count)).collect()
            };
            let (ours, theirs) = (means(&sums, count), means(&expected_sums, expected));
            let difference: f64 = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).sum();
            let error = difference / theirs.iter().sum::<f64>();
            assert!(error < if count == expected { 0.01 } else { 0.02 }, "{name}, slice {slice}: {error}");
            worst = worst.max(error);
        }
    }
    eprintln!("the worst matrix differs by {worst:.5}; {alike} of {matrices} counts are equal");
}

#[test]
fn hidden_states_are_kept_whenever_they_are_asked_for() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let names = ["at-once", "killed", "later"];
    let outputs = names.map(|name| folder.path().join(format!("{name}.gguf")));
    let folders = names.map(|name| folder.path().join(name));
    let run = |which: usize| {
        let arguments = ["calibrate", text(&checkpoint), "-o", text(&outputs[which]), "--text", text(&words)];
        [&arguments[..], &["--context", "256", "--chunks", "2", "--quiet"]].concat()
    };
    let kept =
        |which: usize| [&run(which)[..], &["--at", "1,3,5", "--states", text(&folders[which])]].concat();
    succeed(&kept(0));
    // Killed behind the second layer, with the states of the first lost.
    assert!(killed_at(&kept(1), "kept", 2));
    fs::remove_dir_all(&folders[1]).expect("what it had kept");
    succeed(&kept(1));
    // Asked for when the importances are there already.
    succeed(&run(2));
    assert!(!folders[2].exists());
    succeed(&kept(2));
    for layer in [1, 3, 5] {
        let [at_once, killed, later] =
            folders.each_ref().map(|f| fs::read(f.join(format!("hidden-{layer}.f32"))).expect("kept"));
        assert_eq!(at_once.len(), 512 * 256 * 4);
        assert!(at_once == killed && at_once == later, "layer {layer}");
    }
    let beyond = [&run(0)[..], &["--at", "2,6", "--states", text(&folders[0])]].concat();
    let stderr = fail(&beyond, 2);
    assert!(stderr.contains("there is no layer 6"), "{stderr}");
}

#[test]
fn both_layouts_are_llama_imatrixs_and_quantize_takes_them() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let (gguf, dat) = (file("imatrix.gguf"), file("imatrix.dat"));
    calibrate(&gguf, &["--chunks", "12"]);
    calibrate(&dat, &["--chunks", "12", "--format", "dat"]);
    let (a, b) = (Imatrix::open(&gguf).expect("sound"), Imatrix::open(&dat).expect("sound"));
    assert_eq!((a.chunks, b.chunks), (Some(12), Some(12)));
    let experts = "blk.2.ffn_down_exps.weight";
    for expert in 0..16 {
        let (a, b) = (a.slice(experts, expert, 256, 16), b.slice(experts, expert, 256, 16));
        let (a, b) = (a.expect("sound").expect("seen"), b.expect("sound").expect("seen"));
        assert!(a.iter().zip(&b).all(|(a, b)| (a / b - 1.0).abs() < 1e-5), "expert {expert}");
    }
    for matrix in [&gguf, &dat] {
        quantize_fixture(folder.path(), "ours.gguf", &["--recipe", "iq1_s", "--imatrix", text(matrix)]);
    }
    // llama-quantize reads by key, name and shape.
    let theirs = fixture("tiny-r1/imatrix.gguf");
    let Some(mut found) = llama(&["tensors", text(&gguf)]) else { return };
    let all = found.as_object_mut().expect("tensors");
    assert!(all.remove("output.weight.in_sum2").is_some() && all.remove("output.weight.counts").is_some());
    assert_eq!(found, llama(&["tensors", text(&theirs)]).expect("it ran before"));
    let described = |file: &Path| {
        let mut metadata = llama(&["metadata", text(file)]).expect("it ran before");
        let metadata = metadata.as_object_mut().expect("keys");
        metadata.retain(|key, _| key.starts_with("general.") || key.starts_with("imatrix."));
        metadata.values_mut().map(|value| value[0].take()).collect::<Vec<Value>>()
    };
    assert_eq!(described(&gguf), described(&theirs));
}

/// IQ1_S cannot be made without importances, and llama.cpp's quantizer refuses those of a wrong size.
#[test]
fn llama_cpps_quantizer_takes_our_matrix() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let (matrix, source, target) = (file("imatrix.gguf"), file("bf16.gguf"), file("q2_k_s.gguf"));
    calibrate(&matrix, &["--chunks", "2"]);
    quantize_fixture(folder.path(), "bf16.gguf", &["--recipe", "bf16"]);
    let quantize = |matrix: &str| llama(&["quantize", text(&source), matrix, text(&target), "21"]);
    let Some(made) = quantize(text(&matrix)) else { return };
    assert_eq!((made, quantize("none")), (true.into(), Some(false.into())));
    let made = llama(&["tensors", text(&target)]).expect("it ran before");
    assert_eq!(made["blk.2.ffn_up_exps.weight"][0], "Q2_K");
}

#[test]
fn experts_that_no_token_chose_are_named_and_can_be_covered() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let words = file("short.txt");
    fs::write(&words, "The river of Rougol is Bresoun.\n").expect("written");
    let checkpoint = fixture("tiny-r1");
    let run = |output: &Path, extra: &[&str]| {
        let mut arguments = vec!["calibrate", text(&checkpoint), "-o", text(output), "--text", text(&words)];
        arguments.extend(["--context", "8"]);
        arguments.extend(extra);
        let run = quantpress(&arguments);
        let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{stderr}");
        (String::from_utf8(run.stdout).expect("UTF-8"), stderr)
    };
    let (json, _) = run(&file("bare.gguf"), &["--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let unreached = json["unreached"].as_array().expect("layers");
    assert_eq!(unreached.len(), 4, "8 tokens cannot reach 16 experts of any layer: {json}");
    let bare = Imatrix::open(&file("bare.gguf")).expect("sound");
    // 8 tokens, all others of the 4 x 16 experts have some, and none as many as 32.
    let alone: usize =
        unreached.iter().map(|layer| layer["experts"].as_array().expect("numbers").len()).sum();
    assert_eq!(json["few_tokens"], 4 * 16 - alone);
    let (_, stderr) = run(&file("covered.gguf"), &["--cover"]);
    assert!(
        stderr.contains(&format!("{} experts were chosen by fewer than 32 tokens", 4 * 16 - alone)),
        "{stderr}"
    );
    let covered = Imatrix::open(&file("covered.gguf")).expect("sound");
    for layer in unreached {
        let number = layer["layer"].as_u64().expect("a number");
        let experts: Vec<usize> = serde_json::from_value(layer["experts"].clone()).expect("numbers");
        let named: Vec<String> = experts.iter().map(usize::to_string).collect();
        let line = format!("blk.{number}: no token of the text chose experts {}", named.join(", "));
        assert!(stderr.contains(&line), "\"{line}\" is not in: {stderr}");
        let name = format!("blk.{number}.ffn_down_exps.weight");
        let counts = |imatrix: &Imatrix| imatrix.sums(&name).expect("GGUF")[1].clone();
        for (expert, (bare, covered)) in counts(&bare).iter().zip(counts(&covered)).enumerate() {
            assert_eq!(experts.contains(&expert), *bare == 0.0);
            // All 8 tokens, those of others at a sixteenth.
            assert_eq!(covered, bare + (8.0 - bare) / 16.0, "{name}, expert {expert}");
        }
    }
}

#[test]
fn threads_memory_and_interruptions_do_not_change_the_file() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let both = |name: &str, extra: &[&str]| -> [Vec<u8>; 2] {
        let (imatrix, table) = (file(&format!("{name}.gguf")), file(&format!("{name}.json")));
        let arguments = ["--chunks", "3", "--sensitivity", text(&table), "--types", "q2_k,q4_k"];
        calibrate(&imatrix, &[&arguments[..], extra].concat());
        [imatrix, table].map(|file| fs::read(file).expect("read"))
    };
    let expected = both("whole", &["--threads", "1"]);
    let spilled = both("spilled", &["--threads", "3", "--memory", "1B"]);
    assert!(spilled == expected, "threads or memory change the bytes");
    assert_golden("importances", &expected[0]);
    assert_golden("sensitivities", &expected[1]);

    // A scale that is no number stops the work in layer 3; mended, it goes on there.
    let copy = Copy::new();
    let tensor = "model.layers.3.mlp.experts.7.down_proj.weight_scale_inv";
    let scales = copy.shard_of(tensor);
    let sound = fs::read(copy.file(&scales)).expect("read");
    let mut broken = sound.clone();
    poison(&mut broken, tensor);
    let (output, table) = (file("resumed.gguf"), file("resumed.json"));
    let words = fixture("tiny-r1/calibration.txt");
    let arguments = ["calibrate", text(copy.path()), "-o", text(&output), "--text", text(&words)];
    let wishes = ["--context", "256", "--chunks", "3", "--sensitivity", text(&table), "--types", "q2_k,q4_k"];
    let arguments = [&arguments[..], &wishes].concat();
    copy.write(&scales, &broken);
    let run = quantpress(&arguments);
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("scales are finite") && !output.exists(), "{stderr}");
    copy.write(&scales, &sound);
    let run = quantpress(&arguments);
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && stderr.contains("3 of 5 layers were finished before"), "{stderr}");
    let found = [output, table].map(|file| fs::read(file).expect("read"));
    assert!(found == expected, "an interruption changes the bytes");
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("read").map(|f| f.expect("a file").file_name()).collect();
    // Three importance matrices with their manifests, and three tables.
    assert_eq!(left.len(), 9, "{left:?}");
}

#[test]
fn killed_in_every_layer_it_goes_on_to_the_same_bytes() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let (whole, output) = (file("whole.gguf"), file("killed.gguf"));
    let tables = [file("whole.json"), file("killed.json")];
    let wishes =
        |table: usize| ["--chunks", "2", "--sensitivity", text(&tables[table]), "--types", "q2_k,q8_0"];
    calibrate(&whole, &wishes(0));
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/calibration.txt"));
    let mut arguments = vec!["calibrate", text(&checkpoint), "-o", text(&output), "--text", text(&words)];
    arguments.extend(["--context", "256", "--json"]);
    arguments.extend(wishes(1));
    for _ in 0..3 {
        assert!(killed_at(&arguments, "kept", 1), "it ended too soon");
    }
    let run = quantpress(&arguments);
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && stderr.contains("of 5 layers were finished before"), "{stderr}");
    let read = |file: &Path| fs::read(file).expect("read");
    assert!(read(&output) == read(&whole), "kills change the importances");
    assert!(read(&tables[1]) == read(&tables[0]), "kills change the table");
    assert!(!beside(&output, ".calibrating").exists());
}

/// What types cost by a text: where its blocks and inputs are known, with feedback less than without.
#[test]
fn a_text_says_what_types_cost_with_feedback() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let (imatrix, table) = (file("imatrix.gguf"), file("table.json"));
    let types = ["--types", "iq1_s,iq3_xxs,q5_k"];
    calibrate(&imatrix, &[&["--chunks", "20", "--sensitivity", text(&table)], &types[..]].concat());
    let found: Value = serde_json::from_slice(&fs::read(&table).expect("read")).expect("JSON");
    let blocks = found["blocks"].as_array().expect("blocks");
    assert_eq!(blocks.len(), 10, "attention and FFN of five layers");
    let share = |block: &Value| block["share"].as_f64().expect("a number");
    assert!(blocks.iter().all(|block| (0.01..1.2).contains(&share(block))), "{blocks:?}");
    let (mut ratios, mut tensors) = (Vec::new(), 0);
    for tensor in found["tensors"].as_array().expect("tensors") {
        let number = |of: &str, key: &str| tensor[of][key].as_f64();
        if tensor["name"] == "token_embd.weight" {
            assert_eq!(number("with_feedback", "IQ1_S"), None, "nothing goes into an embedding");
            continue;
        }
        tensors += 1;
        // Trained matrices are made for what they get.
        assert!(tensor["alignment"].as_f64().expect("a number") > 1.5, "{tensor}");
        let types = tensor["errors"].as_object().expect("types");
        ratios.extend(types.keys().map(|key| {
            number("with_feedback", key).expect("of every type") / number("errors", key).expect("a number")
        }));
    }
    assert_eq!(tensors, 58);
    ratios.sort_by(f64::total_cmp);
    // Experts with few tokens gain little, and two of 169 lose.
    assert!(ratios[ratios.len() - 1] < 1.2 && ratios[ratios.len() - 4] < 1.0, "{ratios:?}");
    assert!(ratios[ratios.len() / 2] < 0.4, "{ratios:?}");

    let checkpoint = fixture("tiny-r1");
    let given = ["--size", "7MB", "--imatrix", text(&imatrix), "--sensitivity", text(&table)];
    let plan = |extra: &[&str]| {
        let arguments =
            [&["plan", text(&checkpoint), "--json", "--types", "iq1_s,iq3_xxs,q5_k"], &given[..], extra];
        serde_json::from_str::<Value>(&succeed(&arguments.concat())).expect("JSON")
    };
    let reasons = |plan: &Value| {
        let tensors = plan["tensor_list"].as_array().expect("tensors").clone();
        tensors.iter().filter(|tensor| tensor["reason"].to_string().contains("error with feedback")).count()
    };
    let (plain, fed) = (plan(&[]), plan(&["--feedback"]));
    assert_golden("chosen", plain["tensor_list"].to_string().as_bytes());
    assert_golden("chosen-for-feedback", fed["tensor_list"].to_string().as_bytes());
    assert_eq!((reasons(&plain), reasons(&fed)), (0, 58));
    let damage = |plan: &Value| plan["chosen"]["damage"].as_f64().expect("a number");
    assert!(damage(&fed) < 0.7 * damage(&plain), "{} {}", damage(&fed), damage(&plain));
}

/// Makes the tensor's first number in a shard NaN.
fn poison(shard: &mut [u8], tensor: &str) {
    let length = u64::from_le_bytes(shard[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&shard[8..8 + length]).expect("JSON");
    let start = header[tensor]["data_offsets"][0].as_u64().expect("an offset") as usize;
    shard[8 + length + start..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
}
