//! Published models at full size: config.json and the list of tensors that their checkpoints have, from the fact sheets.

use serde_json::{Value, json};

use super::families::{Experts, LATENT, Shape, tensors};
use super::shapes::Declared;

/// A model, and what its plan must say.
pub struct Published {
    /// config.json.
    pub config: Value,
    /// What the shards have.
    pub tensors: Vec<Declared>,
    /// How many shards there are.
    pub shards: u64,
    /// GGUF's architecture.
    pub arch: &'static str,
    /// Tensors and weights of the GGUF file, those of multi-token prediction left out.
    pub expected: [u64; 2],
}

pub const ALL: [&str; 8] = [
    "DeepSeek-V3.2",
    "GLM-5",
    "Kimi-K2-Thinking",
    "Qwen3-235B-A22B",
    "GLM-4.5",
    "MiniMax-M2",
    "gpt-oss-120b",
    "Llama-3.3-70B",
];

/// What nearly all say.
const USUAL: &str = r#"{"hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}"#;

/// What those with latent attention say.
const LATENTS: &str = r#"{
    "moe_intermediate_size": 2048, "num_experts_per_tok": 8, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64
}"#;

/// An object with fields of its own beside the usual ones.
fn with(usual: &str, own: Value) -> Value {
    let mut all: Value = serde_json::from_str(usual).expect("JSON");
    for (field, value) in own.as_object().expect("an object") {
        all[field] = value.clone();
    }
    all
}

/// The model of this name.
pub fn published(name: &str) -> Published {
    let routed = |shared: Option<(&'static str, u64)>| Experts { bias: true, shared, ..Experts::default() };
    let latent = Shape { experts: Some(routed(Some(("shared_experts", 2048)))), ..LATENT };
    let (config, shape, stored, shards, arch, expected): (Value, _, Stored, _, _, _) = match name {
        "DeepSeek-V3.2" => {
            let config = json!({
                "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32",
                "hidden_size": 7168, "num_hidden_layers": 61, "num_nextn_predict_layers": 1, "vocab_size": 129280,
                "intermediate_size": 18432, "n_routed_experts": 256, "n_group": 8, "topk_group": 4,
                "first_k_dense_replace": 3, "routed_scaling_factor": 2.5, "num_attention_heads": 128,
                "num_key_value_heads": 128, "q_lora_rank": 1536, "v_head_dim": 128, "qk_nope_head_dim": 128,
                "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000,
                "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                    "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
                "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                    "scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
            });
            let shape = Shape { dense: 3, ..latent };
            (with(LATENTS, config), shape, fp8, 163, "deepseek32", [1391, 671_877_944_064])
        }
        "GLM-5" => {
            let config = json!({
                "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa",
                "hidden_size": 6144, "num_hidden_layers": 78, "num_nextn_predict_layers": 1, "vocab_size": 154880,
                "intermediate_size": 12288, "n_routed_experts": 256, "first_k_dense_replace": 3,
                "routed_scaling_factor": 2.5, "num_attention_heads": 64, "num_key_value_heads": 64,
                "q_lora_rank": 2048, "v_head_dim": 256, "qk_nope_head_dim": 192,
                "max_position_embeddings": 202752, "index_n_heads": 32, "index_head_dim": 128, "index_topk": 2048,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000},
            });
            let shape = Shape { dense: 3, ..latent };
            (with(LATENTS, config), shape, plain, 282, "glm-dsa", [1782, 743_911_218_432])
        }
        "Kimi-K2-Thinking" => {
            let config = json!({
                "architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2",
                "hidden_size": 7168, "num_hidden_layers": 61, "num_nextn_predict_layers": 0, "vocab_size": 163840,
                "intermediate_size": 18432, "n_routed_experts": 384, "first_k_dense_replace": 1,
                "routed_scaling_factor": 2.827, "num_attention_heads": 64, "num_key_value_heads": 64,
                "q_lora_rank": 1536, "v_head_dim": 128, "qk_nope_head_dim": 128,
                "max_position_embeddings": 262144, "rope_theta": 50000,
                "rope_scaling": {"type": "yarn", "factor": 64, "original_max_position_embeddings": 4096,
                    "beta_fast": 1, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
                "quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
                    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int",
                        "strategy": "group", "group_size": 32, "symmetric": true}}},
                    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]},
            });
            let shape = Shape { dense: 1, ..latent };
            (with(LATENTS, config), shape, int4, 62, "deepseek2", [1096, 1_026_408_232_448])
        }
        "Qwen3-235B-A22B" => {
            let config = json!({
                "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
                "hidden_size": 4096, "num_hidden_layers": 94, "vocab_size": 151936, "intermediate_size": 12288,
                "moe_intermediate_size": 1536, "num_experts": 128, "num_experts_per_tok": 8, "head_dim": 128,
                "num_attention_heads": 64, "num_key_value_heads": 4, "norm_topk_prob": true,
                "decoder_sparse_step": 1, "mlp_only_layers": [], "max_position_embeddings": 40960,
                "rope_theta": 1000000.0, "attention_bias": false,
            });
            let shape = Shape { qk_norm: Some(false), experts: Some(Experts::default()), ..Shape::default() };
            (config, shape, plain, 118, "qwen3moe", [1131, 235_093_634_560])
        }
        "GLM-4.5" => {
            let config = json!({
                "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe",
                "hidden_size": 5120, "num_hidden_layers": 92, "num_nextn_predict_layers": 1, "vocab_size": 151552,
                "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_routed_experts": 160,
                "num_experts_per_tok": 8, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "head_dim": 128,
                "first_k_dense_replace": 3, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
                "num_attention_heads": 96, "num_key_value_heads": 8, "partial_rotary_factor": 0.5,
                "attention_bias": true, "use_qk_norm": true, "max_position_embeddings": 131072,
                "rope_theta": 1000000,
            });
            let shape = Shape {
                qkv_bias: true,
                qk_norm: Some(false),
                dense: 3,
                experts: Some(routed(Some(("shared_experts", 1536)))),
                ..Shape::default()
            };
            (config, shape, plain, 93, "glm4moe", [1736, 352_797_829_024])
        }
        "MiniMax-M2" => {
            let config = json!({
                "architectures": ["MiniMaxM2ForCausalLM"], "model_type": "minimax_m2",
                "hidden_size": 3072, "num_hidden_layers": 62, "vocab_size": 200064, "intermediate_size": 1536,
                "num_local_experts": 256, "num_experts_per_tok": 8, "head_dim": 128, "rotary_dim": 64,
                "num_attention_heads": 48, "num_key_value_heads": 8, "scoring_func": "sigmoid",
                "use_routing_bias": true, "use_qk_norm": true, "qk_norm_type": "per_layer",
                "max_position_embeddings": 196608, "rms_norm_eps": 1e-6, "rope_theta": 5000000,
                "quantization_config": {"quant_method": "fp8", "fmt": "float8_e4m3fn",
                    "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
            });
            let experts = Experts { sparse: true, ..routed(None) };
            let shape = Shape { qk_norm: Some(true), experts: Some(experts), ..Shape::default() };
            (config, shape, fp8, 130, "minimax-m2", [809, 228_689_764_864])
        }
        "gpt-oss-120b" => {
            let kinds = ["sliding_attention", "full_attention"];
            let config = json!({
                "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
                "hidden_size": 2880, "num_hidden_layers": 36, "vocab_size": 201088, "intermediate_size": 2880,
                "num_local_experts": 128, "num_experts_per_tok": 4, "head_dim": 64, "num_attention_heads": 64,
                "num_key_value_heads": 8, "attention_bias": true, "sliding_window": 128, "swiglu_limit": 7.0,
                "layer_types": (0..36).map(|layer| kinds[layer % 2]).collect::<Vec<_>>(),
                "max_position_embeddings": 131072, "rope_theta": 150000,
                "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
                    "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false},
                "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
            });
            (config, Shape::of_gpt_oss(), mxfp4, 15, "gpt-oss", [687, 116_829_156_672])
        }
        "Llama-3.3-70B" => {
            let config = json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama",
                "hidden_size": 8192, "num_hidden_layers": 80, "vocab_size": 128256, "intermediate_size": 28672,
                "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "attention_bias": false,
                "mlp_bias": false, "max_position_embeddings": 131072, "rope_theta": 500000.0,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
            });
            // One number for each pair of columns comes on top, by which frequencies are divided.
            (config, Shape::default(), plain, 30, "llama", [724, 70_553_706_496 + 64])
        }
        other => panic!("no model {other}"),
    };
    let config = with(USUAL, config);
    let mut list: Vec<Declared> = Vec::new();
    for (name, dtype, shape) in tensors(&config, &shape) {
        stored(Declared { name, dtype, shape }, &mut list);
    }
    // Those that are read at once come first, so that they take few blocks of a disk.
    list.sort_by_key(|tensor| !tensor.name.ends_with(SIZES));
    Published { config, tensors: list, shards, arch, expected }
}

const SIZES: &str = ".weight_shape";

/// The contents of the tensors that planning reads, the sizes of weights in words: one after another in the first shard.
pub fn contents(tensors: &[Declared]) -> Vec<u8> {
    let packed = tensors.iter().filter(|tensor| tensor.name.ends_with(".weight_packed"));
    let sizes = packed.flat_map(|packed| [packed.shape[0] as u32, packed.shape[1] as u32 * 8]);
    sizes.flat_map(u32::to_le_bytes).collect()
}

/// Adds the tensors by which a weight is stored.
type Stored = fn(Declared, &mut Vec<Declared>);

fn plain(tensor: Declared, list: &mut Vec<Declared>) {
    list.push(tensor);
}

fn fp8(tensor: Declared, list: &mut Vec<Declared>) {
    let others = ["embed_tokens", "lm_head", ".gate.", "eh_proj", "weights_proj", "shared_head"];
    let is_16_bits = tensor.shape.len() < 2 || others.iter().any(|other| tensor.name.contains(other));
    if is_16_bits {
        return list.push(tensor);
    }
    let name = format!("{}_scale_inv", tensor.name);
    let shape = tensor.shape.iter().map(|size| size.div_ceil(128)).collect();
    list.push(Declared { name, dtype: "F32", shape });
    list.push(Declared { dtype: "F8_E4M3", ..tensor });
}

fn int4(tensor: Declared, list: &mut Vec<Declared>) {
    let Some(weight) = tensor.name.strip_suffix(".weight").filter(|name| name.contains("mlp.experts."))
    else {
        return list.push(tensor);
    };
    let [rows, columns] = tensor.shape[..] else { panic!("a matrix") };
    for (part, dtype, shape) in [
        ("packed", "I32", vec![rows, columns / 8]),
        ("scale", "BF16", vec![rows, columns / 32]),
        ("shape", "I32", vec![2]),
    ] {
        list.push(Declared { name: format!("{weight}.weight_{part}"), dtype, shape });
    }
}

fn mxfp4(tensor: Declared, list: &mut Vec<Declared>) {
    if !tensor.name.contains("mlp.experts.") || tensor.shape.len() < 3 {
        return list.push(tensor);
    }
    let [experts, inputs, outputs] = tensor.shape[..] else { panic!("matrices") };
    let blocks = vec![experts, outputs, inputs / 32, 16];
    list.push(Declared { name: format!("{}_scales", tensor.name), dtype: "U8", shape: blocks[..3].to_vec() });
    list.push(Declared { name: format!("{}_blocks", tensor.name), dtype: "U8", shape: blocks });
}
