//! The relatives of R1, by the differences that their configurations and tokenizers have.

use std::fs;
use std::path::Path;

use quantpress::Result;
use quantpress::checkpoint::Checkpoint;
use quantpress::gguf::Value as Gguf;
use quantpress::model::{Description, Model, Options};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::shapes::{r1_config, tensors, write, write_tokenizer};
use crate::support::{assert_golden, fixture};

/// R1's configuration with other fields; null removes one.
fn config(changes: Value) -> Value {
    let mut config = r1_config();
    for (field, value) in changes.as_object().expect("fields") {
        config[field] = value.clone();
    }
    config.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    config
}

/// The plan of a checkpoint of these shapes, which `prepare` may add files to.
fn plan(config: &Value, options: &Options, prepare: impl FnOnce(&Path)) -> Result<Model> {
    let folder = TempDir::new().expect("a temporary folder");
    write(folder.path(), config, &tensors(config), 1);
    write_tokenizer(folder.path(), 1000, 10);
    prepare(folder.path());
    Model::plan(&Checkpoint::open_folder(folder.path())?, options)
}

#[track_caller]
fn has(model: &Model, key: &str, value: Gguf) {
    assert_eq!(model.metadata.get(key), Some(&value), "{key}");
}

/// Asserts that metadata, tensors and their sources are what they always were.
#[track_caller]
fn assert_golden_plan(name: &str, model: &Model) {
    let mut plan = String::new();
    for (key, value) in model.metadata.iter() {
        plan += &format!("{key} {value:?}\n");
    }
    for tensor in &model.tensors {
        let (name, shape, norm) = (&tensor.name, &tensor.shape, tensor.input_norm.as_deref());
        plan += &format!("{name} {} {:?} {shape:?} {norm:?}\n", tensor.role, tensor.layer);
        for slice in &tensor.slices {
            plan += &format!("  {} {:?} {}\n", slice.tensor, slice.rows, slice.transposed);
        }
    }
    assert_golden(name, plan.as_bytes());
    let read = Description::of_plan(&model.metadata, &model.tensors).expect("all keys are there");
    assert_eq!(Some(&read), model.description.as_ref(), "metadata say what the model is");
}

fn names(model: &Model) -> Vec<&str> {
    model.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
}

#[test]
fn v2_lite_has_one_query_matrix_and_softmax_routing() {
    let config = config(json!({
        "architectures": ["DeepseekV2ForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 27,
        "num_nextn_predict_layers": null, "first_k_dense_replace": 1, "intermediate_size": 10944,
        "moe_intermediate_size": 1408, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
        "n_group": 1, "topk_group": 1, "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": false,
        "routed_scaling_factor": 1.0, "num_attention_heads": 16, "q_lora_rank": null, "vocab_size": 102400,
        "quantization_config": null,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
            "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707},
    }));
    let model = plan(&config, &Options::default(), |_| {}).expect("planned");
    assert_golden_plan("plan-v2-lite", &model);
    has(&model, "deepseek2.expert_gating_func", Gguf::U32(1));
    has(&model, "deepseek2.expert_shared_count", Gguf::U32(2));
    has(&model, "deepseek2.rope.scaling.yarn_log_multiplier", Gguf::F32(0.1 * 0.707));
    assert_eq!(model.metadata.get("deepseek2.attention.q_lora_rank"), None);
    assert_eq!(model.metadata.get("deepseek2.expert_weights_norm"), None);
    let names = names(&model);
    assert!(names.contains(&"blk.3.attn_q.weight") && !names.contains(&"blk.3.attn_q_a.weight"));
    assert!(!names.iter().any(|name| name.contains("exp_probs_b")));
    let shared =
        model.tensors.iter().find(|t| t.name == "blk.1.ffn_down_shexp.weight").expect("shared experts");
    assert_eq!(shared.shape, [2 * 1408, 2048]);
}

#[test]
fn v2_is_limited_to_groups() {
    let config = config(json!({
        "architectures": ["DeepseekV2ForCausalLM"], "hidden_size": 5120, "num_hidden_layers": 60,
        "num_nextn_predict_layers": null, "first_k_dense_replace": 1, "intermediate_size": 12288,
        "moe_intermediate_size": 1536, "n_routed_experts": 160, "num_experts_per_tok": 6, "n_shared_experts": 2,
        "n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy", "scoring_func": "softmax",
        "norm_topk_prob": false, "routed_scaling_factor": 16.0, "vocab_size": 102400, "quantization_config": null,
    }));
    let model = plan(&config, &Options::default(), |_| {}).expect("planned");
    assert_golden_plan("plan-v2", &model);
    has(&model, "deepseek2.expert_group_count", Gguf::U32(8));
    has(&model, "deepseek2.expert_group_used_count", Gguf::U32(3));
    has(&model, "deepseek2.expert_weights_scale", Gguf::F32(16.0));
    has(&model, "deepseek2.attention.q_lora_rank", Gguf::U32(1536));
}

/// Moonlight and Kimi-K2 come with ranks instead of merges, and their special tokens in tokenizer_config.json.
fn kimi_tokenizer(folder: &Path) {
    fs::remove_file(folder.join("tokenizer.json")).expect("it was there");
    fs::write(folder.join("tiktoken.model"), "YQ== 0\nYg== 1\nYWI= 2\n").expect("written");
    let config = json!({
        "tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]",
        "added_tokens_decoder": {"3": {"content": "[BOS]", "special": true}, "4": {"content": "[EOS]", "special": true}},
    });
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("written");
}

#[test]
fn moonlight_has_no_yarn_and_kimis_tokenizer() {
    let config = config(json!({
        "hidden_size": 2048, "num_hidden_layers": 27, "num_nextn_predict_layers": 0, "first_k_dense_replace": 1,
        "intermediate_size": 11264, "moe_intermediate_size": 1408, "n_routed_experts": 64, "num_experts_per_tok": 6,
        "n_shared_experts": 2, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446,
        "num_attention_heads": 16, "q_lora_rank": null, "rope_theta": 50000.0, "rms_norm_eps": 1e-5,
        "rope_scaling": null, "quantization_config": null, "vocab_size": 163840,
    }));
    let model = plan(&config, &Options::default(), kimi_tokenizer).expect("planned");
    assert_golden_plan("plan-moonlight", &model);
    has(&model, "deepseek2.rope.freq_base", Gguf::F32(50000.0));
    has(&model, "tokenizer.ggml.pre", "kimi-k2".into());
    has(&model, "tokenizer.ggml.merges", Gguf::Strings(vec!["a b".into()]));
    has(&model, "tokenizer.ggml.bos_token_id", Gguf::U32(3));
    has(&model, "tokenizer.ggml.add_bos_token", Gguf::Bool(false));
    assert_eq!(model.metadata.get("deepseek2.rope.scaling.type"), None);
    assert!(names(&model).contains(&"blk.1.exp_probs_b.bias"));
}

#[test]
fn kimi_k2_has_384_experts_in_one_group() {
    let config = config(json!({
        "num_attention_heads": 64, "n_routed_experts": 384, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 0, "routed_scaling_factor": 2.827, "vocab_size": 163840, "rope_theta": 50000.0,
        "rope_scaling": {"type": "yarn", "factor": 64, "original_max_position_embeddings": 4096, "beta_fast": 1,
            "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    }));
    let model = plan(&config, &Options::default(), kimi_tokenizer).expect("planned");
    assert_golden_plan("plan-kimi-k2", &model);
    has(&model, "deepseek2.expert_count", Gguf::U32(384));
    has(&model, "general.size_label", "384x14B".into());
    let experts = model.tensors.iter().find(|t| t.name == "blk.60.ffn_up_exps.weight").expect("experts");
    assert_eq!(experts.shape, [7168, 2048, 384]);
    assert_eq!(&*experts.slices[10].tensor, "model.layers.60.mlp.experts.10.up_proj.weight");
}

#[test]
fn newer_configs_say_rope_parameters() {
    let config = config(json!({
        "rope_theta": null, "rope_scaling": null,
        "rope_parameters": {"rope_theta": 12345.0, "rope_type": "yarn", "factor": 40,
            "original_max_position_embeddings": 4096, "mscale_all_dim": 1.0},
    }));
    let model = plan(&config, &Options::default(), |_| {}).expect("planned");
    assert_golden_plan("plan-rope-parameters", &model);
    has(&model, "deepseek2.rope.freq_base", Gguf::F32(12345.0));
    has(&model, "deepseek2.rope.scaling.type", "yarn".into());
    has(&model, "deepseek2.rope.scaling.factor", Gguf::F32(40.0));
}

#[test]
fn the_mtp_layer_is_left_out_unless_asked_for() {
    let without = plan(&r1_config(), &Options::default(), |_| {}).expect("planned");
    assert_eq!((without.tensors.len(), without.layers), (1086, 61));
    assert_eq!(without.metadata.get("deepseek2.nextn_predict_layers"), None);
    let options = Options { keep_mtp: true, ..Options::default() };
    let with = plan(&r1_config(), &options, |_| {}).expect("planned");
    // A MoE layer's 18 tensors, and 6 of its own.
    assert_eq!((with.tensors.len(), with.layers), (1086 + 24, 62));
    assert_golden_plan("plan-r1-with-mtp", &with);
    has(&with, "deepseek2.block_count", Gguf::U32(62));
    has(&with, "deepseek2.nextn_predict_layers", Gguf::U32(1));
    assert!(names(&with).contains(&"blk.61.nextn.eh_proj.weight"));
}

#[test]
fn keys_and_values_of_kv_b_are_split_by_head() {
    let model = plan(&r1_config(), &Options::default(), |_| {}).expect("planned");
    let find = |name: &str| model.tensors.iter().find(|t| t.name == name).expect("planned");
    let (k, v) = (find("blk.7.attn_k_b.weight"), find("blk.7.attn_v_b.weight"));
    assert_eq!((&k.shape[..], &v.shape[..]), (&[128, 512, 128][..], &[512, 128, 128][..]));
    assert_eq!((k.slices[3].rows.clone(), k.slices[3].transposed), (768..896, true));
    assert_eq!((v.slices[3].rows.clone(), v.slices[3].transposed), (896..1024, false));
}

#[test]
fn experts_are_in_numeric_order() {
    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let experts = model.tensors.iter().find(|t| t.name == "blk.1.ffn_gate_exps.weight").expect("experts");
    for (number, slice) in experts.slices.iter().enumerate() {
        assert_eq!(*slice.tensor, *format!("model.layers.1.mlp.experts.{number}.gate_proj.weight"));
    }
}

#[test]
fn a_name_and_a_splitter_can_be_given() {
    let options =
        Options { name: Some("DeepSeek R1".into()), pre: Some("default".into()), ..Options::default() };
    let model = plan(&r1_config(), &options, |_| {}).expect("planned");
    has(&model, "general.name", "DeepSeek R1".into());
    has(&model, "tokenizer.ggml.pre", "default".into());
    has(&model, "general.size_label", "256x20B".into());
}

#[test]
fn ids_without_a_token_are_padding() {
    let model = plan(&r1_config(), &Options::default(), |_| {}).expect("planned");
    let Some(Gguf::Strings(tokens)) = model.metadata.get("tokenizer.ggml.tokens") else {
        panic!("no tokens")
    };
    let Some(Gguf::I32s(kinds)) = model.metadata.get("tokenizer.ggml.token_type") else { panic!("no types") };
    assert_eq!((tokens.len(), kinds.len()), (129_280, 129_280));
    assert_eq!((tokens[999].as_str(), kinds[999]), ("t999", 1));
    assert_eq!((tokens[1000].as_str(), kinds[1000]), ("<｜special 0｜>", 3));
    assert_eq!((tokens[1010].as_str(), kinds[1010]), ("[PAD1010]", 5));
}
