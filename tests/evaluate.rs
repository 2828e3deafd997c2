//! `evaluate`: the figures of real llama.cpp, and errors that name their place.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use quantpress::Error;
use quantpress::checkpoint::Checkpoint;
use quantpress::evaluate::{Asked, run};
use quantpress::gguf::Contents;
use quantpress::model::{Model, ModelFile, Options, Weights};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::python::llama;
use crate::support::{excerpt, fail, fixture, hex, quantize_fixture, succeed, text};

fn evaluate(file: &Path, words: &Path, extra: &[&str]) -> Value {
    let checkpoint = fixture("tiny-r1");
    let mut arguments = vec!["evaluate", text(&checkpoint), text(file), "--text", text(words)];
    arguments.extend(["--context", "256", "--quiet", "--json"]);
    arguments.extend(extra);
    serde_json::from_str(&succeed(&arguments)).expect("JSON")
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

/// The file's weights in F32, with which llama.cpp does not round activations: `twin` is such a file of the same model.
fn decode_into(file: &Path, twin: &Path) {
    let (blocks, from) = (fs::read(file).expect("read"), Contents::read(file).expect("sound"));
    let mut out = fs::File::options().write(true).open(twin).expect("opened");
    for tensor in Contents::read(twin).expect("sound").tensors {
        let source = from.tensor(&tensor.name).expect("the same tensors");
        let mut weights = vec![0.0; source.weights() as usize];
        let range = source.offset as usize..(source.offset + source.bytes) as usize;
        quant_kernels::dequantize(source.format, &blocks[range], &mut weights);
        let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        out.seek(SeekFrom::Start(tensor.offset)).and_then(|_| out.write_all(&bytes)).expect("written");
    }
}

#[test]
fn the_figures_are_llama_cpps() {
    let folder = TempDir::new().expect("a temporary folder");
    let words = excerpt(folder.path(), 240);
    let in_f32 = ["--recipe", "bf16", "--override", ".=f32"];
    let reference = quantize_fixture(folder.path(), "f32.gguf", &in_f32);
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    for recipe in ["iq1_s", "ud-iq2_xxs", "q2_k"] {
        let arguments = ["--recipe", recipe, "--imatrix", text(&imatrix)];
        let file = quantize_fixture(folder.path(), &format!("{recipe}.gguf"), &arguments);
        let twin = folder.path().join(format!("{recipe}-f32.gguf"));
        fs::copy(&reference, &twin).expect("copied");
        decode_into(&file, &twin);
        let Some(peer) = llama(&["measure", text(&twin), text(&words), "--against", text(&reference)]) else {
            return;
        };
        let found = evaluate(&file, &words, &[]);
        for (key, bound) in [
            ("perplexity", 1e-4),
            ("kl_mean", 0.01),
            ("kl_median", 0.01),
            ("kl_p99", 0.01),
            ("same_top", 0.002),
        ] {
            let (found, peer) = (number(&found, key), number(&peer, key));
            eprintln!("{recipe}: {key} {found:.6}, llama.cpp's {peer:.6}");
            assert!((found / peer - 1.0).abs() < bound, "{recipe}: {key} {found}, llama.cpp's {peer}");
        }
    }
}

/// Answers are those of llama.cpp's greedy continuation, of the checkpoint and of files that forget.
#[test]
fn answers_are_llama_cpps() {
    let folder = TempDir::new().expect("a temporary folder");
    let words = excerpt(folder.path(), 20);
    let questions = fixture("tiny-r1/questions.json");
    let reference = quantize_fixture(folder.path(), "f32.gguf", &["--recipe", "bf16", "--override", ".=f32"]);
    let answered = |file: &Path| {
        let said = llama(&["measure", text(file), text(&words), "--questions", text(&questions)])?;
        Some(said["right"].as_u64().expect("a number"))
    };
    let mut counts = Vec::new();
    for recipe in ["iq1_s", "tq1_0"] {
        let file = quantize_fixture(folder.path(), &format!("{recipe}.gguf"), &["--recipe", recipe]);
        let found = evaluate(&file, &words, &["--questions", text(&questions)])["answers"].clone();
        let [right, of_checkpoint, both] =
            ["right", "right_reference", "right_both"].map(|key| found[key].as_u64().expect("a number"));
        assert!(both <= right.min(of_checkpoint), "{found}");
        counts.push(right);
        let twin = folder.path().join("twin.gguf");
        fs::copy(&reference, &twin).expect("copied");
        decode_into(&file, &twin);
        let Some(expected) = answered(&twin) else { return };
        assert_eq!((right, Some(of_checkpoint)), (expected, answered(&reference)), "{recipe}: {found}");
    }
    assert!(counts[1] < counts[0], "{counts:?}: a file that forgets is seen");

    // What is no list of questions.
    for (bytes, said) in [
        ("[[\"a\"]]", "is no list of questions"),
        ("[]", "has no questions"),
        ("[[\"the\", \"sea\"], [\"a\", \" \"]]", "question 2 has nothing before its answer, or no answer"),
    ] {
        let wrong = folder.path().join("wrong.json");
        fs::write(&wrong, bytes).expect("written");
        let (checkpoint, file) = (fixture("tiny-r1"), folder.path().join("iq1_s.gguf"));
        let arguments =
            ["evaluate", text(&checkpoint), text(&file), "--text", text(&words), "--context", "256"];
        let stderr = fail(&[&arguments[..], &["--questions", text(&wrong)]].concat(), 2);
        assert!(stderr.contains("wrong.json: ") && stderr.contains(said), "{stderr}");
    }
}

#[test]
fn the_checkpoint_has_transformers_perplexity_and_a_lossless_file_no_error() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "f32.gguf", &["--recipe", "bf16", "--override", ".=f32"]);
    let found = evaluate(&file, &fixture("tiny-r1/evaluation.txt"), &["--memory", "1B"]);
    // fixtures/tiny-r1/README.md: Hugging Face's transformers in F32.
    assert!((number(&found, "perplexity_reference") / 7.2374 - 1.0).abs() < 1e-4, "{found}");
    assert_eq!(number(&found, "tokens"), 7680.0);
    assert_eq!(number(&found, "perplexity"), number(&found, "perplexity_reference"));
    assert!(number(&found, "kl_mean").abs() < 1e-12 && number(&found, "same_top") == 1.0);
    let layers = found["layers"].as_array().expect("layers");
    assert!(layers.len() == 5 && layers.iter().all(|layer| number(layer, "error") == 0.0), "{found}");
}

#[test]
fn errors_name_the_place() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "q8_0.gguf", &["--recipe", "q8_0"]);
    let (checkpoint, words) = (fixture("tiny-r1"), excerpt(folder.path(), 240));
    let run = |file: &Path, words: &Path, extra: &[&str], code| {
        let mut arguments = vec!["evaluate", text(&checkpoint), text(file), "--text", text(words)];
        arguments.extend(extra);
        fail(&arguments, code)
    };
    let absent = run(&file, &folder.path().join("absent.txt"), &[], 1);
    assert!(absent.contains("absent.txt"), "{absent}");
    let short = run(&file, &words, &["--context", "100000"], 2);
    assert!(short.contains("less than a chunk of 100000"), "{short}");
    let imatrix = run(&fixture("tiny-r1/imatrix.gguf"), &words, &[], 4);
    assert!(imatrix.contains("architecture \"\""), "{imatrix}");
    let latin = folder.path().join("latin.txt");
    fs::write(&latin, b"caf\xe9").expect("written");
    assert!(run(&file, &latin, &[], 2).contains("latin.txt: is not UTF-8"));
    // Half of a file of another size: its tensors no longer fit the metadata.
    let bytes = fs::read(&file).expect("read");
    let cut = folder.path().join("cut.gguf");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("written");
    assert!(run(&cut, &words, &[], 3).contains("cut short"));
}

#[test]
fn a_split_file_is_evaluated_as_the_whole_one_is() {
    let folder = TempDir::new().expect("a temporary folder");
    let words = excerpt(folder.path(), 240);
    let few = ["--chunks", "2"];
    let whole = quantize_fixture(folder.path(), "whole.gguf", &["--recipe", "q4_k_m"]);
    quantize_fixture(folder.path(), "s.gguf", &["--recipe", "q4_k_m", "--split", "3"]);
    let parts = [1, 2, 3].map(|number| folder.path().join(format!("s-0000{number}-of-00003.gguf")));
    let digest = |path: &PathBuf| hex(&fs::read(path).expect("read"));
    let expected = evaluate(&whole, &words, &few);
    assert_eq!(expected["files_sha256"], json!([digest(&whole)]));
    for part in &parts {
        let found = evaluate(part, &words, &few);
        for key in ["perplexity", "kl_mean", "kl_p99", "layers"] {
            assert_eq!(found[key], expected[key], "{key}");
        }
        assert_eq!(found["files_sha256"], json!(parts.each_ref().map(digest)));
    }
}

#[test]
fn the_parts_of_a_text_are_joined_to_the_figures_of_the_whole() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "a.gguf", &["--recipe", "q2_k"]);
    let words = fixture("tiny-r1/evaluation.txt");
    let few = ["--chunks", "5"];
    let whole = evaluate(&file, &words, &few);
    let (checkpoint, parts) =
        (fixture("tiny-r1"), [1, 2, 3].map(|n| folder.path().join(format!("{n}.json"))));
    let part = |number: usize, extra: &[&str]| {
        let part = format!("{number}/3");
        let arguments = ["evaluate", text(&checkpoint), text(&file), "--text", text(&words), "--quiet"];
        let more = ["--context", "256", "--part", &part, "-o", text(&parts[number - 1])];
        let all = [&arguments[..], &more, &few, extra].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let made = |number: usize, extra: &[&str]| {
        succeed(&part(number, extra).iter().map(String::as_str).collect::<Vec<_>>())
    };
    for number in [2, 3, 1] {
        made(number, &["--threads", &number.to_string()]);
    }
    assert!(made(2, &[]).contains("already made of this"));
    let paths = parts.each_ref().map(|path| text(path));
    let joined = succeed(&["evaluate", "--json", "--join", paths[1], paths[0], paths[2]]);
    let joined: Value = serde_json::from_str(&joined).expect("JSON");
    for (key, value) in whole.as_object().expect("figures") {
        if !["seconds", "peak_memory_bytes"].contains(&key.as_str()) {
            assert_eq!(joined[key], *value, "{key}");
        }
    }
    let table = succeed(&["evaluate", "--join", paths[0], paths[1], paths[2]]);
    assert!(table.contains("tokens scored          640 in 5 chunks of 256"), "{table}");

    let missing = fail(&["evaluate", "--join", paths[0], paths[2]], 2);
    assert!(missing.contains("part 2 of 3 is missing"), "{missing}");
    let manifest = format!("{}.json", file.display());
    assert!(fail(&["evaluate", "--join", &manifest], 2).contains("is no part of an evaluation"));
    // Something else under the name is not replaced.
    fs::write(&parts[0], "notes").expect("written");
    let arguments = part(1, &[]);
    let taken = fail(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 2);
    assert!(taken.contains("is there already"), "{taken}");
    let many = ["evaluate", text(&checkpoint), text(&file), "--text", text(&words), "--chunks", "2"];
    let none = fail(&[&many[..], &["--part", "1/3", "-o", text(&folder.path().join("x.json"))]].concat(), 2);
    assert!(none.contains("3 parts of a text of 2 chunks"), "{none}");
}

/// Each text is cut by itself, so its figures are those that it has alone, to the last bit.
#[test]
fn several_texts_have_figures_of_their_own() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "a.gguf", &["--recipe", "q2_k"]);
    let words = [fixture("tiny-r1/evaluation.txt"), fixture("tiny-r1/calibration.txt")];
    let alone = words.each_ref().map(|words| evaluate(&file, words, &["--chunks", "3"]));
    let both = evaluate(&file, &words[0], &["--chunks", "3", "--text", text(&words[1])]);
    assert!(alone[0].get("by_text").is_none());
    assert_eq!((&both["chunks"], &both["tokens"]), (&json!(6), &json!(768)));
    let by_text = both["by_text"].as_array().expect("two texts");
    assert_eq!(by_text.len(), 2);
    for ((alone, of_text), words) in alone.iter().zip(by_text).zip(&words) {
        assert_eq!(of_text["text"], text(words));
        for (key, value) in of_text.as_object().expect("figures").iter().filter(|(key, _)| *key != "text") {
            assert_eq!(alone[key], *value, "{key}");
        }
    }
    let mean = by_text.iter().map(|of_text| number(of_text, "kl_mean")).sum::<f64>() / 2.0;
    assert!((number(&both, "kl_mean") / mean - 1.0).abs() < 1e-12);

    // Four parts of six chunks: one begins in the first text and ends in the second.
    let checkpoint = fixture("tiny-r1");
    let arguments = ["evaluate", text(&checkpoint), text(&file), "--text", text(&words[0]), "--quiet"];
    let more = ["--text", text(&words[1]), "--context", "256", "--chunks", "3"];
    let parts = [1, 2, 3, 4].map(|number| {
        let path = folder.path().join(format!("{number}.json"));
        let part = format!("{number}/4");
        succeed(&[&arguments[..], &more, &["--part", &part, "-o", text(&path)]].concat());
        path
    });
    let paths = parts.each_ref().map(|path| text(path));
    let joined = succeed(&[&["evaluate", "--json", "--join"][..], &paths].concat());
    let joined: Value = serde_json::from_str(&joined).expect("JSON");
    assert_eq!(joined["by_text"], both["by_text"]);
    let table = succeed(&[&["evaluate", "--join"][..], &paths].concat());
    let row = |words: &Path| {
        let row = table.lines().find(|line| line.ends_with(text(words)));
        row.unwrap_or_else(|| panic!("{table}")).to_owned()
    };
    assert!(words.iter().all(|words| row(words).trim_start().starts_with("3 ")), "{table}");

    // The report has a line for each.
    let (certificate, page) = (folder.path().join("both.json"), folder.path().join("page.html"));
    fs::write(&certificate, both.to_string()).expect("written");
    let manifest = format!("{}.json", file.display());
    succeed(&["report", &manifest, "--certificate", text(&certificate), "-o", text(&page)]);
    let page = fs::read_to_string(&page).expect("a page");
    assert_eq!(page.matches("<dd>3 chunks, KL divergence mean").count(), 2);

    let short = excerpt(folder.path(), 1);
    let all = [&arguments[..], &["--text", text(&short), "--context", "256"]].concat();
    let said = fail(&all, 2);
    assert!(
        said.contains(&format!("{}: has ", short.display())) && said.contains("less than a chunk"),
        "{said}"
    );
}

#[test]
fn hidden_states_of_zeros_have_errors_that_a_report_shows() {
    let (copy, folder) = (Copy::new(), TempDir::new().expect("a temporary folder"));
    let embedding = "model.embed_tokens.weight";
    copy.edit_shard(embedding, |shard| shard.tensor(embedding).fill(0));
    let (file, page) = (folder.path().join("zeros.gguf"), folder.path().join("page.html"));
    succeed(&["quantize", text(copy.path()), "-o", text(&file), "--recipe", "q8_0", "--quiet"]);
    let words = excerpt(folder.path(), 240);
    let said = succeed(&[
        "evaluate",
        text(copy.path()),
        text(&file),
        "--text",
        text(&words),
        "--chunks",
        "1",
        "--quiet",
        "--json",
    ]);
    let found: Value = serde_json::from_str(&said).expect("JSON");
    assert!(
        found["layers"].as_array().is_some_and(|layers| layers.iter().all(|l| l["error"] == 0.0)),
        "{said}"
    );
    let certificate = folder.path().join("certificate.json");
    fs::write(&certificate, said).expect("written");
    let manifest = folder.path().join("zeros.gguf.json");
    succeed(&["report", text(&manifest), "--certificate", text(&certificate), "-o", text(&page)]);
}

#[test]
fn of_another_model_the_sizes_that_differ_are_named() {
    let (copy, folder) = (Copy::new(), TempDir::new().expect("a temporary folder"));
    copy.edit("config.json", |config| {
        config["rope_theta"] = 20_000.into();
        config["num_experts_per_tok"] = 1.into();
    });
    let file = quantize_fixture(folder.path(), "a.gguf", &["--recipe", "q8_0"]);
    let words = excerpt(folder.path(), 240);
    let stderr = fail(&["evaluate", text(copy.path()), text(&file), "--text", text(&words)], 2);
    assert!(stderr.contains("base of rotations 10000 (the checkpoint has 20000)"), "{stderr}");
    assert!(stderr.contains("experts of a token 2 (the checkpoint has 1)"), "{stderr}");
    assert!(!stderr.contains(['{', '_']), "no names of the program's own: {stderr}");
}

#[test]
fn an_evaluation_that_is_to_stop_stops() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = quantize_fixture(folder.path(), "a.gguf", &["--recipe", "q8_0"]);
    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("a plan");
    let description = model.describe().expect("a description");
    let file = ModelFile::open(&path).expect("sound");
    let (weights, of_file) = (Weights::new(&checkpoint, &model.tensors[..]), file.weights());
    let tokens: Vec<u32> = (0..128).collect();
    let asked = Asked { texts: &[&tokens], context: 64, questions: &[] };
    // After the second layer, and after the last, when only the heads are left.
    for last in [1, description.layers.len() - 1] {
        let (stop, heard) = (AtomicBool::new(false), AtomicBool::new(false));
        let told = |error: &quantpress::evaluate::LayerError| {
            assert!(!heard.load(Ordering::Relaxed), "layer {} after the stop", error.layer);
            if error.layer == last {
                stop.store(true, Ordering::Relaxed);
                heard.store(true, Ordering::Relaxed);
            }
        };
        let of = (&of_file, &file.description);
        let ended = run((&weights, description), of, asked, 1 << 30, &told, &stop);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        assert!(heard.load(Ordering::Relaxed));
    }
}

#[cfg(unix)]
#[test]
fn interrupted_it_ends_with_130() {
    use crate::support::interrupted::stopped_at;
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "a.gguf", &["--recipe", "q8_0"]);
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/evaluation.txt"));
    let arguments = ["evaluate", text(&checkpoint), text(&file), "--text", text(&words), "--chunks", "4"];
    for name in ["INT", "TERM", "HUP"] {
        let ended = stopped_at(&arguments, "evaluated", 1).go_on_with(name).wait_with_output();
        assert_eq!(ended.expect("ended").status.code(), Some(130), "{name}");
    }
}
