//! Published models at full size, without their weights: sparse shards with true headers, planned.

use std::time::Instant;

use quantpress::checkpoint::{Checkpoint, Fingerprint};
use quantpress::model::{Model, Options};
use quantpress::recipe::{Plan, Recipe, Wishes};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::published::{ALL, Published, contents, published};
use crate::support::shapes::{write_tokenizer, write_with};
use crate::support::{succeed, text};

fn written(model: &Published) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    write_with(folder.path(), &model.config, &model.tensors, model.shards, &contents(&model.tensors));
    let ids = model.config["vocab_size"].as_u64().expect("a number") as u32;
    write_tokenizer(folder.path(), ids - 1000, 1000);
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0]['content'] }}")
        .expect("written");
    folder
}

#[test]
fn published_models_have_the_tensors_and_weights_of_their_fact_sheets() {
    for name in ALL {
        let model = published(name);
        let folder = written(&model);
        let start = Instant::now();
        let checkpoint = Checkpoint::open_folder(folder.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let planned = Model::plan(&checkpoint, &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(planned.arch, model.arch, "{name}");
        let found = [planned.tensors.len() as u64, planned.weights()];
        let recipe =
            Recipe::load(if planned.experts[0] > 0 { "ud-iq1_s" } else { "q4_k_m" }).expect("a preset");
        let source = Fingerprint::of(&checkpoint).expect("read");
        let plan = Plan::new(planned, source, Wishes::new(&recipe)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "{name}: {} tensors in {} shards, planned in {seconds:.2} s: {} bytes in {}",
            model.tensors.len(),
            model.shards,
            plan.file_bytes(),
            plan.recipe
        );
        assert_eq!(found, model.expected, "{name}: tensors and weights");
        assert!(plan.warnings.is_empty(), "{name}: {:?}", plan.warnings);
    }
}

#[test]
fn the_largest_are_planned_within_300_mb() {
    for name in ["DeepSeek-V3.2", "Kimi-K2-Thinking"] {
        let model = published(name);
        let folder = written(&model);
        let told: Value =
            serde_json::from_str(&succeed(&["plan", text(folder.path()), "--json"])).expect("JSON");
        let memory = told["peak_memory_bytes"].as_u64();
        eprintln!("{name}: planned in {} s with {memory:?} bytes of memory", told["seconds"]);
        assert_eq!([&told["tensors"], &told["weights"]].map(Value::as_u64), model.expected.map(Some));
        assert!(memory.is_none_or(|bytes| bytes < 300_000_000), "{name}: {memory:?} bytes");
    }
}
