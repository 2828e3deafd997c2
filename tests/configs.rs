//! Fields of config.json that change what the model computes: written, defaulted as the model's own class does, or
//! refused; and those that are unknown are warnings.

use quantpress::Result;
use quantpress::checkpoint::Checkpoint;
use quantpress::gguf::Value as Gguf;
use quantpress::model::{Model, Options};
use serde_json::{Value, json};

use crate::support::checkpoint::Copy;
use crate::support::{fail, text};

fn plan(change: impl FnOnce(&mut Value)) -> Result<Model> {
    let copy = Copy::new();
    copy.edit("config.json", change);
    Model::plan(&Checkpoint::open_folder(copy.path())?, &Options::default())
}

fn without(fields: &[&str]) -> Model {
    let remove = |config: &mut Value| {
        fields.iter().for_each(|field| drop(config.as_object_mut().expect("fields").remove(*field)));
    };
    plan(remove).expect("planned")
}

fn key<'a>(model: &'a Model, key: &str) -> Option<&'a Gguf> {
    model.metadata.get(&format!("deepseek2.{key}"))
}

#[test]
fn absent_fields_are_those_of_the_models_class() {
    // transformers' own DeepseekV3Config does not have the first two.
    let model = without(&["scoring_func", "topk_method", "moe_layer_freq", "ep_size", "norm_topk_prob"]);
    assert_eq!(key(&model, "expert_gating_func"), Some(&Gguf::U32(2)));
    assert_eq!(key(&model, "expert_weights_norm"), Some(&Gguf::Bool(true)));
    assert!(model.tensors.iter().any(|tensor| tensor.name == "blk.1.exp_probs_b.bias"));
    let model = without(&["n_group", "topk_group"]);
    assert_eq!(key(&model, "expert_group_count"), Some(&Gguf::U32(8)));
    assert_eq!(key(&model, "expert_group_used_count"), Some(&Gguf::U32(4)));
    let second = |config: &mut Value| {
        config["architectures"] = json!(["DeepseekV2ForCausalLM"]);
        for field in ["scoring_func", "topk_method", "norm_topk_prob"] {
            config.as_object_mut().expect("fields").remove(field);
        }
    };
    let model = plan(second).expect("planned");
    assert_eq!(key(&model, "expert_gating_func"), Some(&Gguf::U32(1)));
    assert_eq!(key(&model, "expert_weights_norm"), None);
    // Its greedy choice does not look at groups.
    assert_eq!(key(&model, "expert_group_count"), None);
    // The layer is there, whether or not the configuration counts it.
    assert_eq!(without(&["num_nextn_predict_layers"]).layers, 5);
}

#[test]
fn what_has_no_gguf_form_is_refused_by_its_field() {
    for (field, value) in [
        ("rope_interleave", json!(false)),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("topk_method", json!("sinkhorn")),
        ("scoring_func", json!("sqrtsoftplus")),
        ("hidden_act", json!("gelu")),
        ("use_sliding_window", json!(true)),
        ("partial_rotary_factor", json!(0.5)),
        ("final_logit_softcapping", json!(30.0)),
        ("moe_layer_freq", json!(2)),
        ("moe_layer_freq", json!([0, 1, 0, 1, 1])),
        // Of V3's class, whatever the other one does and llama.cpp could.
        ("scoring_func", json!("softmax")),
        ("topk_method", json!("greedy")),
    ] {
        let error = plan(|config| config[field] = value).expect_err(field);
        assert!(error.exit_code() == 4 && error.to_string().contains(field), "{error}");
    }
    for (field, value) in [
        ("mscale", json!(0.707)),
        ("mscale_all_dim", json!(0.0)),
        ("attention_factor", json!(1.2)),
        ("truncate", json!(false)),
        ("partial_rotary_factor", json!(0.5)),
    ] {
        for place in ["rope_scaling", "rope_parameters"] {
            let change = |config: &mut Value| {
                config[place] = config["rope_scaling"].clone();
                config[place][field] = value.clone();
            };
            let error = plan(change).expect_err(field);
            let named = error.to_string();
            assert!(error.exit_code() == 4 && named.contains(field) && named.contains(place), "{error}");
        }
    }
    // Without both, rotated columns grow by the usual factor; real llama.cpp has another perplexity then.
    let plain = |config: &mut Value| {
        let scaling = config["rope_scaling"].as_object_mut().expect("fields");
        scaling.remove("mscale");
        scaling.remove("mscale_all_dim");
    };
    let error = plan(plain).expect_err("plain yarn");
    assert!(error.exit_code() == 4 && error.to_string().contains("mscale"), "{error}");
}

#[test]
fn what_does_not_go_together_is_told() {
    let told = |change: &dyn Fn(&mut Value)| -> Vec<String> {
        plan(change).expect("planned").warnings.iter().map(ToString::to_string).collect()
    };
    for (field, value, words) in [
        (
            "model_type",
            json!("llama"),
            "model_type is \"llama\"; DeepseekV3ForCausalLM is deepseek_v3 or kimi_k2",
        ),
        ("num_key_value_heads", json!(2), "num_key_value_heads is 2, of 4 heads"),
        (
            "num_nextn_predict_layers",
            json!(2),
            "num_nextn_predict_layers is 2, but the checkpoint has only 1",
        ),
        (
            "qk_head_dim",
            json!(128),
            "qk_head_dim is 128; qk_nope_head_dim and qk_rope_head_dim are 192 together",
        ),
        ("eos_token_id", json!(999_999), "eos_token_id is 999999, which is the id of none of 1024 tokens"),
        ("eos_token_id", json!([1, 999_999]), "eos_token_id is 999999"),
        ("bos_token_id", json!(7), "bos_token_id is 7; tokenizer_config.json: bos_token is"),
    ] {
        let told = told(&|config| config[field] = value.clone());
        assert!(told.len() == 1 && told[0].contains(words), "{field}: {told:?}");
    }
    assert_eq!(told(&|config| config["moe_layer_freq"] = json!([0, 1, 1, 1, 1])), [""; 0]);
    assert_eq!(told(&|config| config["num_key_value_heads"] = json!(1)), [""; 0]);
    // The position encoding in its older and its newer place.
    let both = |factor: f64| {
        told(&|config| {
            config["rope_parameters"] = config["rope_scaling"].clone();
            config["rope_parameters"]["rope_theta"] = json!(10000.0);
            config["rope_parameters"]["factor"] = json!(factor);
        })
    };
    assert_eq!(both(4.0), [""; 0]);
    let words = "rope_scaling.factor is 4, but config.json: rope_parameters.factor is 8.0, and counts";
    assert!(both(8.0).len() == 1 && both(8.0)[0].contains(words), "{:?}", both(8.0));
    // A tied head is the embedding, and the fixture's is another one.
    let tied = |config: &mut Value| config["tie_word_embeddings"] = json!(true);
    let words = ["lm_head.weight", "numbers of its own", "tie_word_embeddings"];
    let of_two = told(&tied);
    assert!(of_two.len() == 1 && words.iter().all(|words| of_two[0].contains(words)), "{of_two:?}");
    let copy = Copy::new();
    copy.edit("config.json", tied);
    let mut embedding = Vec::new();
    let name = "model.embed_tokens.weight";
    copy.edit_shard(name, |shard| embedding = shard.tensor(name).to_vec());
    copy.edit_shard("lm_head.weight", |shard| shard.tensor("lm_head.weight").copy_from_slice(&embedding));
    let model = Model::plan(&Checkpoint::open_folder(copy.path()).expect("sound"), &Options::default());
    assert!(model.expect("planned").warnings.is_empty());
}

#[test]
fn unknown_fields_are_warnings_and_known_ones_are_not() {
    assert_eq!(plan(|_| {}).expect("planned").warnings.len(), 0);
    // What transformers, DeepSeek's and Moonshot's configurations have besides.
    let usual = json!({
        "_name_or_path": "x", "_attn_implementation": "eager", "auto_map": {"AutoConfig": "x"}, "aux_loss_alpha": 0.001,
        "seq_aux": true, "pretraining_tp": 1, "initializer_range": 0.02, "attention_dropout": 0.0, "use_cache": true,
        "model_type": "kimi_k2", "num_key_value_heads": 4, "dtype": "bfloat16", "head_dim": 64, "qk_head_dim": 192, "rope_interleave": true,
        "return_dict": true, "output_attentions": false, "pad_token_id": 2, "temperature": 1.0, "top_k": 50,
        "id2label": {"0": "a"}, "pruned_heads": {}, "is_decoder": false, "tie_encoder_decoder": false,
        "chunk_size_feed_forward": 0, "sliding_window": null, "unsloth_fixed": true, "add_cross_attention": false,
    });
    let all = |config: &mut Value| {
        usual.as_object().expect("fields").iter().for_each(|(field, value)| config[field] = value.clone());
    };
    let warnings: Vec<String> =
        plan(all).expect("planned").warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, [""; 0]);
    let unknown = |config: &mut Value| {
        config["logit_scale"] = json!(0.5);
        config["rope_scaling"]["llama_4_scaling_beta"] = json!(0.1);
    };
    let warnings: Vec<String> =
        plan(unknown).expect("planned").warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("logit_scale is 0.5")
            && warnings[1].contains("rope_scaling.llama_4_scaling_beta")
    );
    let copy = Copy::new();
    copy.edit("config.json", unknown);
    let stderr = fail(&["plan", text(copy.path()), "--strict"], 4);
    assert!(stderr.contains("logit_scale"), "{stderr}");
}
