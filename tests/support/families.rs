//! Small random checkpoints of many families in the layouts of the published ones, the same each time they are made.
//! `fixtures/families/make.py` keeps what transformers and llama.cpp's converter make of them.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{hybrid, pieces};

/// Token ids of all of them.
pub const VOCABULARY: u64 = 512;

/// A checkpoint to be written.
pub struct Family {
    /// The name of its reference.
    pub name: &'static str,
    /// config.json.
    pub config: Value,
    /// Names, types and shapes of the tensors.
    pub tensors: Vec<(String, &'static str, Vec<u64>)>,
    /// The splitting rules, and whether words that are tokens are taken whole.
    rules: (&'static str, bool),
    /// Texts of special tokens; the first begins texts if the template says so, the second ends them.
    specials: &'static [&'static str],
    /// Whether a text begins with the first of the special tokens.
    begins: bool,
}

/// No rules: SentencePiece's pieces.
const PIECES: &str = "";

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const QWEN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWENS: &[&str] = &["<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|pad|>"];

/// The checkpoint of this name.
pub fn family(name: &str) -> Family {
    match name {
        "llama" => {
            let config = json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 64,
                "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true, "rope_theta": 500000.0,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
            });
            let specials = &["<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>", "<|start_header_id|>"];
            let shape = Shape { qkv_bias: true, o_bias: true, mlp_bias: true, ..Shape::default() };
            Family::new("llama", config, shape, (LLAMA3, true), specials, true)
        }
        "llama2" => {
            let config = json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_key_value_heads": 4,
                "rope_theta": 10000.0, "rope_scaling": null, "attention_bias": false, "pretraining_tp": 1,
                "bos_token_id": 1, "eos_token_id": 2,
            });
            Family::new("llama2", config, Shape::default(), (PIECES, false), &["<s>", "</s>", "<unk>"], true)
        }
        "mixtral" => {
            let config = json!({
                "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "rope_theta": 1000000.0,
                "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": null,
                "intermediate_size": 256, "router_aux_loss_coef": 0.02, "output_router_logits": false,
            });
            let shape =
                Shape { experts: Some(Experts { sparse: true, ..Experts::default() }), ..Shape::default() };
            Family::new("mixtral", config, shape, (TEKKEN, true), &["<s>", "</s>", "[INST]", "[/INST]"], true)
        }
        "qwen2" => {
            let config = json!({
                "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_theta": 10000.0,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
                "use_sliding_window": false, "sliding_window": null, "max_window_layers": 2,
            });
            let specials =
                &["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<|endoftext|>"];
            Family::new(
                "qwen2",
                config,
                Shape { qkv_bias: true, ..Shape::default() },
                (QWEN, false),
                specials,
                true,
            )
        }
        "qwen3" => {
            let config = json!({
                "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rope_theta": 1000000.0, "head_dim": 96,
                "rope_scaling": null, "attention_bias": false, "tie_word_embeddings": true,
                "use_sliding_window": false, "sliding_window": null, "max_window_layers": 2,
            });
            let shape = Shape { qk_norm: Some(false), ..Shape::default() };
            Family::new("qwen3", config, shape, (QWEN, false), QWENS, false)
        }
        "qwen2moe" => {
            let config = json!({
                "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "rope_theta": 1000000.0,
                "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
                "shared_expert_intermediate_size": 512, "norm_topk_prob": false, "decoder_sparse_step": 1,
                "mlp_only_layers": [], "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 2,
                "router_aux_loss_coef": 0.001, "output_router_logits": false,
            });
            let experts =
                Experts { shared: Some(("shared_expert", 512)), shared_gate: true, ..Experts::default() };
            let shape = Shape { qkv_bias: true, experts: Some(experts), ..Shape::default() };
            Family::new("qwen2moe", config, shape, (QWEN, false), QWENS, false)
        }
        "qwen35" => {
            let config = json!({
                "model_type": "qwen3_5_text", "num_hidden_layers": 4, "head_dim": 64, "tie_word_embeddings": true,
                "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
                "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
                "linear_value_head_dim": 128, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
                "attention_bias": false, "attn_output_gate": true, "mamba_ssm_dtype": "float32",
                "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": false,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25,
                    "mrope_section": [3, 3, 2], "mrope_interleaved": true},
            });
            let whole = json!({
                "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
                "tie_word_embeddings": true, "image_token_id": 450, "video_token_id": 451,
                "vision_start_token_id": 448, "vision_end_token_id": 449,
                "vision_config": {"model_type": "qwen3_5_vision", "depth": 1, "hidden_size": 64, "num_heads": 2,
                    "intermediate_size": 64, "out_hidden_size": 256, "num_position_embeddings": 16},
            });
            let mut family = Family::of_hybrid("qwen35", config, hybrid::qwen35, (QWEN35, false), QWENS);
            for (name, ..) in &mut family.tensors {
                *name = name.replacen("model.", "model.language_model.", 1);
            }
            family.tensors.push(("model.visual.merger.norm.weight".to_owned(), "BF16", vec![64]));
            family.of(whole)
        }
        "deepseek4" => {
            let config = json!({
                "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "num_hidden_layers": 4,
                "num_key_value_heads": 1, "head_dim": 128, "qk_rope_head_dim": 64, "q_lora_rank": 256,
                "o_groups": 2, "o_lora_rank": 128, "n_routed_experts": 4, "num_experts_per_tok": 2,
                "n_shared_experts": 1, "moe_intermediate_size": 256, "norm_topk_prob": true,
                "routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc",
                "num_hash_layers": 1, "num_nextn_predict_layers": 1, "sliding_window": 128, "swiglu_limit": 10.0,
                "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "index_n_heads": 4, "index_head_dim": 64,
                "index_topk": 512, "compress_ratios": [0, 4, 128, 4, 0], "compress_rope_theta": 160000.0,
                "rope_theta": 10000.0, "attention_bias": false, "expert_dtype": "fp4",
                "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
                    "beta_fast": 32, "beta_slow": 1},
                "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                    "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
            });
            let specials =
                &["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<|endoftext|>"];
            let mut family =
                Family::of_hybrid("deepseek4", config, hybrid::deepseek4, (QWEN, false), specials);
            family.config.as_object_mut().expect("fields").remove("intermediate_size");
            Family { begins: true, ..family }
        }
        "qwen35moe" => {
            let config = json!({
                "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "head_dim": 64,
                "num_hidden_layers": 3, "linear_conv_kernel_dim": 4,
                "layer_types": ["linear_attention", "full_attention", "linear_attention"],
                "full_attention_interval": 2, "linear_key_head_dim": 128,
                "linear_value_head_dim": 128, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
                "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
                "shared_expert_intermediate_size": 256, "router_aux_loss_coef": 0.001,
                "output_router_logits": false, "mtp_num_hidden_layers": 1,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.5},
            });
            let mut family = Family::of_hybrid("qwen35moe", config, hybrid::qwen35, (QWEN35, false), QWENS);
            // Not of a class without dense layers.
            family.config.as_object_mut().expect("fields").remove("intermediate_size");
            family
        }
        "glm4moe" => {
            let config = json!({
                "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "rope_theta": 1000000.0,
                "head_dim": 64, "partial_rotary_factor": 0.5, "attention_bias": true, "use_qk_norm": true,
                "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
                "moe_intermediate_size": 256, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
                "first_k_dense_replace": 1, "num_nextn_predict_layers": 1,
            });
            let experts = Experts { bias: true, shared: Some(("shared_experts", 256)), ..Experts::default() };
            let shape = Shape {
                qkv_bias: true,
                qk_norm: Some(false),
                experts: Some(experts),
                dense: 1,
                ..Shape::default()
            };
            let specials = &["[gMASK]", "<|endoftext|>", "<sop>", "<|user|>", "<|observation|>"];
            Family::new("glm4moe", config, shape, (LLAMA3, true), specials, false)
        }
        "glm4-lite" => {
            let mut config = latent("Glm4MoeLiteForCausalLM", "glm4_moe_lite");
            for (field, value) in [
                ("num_nextn_predict_layers", json!(1)),
                ("partial_rotary_factor", json!(1.0)),
                ("rope_theta", json!(1000000.0)),
                ("rope_scaling", Value::Null),
            ] {
                config[field] = value;
            }
            let specials = &["[gMASK]", "<|endoftext|>", "<sop>", "<|user|>", "<|observation|>"];
            Family::new("glm4-lite", config, LATENT, (LLAMA3, true), specials, false)
        }
        "deepseek32" => {
            let mut config = latent("DeepseekV32ForCausalLM", "deepseek_v32");
            for (field, value) in [
                ("num_nextn_predict_layers", json!(1)),
                ("index_n_heads", json!(4)),
                ("index_head_dim", json!(64)),
                ("index_topk", json!(64)),
            ] {
                config[field] = value;
            }
            let specials =
                &["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<|endoftext|>"];
            Family::new("deepseek32", config, LATENT, (QWEN, false), specials, true)
        }
        "glm-dsa" => {
            let mut config = latent("GlmMoeDsaForCausalLM", "glm_moe_dsa");
            for (field, value) in [
                ("num_hidden_layers", json!(3)),
                ("num_nextn_predict_layers", json!(1)),
                ("rope_theta", json!(1000000.0)),
                ("rope_scaling", Value::Null),
                ("index_n_heads", json!(2)),
                ("index_head_dim", json!(64)),
                ("index_topk", json!(64)),
                ("indexer_types", json!(["full", "shared", "full"])),
            ] {
                config[field] = value;
            }
            let specials = &["[gMASK]", "<|endoftext|>", "<sop>", "<|user|>", "<|observation|>"];
            Family::new("glm-dsa", config, LATENT, (LLAMA3, true), specials, false)
        }
        "kimi-k2.5" => {
            let config = latent("DeepseekV3ForCausalLM", "kimi_k2");
            let vision = json!({
                "model_type": "kimi_k25_vision", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 64,
            });
            let whole = json!({
                "architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25",
                "media_placeholder_token_id": 450, "ignore_index": -100, "use_unified_vision_chunk": true,
                "projection_hidden_size": 64, "vision_config": vision,
            });
            let family = Family::new("kimi-k2.5", config, LATENT, (QWEN, false), QWENS, false);
            family.inside(
                whole,
                &["vision_tower.encoder.blocks.0.norm0.weight", "mm_projector.pre_norm.weight"],
            )
        }
        "mistral3" => {
            let config = json!({
                "model_type": "mistral", "rope_theta": 1000000000.0, "head_dim": 128, "sliding_window": null,
            });
            let whole = json!({
                "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
                "image_token_index": 10, "projector_hidden_act": "gelu", "vision_feature_layer": -1,
                "multimodal_projector_bias": false, "spatial_merge_size": 2, "tie_word_embeddings": false,
                "vision_config": {"model_type": "pixtral", "hidden_size": 64, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "intermediate_size": 64, "head_dim": 32, "image_size": 28, "patch_size": 14},
            });
            let specials = &["<s>", "</s>", "[INST]", "[/INST]"];
            let family = Family::new("mistral3", config, Shape::default(), (TEKKEN, true), specials, true);
            family.inside(whole, &["vision_tower.ln_pre.weight", "multi_modal_projector.norm.weight"])
        }
        "ministral3" => {
            let config = json!({
                "architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3", "head_dim": 64,
                "sliding_window": null,
                // The text is four times as long as the first length, so that queries grow.
                "rope_parameters": {"rope_type": "yarn", "type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
                    "original_max_position_embeddings": 16, "max_position_embeddings": 4096, "beta_fast": 32.0,
                    "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
            });
            let specials = &["<s>", "</s>", "[INST]", "[/INST]"];
            Family::new("ministral3", config, Shape::default(), (TEKKEN, true), specials, true)
        }
        "gpt-oss" => {
            let config = json!({
                "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "rope_theta": 150000.0,
                "head_dim": 64, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
                "experts_per_token": 2, "attention_bias": true, "sliding_window": 16, "swiglu_limit": 7.0,
                "layer_types": ["sliding_attention", "full_attention"], "initial_context_length": 4096,
                "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
                    "beta_fast": 32.0, "beta_slow": 1.0, "truncate": true},
            });
            let specials = &["<|startoftext|>", "<|return|>", "<|endoftext|>", "<|start|>", "<|message|>"];
            Family::new("gpt-oss", config, Shape::of_gpt_oss(), (O200K, false), specials, false)
        }
        "minimax-m2" => {
            let config = json!({
                "architectures": ["MiniMaxM2ForCausalLM"], "model_type": "minimax_m2", "rope_theta": 5000000.0,
                "head_dim": 64, "rotary_dim": 32, "intermediate_size": 256, "num_local_experts": 4,
                "num_experts_per_tok": 2, "scoring_func": "sigmoid", "use_routing_bias": true, "use_qk_norm": true,
                "qk_norm_type": "per_layer", "shared_intermediate_size": 0, "router_aux_loss_coef": 0.001,
            });
            let experts = Experts { sparse: true, bias: true, ..Experts::default() };
            let shape = Shape { qk_norm: Some(true), experts: Some(experts), ..Shape::default() };
            Family::new(
                "minimax-m2",
                config,
                shape,
                (O200K, false),
                &["]~!b[", "[e~[", "]~b]", "]!p~["],
                false,
            )
        }
        other => panic!("no family {other}"),
    }
}

/// Layers with latent attention, the first of them dense.
pub const LATENT: Shape = Shape {
    latent: true,
    experts: Some(Experts {
        sparse: false,
        interleaved: false,
        bias: true,
        shared: Some(("shared_experts", 256)),
        shared_gate: false,
    }),
    dense: 1,
    qkv_bias: false,
    o_bias: false,
    sinks: false,
    mlp_bias: false,
    qk_norm: None,
};

/// The configuration of a class with them.
fn latent(class: &str, kind: &str) -> Value {
    json!({
        "architectures": [class], "model_type": kind, "num_key_value_heads": 4, "rope_theta": 50000.0,
        // transformers has this in the norms inside of attention, whatever is said here; llama.cpp has one for all.
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32.0,
            "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
        "q_lora_rank": 256, "kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 256, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "first_k_dense_replace": 1, "attention_bias": false,
    })
}

/// What a family's layers have.
#[derive(Clone, Default)]
pub struct Shape {
    /// Whether attention is latent.
    pub latent: bool,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub sinks: bool,
    pub mlp_bias: bool,
    /// Gains of the norms of queries and keys: a head's, or all.
    pub qk_norm: Option<bool>,
    pub experts: Option<Experts>,
    /// The first layers, which have no experts.
    pub dense: u64,
}

impl Shape {
    /// gpt-oss's.
    pub fn of_gpt_oss() -> Self {
        let experts = Some(Experts { interleaved: true, ..Experts::default() });
        Self { qkv_bias: true, o_bias: true, sinks: true, experts, ..Self::default() }
    }
}

#[derive(Clone, Default)]
pub struct Experts {
    /// Whether the module is Mixtral's.
    pub sparse: bool,
    /// Whether they are gpt-oss's, all in one tensor.
    pub interleaved: bool,
    /// Whether there is a bias for choosing them.
    pub bias: bool,
    /// The module of shared experts, and their width.
    pub shared: Option<(&'static str, u64)>,
    /// Whether these have a gate.
    pub shared_gate: bool,
}

impl Family {
    fn new(
        name: &'static str,
        own: Value,
        shape: Shape,
        rules: (&'static str, bool),
        specials: &'static [&'static str],
        begins: bool,
    ) -> Self {
        let config = Self::config(own, rules);
        let tensors = tensors(&config, &shape);
        Self { name, config, tensors, rules, specials, begins }
    }

    /// With layers of two kinds.
    fn of_hybrid(
        name: &'static str,
        own: Value,
        tensors: fn(&Value) -> hybrid::Tensors,
        rules: (&'static str, bool),
        specials: &'static [&'static str],
    ) -> Self {
        let config = Self::config(own, rules);
        let tensors = tensors(&config);
        Self { name, config, tensors, rules, specials, begins: false }
    }

    /// config.json: what most have, and what this one has.
    fn config(own: Value, rules: (&'static str, bool)) -> Value {
        let mut config = json!({
            "vocab_size": VOCABULARY, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 512, "hidden_act": "silu",
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "use_cache": true, "initializer_range": 0.02, "attention_dropout": 0.0,
            "bos_token_id": first(rules.1), "eos_token_id": first(rules.1) + 1,
        });
        for (field, value) in own.as_object().expect("fields") {
            config[field] = value.clone();
        }
        config
    }

    /// As the text model of a larger one.
    fn of(mut self, mut whole: Value) -> Self {
        whole["text_config"] = self.config;
        self.config = whole;
        self
    }

    /// As the text model of a larger one, with tensors that see images.
    fn inside(self, whole: Value, others: &[&str]) -> Self {
        let mut family = self.of(whole);
        family.tensors.iter_mut().for_each(|(name, ..)| *name = format!("language_model.{name}"));
        family.tensors.extend(others.iter().map(|name| ((*name).to_owned(), "BF16", vec![64])));
        family
    }

    /// Texts of its special tokens.
    pub fn specials(&self) -> &[&str] {
        self.specials
    }

    /// The one file of weights.
    pub fn safetensors(&self) -> Vec<u8> {
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, dtype, shape) in &self.tensors {
            let start = data.len();
            if ["F32", "BF16"].contains(dtype) {
                for weight in weights(name, shape) {
                    let bytes = weight.to_le_bytes();
                    data.extend_from_slice(if *dtype == "F32" { &bytes } else { &bytes[2..] });
                }
            } else {
                codes(name, dtype, shape).for_each(|code| data.extend(code));
            }
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    }

    /// Writes the whole checkpoint.
    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("made");
        let mut tokens = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": self.specials[0], "eos_token": self.specials[1],
            "pad_token": self.specials[1], "model_max_length": 4096,
            "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        });
        let mut tokenizer = Value::Null;
        if self.rules.0 == PIECES {
            tokens["unk_token"] = json!("<unk>");
            tokens["add_bos_token"] = json!(true);
            std::fs::write(folder.join("tokenizer.model"), pieces::model()).expect("written");
            tokenizer = pieces::json();
        }
        let tokenizer = if tokenizer.is_null() { self.tokenizer() } else { tokenizer };
        for (file, bytes) in [
            ("config.json", self.config.to_string().into_bytes()),
            ("tokenizer.json", tokenizer.to_string().into_bytes()),
            ("tokenizer_config.json", tokens.to_string().into_bytes()),
            ("model.safetensors", self.safetensors()),
        ] {
            std::fs::write(folder.join(file), bytes).expect("written");
        }
    }

    /// tokenizer.json: the 256 bytes, pairs of frequent letters and of what splitting rules treat in special ways, a
    /// word that no merges lead to, and the special tokens at the end.
    fn tokenizer(&self) -> Value {
        let kept = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let mut others = 256..;
        let mut alphabet: Vec<char> = (0..256)
            .map(|byte| if kept(byte) { byte } else { others.next().expect("endless") })
            .map(|code| char::from_u32(code).expect("a letter"))
            .collect();
        alphabet.sort_unstable();
        let mut vocabulary: Map<String, Value> =
            alphabet.iter().enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
        let mut merges = Vec::new();
        let mut merge = |a: &str, b: &str| {
            vocabulary.insert(format!("{a}{b}"), json!(vocabulary.len()));
            merges.push(json!([a, b]));
        };
        for a in "etaoinshrdlu".chars() {
            "etaoinshrdlu".chars().for_each(|b| merge(&a.to_string(), &b.to_string()));
        }
        for a in "01234".chars() {
            "01234".chars().for_each(|b| merge(&a.to_string(), &b.to_string()));
        }
        for (a, b) in [
            ("00", "0"),
            ("12", "3"),
            ("Ġ", "Ġ"),
            ("Ċ", "Ċ"),
            ("Ġ", "Ċ"),
            ("Ġ", "t"),
            ("Ġ", "a"),
            ("'", "s"),
            ("'", "t"),
            ("!", "!"),
            ("!", "Ċ"),
            ("/", "/"),
            ("Ċ", "/"),
            ("T", "h"),
            ("ĠĠ", "ĠĠ"),
            ("(", "t"),
            ("s", "'"),
        ] {
            merge(a, b);
        }
        if self.rules.1 {
            vocabulary.insert("word".to_owned(), json!(vocabulary.len()));
        }
        let first = first(self.rules.1);
        assert_eq!(vocabulary.len() as u64, first);
        let special = |(id, text): (u64, &&str)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let added: Vec<Value> = (first..).zip(self.specials).map(special).collect();
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let begin = self.specials[0];
        let template = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {begin: {"id": begin, "ids": [first], "tokens": [begin]}}});
        let processor = if self.begins {
            json!({"type": "Sequence", "processors": [bytes, template]})
        } else {
            bytes.clone()
        };
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": self.rules.0}, "behavior": "Isolated", "invert": false},
                bytes,
            ]},
            "post_processor": processor,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": self.rules.1,
                "vocab": vocabulary, "merges": merges},
        })
    }
}

/// The first special token, behind the others; the ids behind the special ones have no token.
fn first(whole_words: bool) -> u64 {
    256 + 144 + 25 + 17 + u64::from(whole_words)
}

/// Names, types and shapes of the tensors, in the order in which the file has them.
pub fn tensors(config: &Value, shape: &Shape) -> Vec<(String, &'static str, Vec<u64>)> {
    let n = |field: &str| config[field].as_u64();
    let number = |field: &str| n(field).unwrap_or_else(|| panic!("{field} is a number"));
    let (hidden, heads, kv_heads) =
        (number("hidden_size"), number("num_attention_heads"), number("num_key_value_heads"));
    let (ids, width) = (number("vocab_size"), n("head_dim").unwrap_or(hidden / heads));
    let (queries, keys) = (heads * width, kv_heads * width);
    let mut list = vec![("model.embed_tokens.weight".to_owned(), "BF16", vec![ids, hidden])];
    let layers = number("num_hidden_layers");
    let predicting = n("num_nextn_predict_layers").unwrap_or(0);
    for layer in 0..layers + predicting {
        let mut push = |name: String, shape: &[u64]| {
            let dtype = if name.ends_with("correction_bias") { "F32" } else { "BF16" };
            list.push((format!("model.layers.{layer}.{name}"), dtype, shape.to_vec()));
        };
        push("input_layernorm.weight".into(), &[hidden]);
        if shape.latent {
            let [q_rank, kv_rank] = ["q_lora_rank", "kv_lora_rank"].map(number);
            let [nope, turned, value] = ["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"].map(number);
            push("self_attn.q_a_proj.weight".into(), &[q_rank, hidden]);
            push("self_attn.q_a_layernorm.weight".into(), &[q_rank]);
            push("self_attn.q_b_proj.weight".into(), &[heads * (nope + turned), q_rank]);
            push("self_attn.kv_a_proj_with_mqa.weight".into(), &[kv_rank + turned, hidden]);
            push("self_attn.kv_a_layernorm.weight".into(), &[kv_rank]);
            push("self_attn.kv_b_proj.weight".into(), &[heads * (nope + value), kv_rank]);
            push("self_attn.o_proj.weight".into(), &[hidden, heads * value]);
            // Layers without one take the choice of the layer before.
            let chooses = config["indexer_types"][layer as usize] != "shared";
            if let Some(heads) = n("index_n_heads").filter(|_| chooses) {
                let width = number("index_head_dim");
                push("self_attn.indexer.wq_b.weight".into(), &[heads * width, q_rank]);
                push("self_attn.indexer.wk.weight".into(), &[width, hidden]);
                push("self_attn.indexer.k_norm.weight".into(), &[width]);
                push("self_attn.indexer.k_norm.bias".into(), &[width]);
                push("self_attn.indexer.weights_proj.weight".into(), &[heads, hidden]);
            }
        }
        let grouped = [
            ("q_proj", queries, hidden, shape.qkv_bias),
            ("k_proj", keys, hidden, shape.qkv_bias),
            ("v_proj", keys, hidden, shape.qkv_bias),
            ("o_proj", hidden, queries, shape.o_bias),
        ];
        for (name, rows, columns, bias) in grouped.into_iter().filter(|_| !shape.latent) {
            push(format!("self_attn.{name}.weight"), &[rows, columns]);
            if bias {
                push(format!("self_attn.{name}.bias"), &[rows]);
            }
        }
        if let Some(all) = shape.qk_norm {
            push("self_attn.q_norm.weight".into(), &[if all { queries } else { width }]);
            push("self_attn.k_norm.weight".into(), &[if all { keys } else { width }]);
        }
        if shape.sinks {
            push("self_attn.sinks".into(), &[heads]);
        }
        push("post_attention_layernorm.weight".into(), &[hidden]);
        let mut three = |module: &str, names: [&str; 3], width: u64, biases: bool| {
            for (name, rows, columns) in
                [(names[0], width, hidden), (names[1], width, hidden), (names[2], hidden, width)]
            {
                push(format!("{module}.{name}.weight"), &[rows, columns]);
                if biases {
                    push(format!("{module}.{name}.bias"), &[rows]);
                }
            }
        };
        const USUAL: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
        match &shape.experts {
            Some(experts) if experts.interleaved => {
                let (count, width) = (number("num_local_experts"), number("intermediate_size"));
                push("mlp.experts.gate_up_proj".into(), &[count, hidden, 2 * width]);
                push("mlp.experts.gate_up_proj_bias".into(), &[count, 2 * width]);
                push("mlp.experts.down_proj".into(), &[count, width, hidden]);
                push("mlp.experts.down_proj_bias".into(), &[count, hidden]);
                push("mlp.router.weight".into(), &[count, hidden]);
                push("mlp.router.bias".into(), &[count]);
            }
            Some(experts) if layer >= shape.dense => {
                let counts = ["num_local_experts", "num_experts", "n_routed_experts"];
                let count = counts.into_iter().find_map(n).expect("experts");
                let (module, names) = match experts.sparse {
                    true => ("block_sparse_moe", ["w1", "w3", "w2"]),
                    false => ("mlp", USUAL),
                };
                let width = n("moe_intermediate_size").unwrap_or_else(|| number("intermediate_size"));
                for expert in 0..count {
                    three(&format!("{module}.experts.{expert}"), names, width, false);
                }
                if let Some((shared, width)) = experts.shared {
                    three(&format!("mlp.{shared}"), USUAL, width, false);
                }
                push(format!("{module}.gate.weight"), &[count, hidden]);
                if experts.bias {
                    let place = if experts.sparse { module.to_owned() } else { format!("{module}.gate") };
                    push(format!("{place}.e_score_correction_bias"), &[count]);
                }
                if experts.shared_gate {
                    push("mlp.shared_expert_gate.weight".into(), &[1, hidden]);
                }
            }
            _ => three("mlp", USUAL, number("intermediate_size"), shape.mlp_bias),
        }
        if layer >= layers {
            push("embed_tokens.weight".into(), &[ids, hidden]);
            push("enorm.weight".into(), &[hidden]);
            push("hnorm.weight".into(), &[hidden]);
            push("eh_proj.weight".into(), &[hidden, 2 * hidden]);
            push("shared_head.norm.weight".into(), &[hidden]);
            push("shared_head.head.weight".into(), &[ids, hidden]);
        }
    }
    list.push(("model.norm.weight".to_owned(), "BF16", vec![hidden]));
    if config["tie_word_embeddings"] == false {
        list.push(("lm_head.weight".to_owned(), "BF16", vec![ids, hidden]));
    }
    list
}

/// Codes of a tensor of another type, as bytes: FP8 numbers of magnitude 1 to 1.875 or 0 (of which none is half of another:
/// Python's Q8_0 rounds such otherwise), powers of two around 2^-9, any two FP4 numbers, and numbers of four experts.
fn codes(name: &str, dtype: &str, shape: &[u64]) -> impl Iterator<Item = Vec<u8>> {
    random(name, shape).map(move |z| match dtype {
        "F8_E4M3" => vec![if z % 32 == 0 { 0 } else { (z % 256) as u8 & 0x87 | 0x38 }],
        "F8_E8M0" => vec![116 + (z % 5) as u8],
        "I8" => vec![(z % 256) as u8],
        "I64" => (z % 4).to_le_bytes().to_vec(),
        other => panic!("no codes of {other}"),
    })
}

/// Whole numbers that depend on a tensor's name and their places in it.
fn random(name: &str, shape: &[u64]) -> impl Iterator<Item = u64> {
    // FNV-1a of the name, then SplitMix64 of the places.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (1..=shape.iter().product::<u64>()).map(move |place| {
        let z = seed.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 32
    })
}

/// Weights of a tensor that BF16 holds exactly: multiples of a power of two, so that any program finds the same. Gains
/// of norms are near 1.
fn weights(name: &str, shape: &[u64]) -> impl Iterator<Item = f32> {
    let norm = name.contains("norm");
    let unit = match name {
        _ if shape.len() == 1 => 1.0 / 512.0,
        _ if name.contains("embed")
            || name.contains("lm_head")
            || name.contains(".gate.weight")
            || name.contains("router")
            || name.ends_with("_bias") =>
        {
            1.0 / 512.0
        }
        _ if name.contains("conv1d") => 1.0 / 256.0,
        _ if shape[shape.len() - 1] >= 512 => 1.0 / 2048.0,
        _ => 1.0 / 1024.0,
    };
    random(name, shape).map(move |z| {
        if norm { 1.0 + ((z % 63) as f32 - 31.0) / 128.0 } else { ((z % 255) as f32 - 127.0) * unit }
    })
}
