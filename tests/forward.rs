//! The forward pass: the logits of real llama.cpp, from a checkpoint and from files, with any threads and memory.

use std::fs;
use std::path::Path;

use quantpress::checkpoint::Checkpoint;
use quantpress::forward::{Head, Ignore, Pass, Weights, apply};
use quantpress::model::{Description, Encoder, Model, ModelFile, Options};
use rayon::ThreadPoolBuilder;
use serde_json::json;
use tempfile::TempDir;

use crate::support::python::llama;
use crate::support::{fixture, quantize_fixture, text};

const CONTEXT: usize = 256;

/// The first tokens of the evaluation text, in chunks that begin with BOS.
fn tokens(chunks: usize) -> Vec<u32> {
    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("sound");
    let evaluation = fs::read_to_string(fixture("tiny-r1/evaluation.txt")).expect("read");
    let mut ids = Encoder::read(&checkpoint).expect("a tokenizer").encode(&evaluation, 1024).expect("ids");
    ids.truncate(chunks * CONTEXT);
    ids.iter_mut().step_by(CONTEXT).for_each(|id| *id = 0);
    ids
}

/// All logits of chunks of `context` tokens.
pub fn logits(
    weights: &Weights,
    model: &Description,
    tokens: &[u32],
    context: usize,
    memory: u64,
) -> Vec<f32> {
    let mut pass = Pass::new(weights, model, tokens, context, memory).expect("embeddings");
    for layer in 0..model.layers.len() {
        pass.layer(weights, layer, &Ignore).expect("computed");
    }
    let head = Head::read(weights, model).expect("a head");
    let mut states = pass.states().read(0..tokens.len()).expect("states");
    head.normalise(&mut states);
    let rows = head.rows(weights, 0..model.vocabulary as usize).expect("rows");
    apply(&rows, states.view()).values().to_vec()
}

fn of_checkpoint(tokens: &[u32], memory: u64) -> Vec<f32> {
    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let weights = Weights::new(&checkpoint, &model.tensors[..]);
    logits(&weights, model.describe().expect("known"), tokens, CONTEXT, memory)
}

fn of_file(file: &Path, tokens: &[u32]) -> Vec<f32> {
    let file = ModelFile::open(file).expect("sound");
    logits(&file.weights(), &file.description, tokens, CONTEXT, 1 << 30)
}

/// Norm of the difference over the norm.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (difference / expected.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

/// llama.cpp's logits of one chunk.
fn expected(file: &Path, tokens: &[u32]) -> Option<Vec<f32>> {
    let folder = TempDir::new().expect("a temporary folder");
    let (ids, out) = (folder.path().join("ids.json"), folder.path().join("logits.f32"));
    fs::write(&ids, json!(tokens).to_string()).expect("written");
    llama(&["logits", text(file), text(&ids), text(&out)])?;
    let bytes = fs::read(out).expect("read");
    Some(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

#[test]
fn logits_equal_llama_cpps() {
    let folder = TempDir::new().expect("a temporary folder");
    let tokens = tokens(1);
    // With F32 weights llama.cpp does not round activations either.
    let f32 = quantize_fixture(folder.path(), "f32.gguf", &["--recipe", "bf16", "--override", ".=f32"]);
    let Some(exact) = expected(&f32, &tokens) else { return };
    let found = of_file(&f32, &tokens);
    let distance_exact = distance(&found, &exact);
    // The checkpoint's FP8 weights times their scales are the F32 file's.
    assert_eq!(found, of_checkpoint(&tokens, 1 << 30));

    let bf16 = quantize_fixture(folder.path(), "bf16.gguf", &["--recipe", "bf16"]);
    let rounded = expected(&bf16, &tokens).expect("it ran before");
    let distance_bf16 = distance(&of_file(&bf16, &tokens), &rounded);
    eprintln!("logits differ from llama.cpp's by {distance_exact:.2e} in F32, {distance_bf16:.2e} in BF16");
    assert!(distance_exact < 2e-5, "{distance_exact}");
    // With BF16 weights it rounds every activation to BF16 as well, which alone makes this difference: with the same
    // weights in F32 there is none.
    assert!(distance_bf16 < 1.5e-3, "{distance_bf16}");
}

#[test]
fn threads_and_memory_do_not_change_a_bit() {
    let tokens = tokens(3);
    let run = |threads, memory| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| of_checkpoint(&tokens, memory))
    };
    let expected = run(1, 1 << 30);
    assert_eq!(expected, run(3, 1 << 30));
    assert_eq!(expected, run(2, 0), "states on disk");
    // A chunk is the same whatever comes after it.
    let alone = of_checkpoint(&tokens[..CONTEXT], 1 << 30);
    assert_eq!(expected[..alone.len()], alone[..]);
}
