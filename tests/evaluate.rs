//! `evaluate`: the figures of real llama.cpp, and errors that name their place.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use quantpress::gguf::Contents;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::python::llama;
use crate::support::{fail, fixture, quantize_fixture, succeed, text};

/// The beginning of the evaluation text: llama.cpp needs a minute for all of it.
fn excerpt(folder: &Path) -> PathBuf {
    let path = folder.join("excerpt.txt");
    let all = fs::read_to_string(fixture("tiny-r1/evaluation.txt")).expect("read");
    fs::write(&path, all.lines().take(240).flat_map(|line| [line, "\n"]).collect::<String>())
        .expect("written");
    path
}

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
    let words = excerpt(folder.path());
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
    let (checkpoint, words) = (fixture("tiny-r1"), excerpt(folder.path()));
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
