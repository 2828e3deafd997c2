//! Published models at full size, without their weights: sparse shards with true headers, planned.

use std::time::Instant;

use quant_kernels::Format;
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
        if plan.model.experts[0] > 0 {
            is_dynamic(name, &plan);
        }
        assert!(plan.warnings.is_empty(), "{name}: {:?}", plan.warnings);
    }
}

/// The preset's types are where its rules by roles and shares of the layers mean them, whatever the family.
fn is_dynamic(name: &str, plan: &Plan) {
    // Rows of gpt-oss do not fit blocks of 256: each type has a substitute of larger blocks' bits or more.
    let fit = name != "gpt-oss-120b";
    let [least, first, kept, read] = match fit {
        true => [Format::IQ1_S, Format::IQ2_XXS, Format::Q6_K, Format::Q4_K],
        false => [Format::IQ4_NL, Format::IQ4_NL, Format::Q8_0, Format::Q5_0],
    };
    let of = |class: &str| -> Vec<Format> {
        let all = plan.model.tensors.iter().zip(&plan.choices);
        all.filter(|(tensor, _)| tensor.class() == class).map(|(_, choice)| choice.format).collect()
    };
    let layers = (plan.model.layers - plan.model.dense_layers) as usize;
    for class in ["ffn_gate_exps", "ffn_up_exps"] {
        assert_eq!(of(class), vec![least; layers], "{name}: {class}");
    }
    let down = of("ffn_down_exps");
    let (some, rest) = down.split_at(layers.div_ceil(10));
    assert!(some.iter().all(|&format| format == first), "{name}: {some:?}");
    assert!(
        rest.len() + some.len() == layers && rest.iter().all(|&format| format == least),
        "{name}: {rest:?}"
    );
    // All that is remembered of a token passes through these; one of the two pairs is there.
    for class in ["attn_kv_a_mqa", "attn_k", "attn_v"] {
        assert!(of(class).iter().all(|&format| format == kept), "{name}: {class}");
    }
    assert!(!of("attn_kv_a_mqa").is_empty() || !of("attn_k").is_empty(), "{name}");
    assert!(of("attn_output").iter().all(|&format| format == Format::Q4_K), "{name}");
    assert!(of("token_embd") == [read] && (!fit || plan.bits_per_weight() < 1.8), "{name}");
}

#[test]
fn published_models_are_planned_within_300_mb() {
    for name in ALL {
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
