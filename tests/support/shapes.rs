//! Checkpoints of real models' shapes without their weights: true headers before holes in sparse files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A tensor to be declared.
pub struct Declared {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
}

impl Declared {
    pub fn bytes(&self) -> u64 {
        let size = match self.dtype {
            "F8_E4M3" | "U8" => 1,
            "BF16" => 2,
            _ => 4,
        };
        self.shape.iter().product::<u64>() * size
    }
}

/// DeepSeek-R1's config.json, from its fact sheet.
pub fn r1_config() -> Value {
    json!({
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "hidden_size": 7168, "num_hidden_layers": 61, "num_nextn_predict_layers": 1, "first_k_dense_replace": 3,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256,
        "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_layer_freq": 1, "n_group": 8, "topk_group": 4,
        "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
        "routed_scaling_factor": 2.5, "hidden_act": "silu", "num_attention_heads": 128,
        "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "v_head_dim": 128,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "max_position_embeddings": 163840,
        "rms_norm_eps": 1e-6, "rope_theta": 10000, "tie_word_embeddings": false, "vocab_size": 129280,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
            "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": [128, 128]},
        "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
    })
}

/// All tensors of a checkpoint with this config.json, in the order of the layers.
pub fn tensors(config: &Value) -> Vec<Declared> {
    let n = |field: &str| config[field].as_u64().unwrap_or(0);
    let mut list = Vec::new();
    let fp8 = config.get("quantization_config").is_some();
    let (hidden, heads) = (n("hidden_size"), n("num_attention_heads"));
    let query = heads * (n("qk_nope_head_dim") + n("qk_rope_head_dim"));

    let mut push =
        |name: String, dtype, shape: &[u64]| list.push(Declared { name, dtype, shape: shape.to_vec() });
    push("model.embed_tokens.weight".into(), "BF16", &[n("vocab_size"), hidden]);
    for layer in 0..n("num_hidden_layers") + n("num_nextn_predict_layers") {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let mut projection = |part: &str, rows: u64, columns: u64| {
            let weight = name(&format!("{part}.weight"));
            if fp8 {
                push(format!("{weight}_scale_inv"), "F32", &[rows.div_ceil(128), columns.div_ceil(128)]);
            }
            push(weight, if fp8 { "F8_E4M3" } else { "BF16" }, &[rows, columns]);
        };
        if n("q_lora_rank") > 0 {
            projection("self_attn.q_a_proj", n("q_lora_rank"), hidden);
            projection("self_attn.q_b_proj", query, n("q_lora_rank"));
        } else {
            projection("self_attn.q_proj", query, hidden);
        }
        projection("self_attn.kv_a_proj_with_mqa", n("kv_lora_rank") + n("qk_rope_head_dim"), hidden);
        projection(
            "self_attn.kv_b_proj",
            heads * (n("qk_nope_head_dim") + n("v_head_dim")),
            n("kv_lora_rank"),
        );
        projection("self_attn.o_proj", hidden, heads * n("v_head_dim"));
        let mut ffn = |module: &str, width: u64| {
            projection(&format!("{module}.gate_proj"), width, hidden);
            projection(&format!("{module}.up_proj"), width, hidden);
            projection(&format!("{module}.down_proj"), hidden, width);
        };
        let dense = layer < n("first_k_dense_replace");
        if dense {
            ffn("mlp", n("intermediate_size"));
        } else {
            ffn("mlp.shared_experts", n("moe_intermediate_size") * n("n_shared_experts"));
            (0..n("n_routed_experts"))
                .for_each(|e| ffn(&format!("mlp.experts.{e}"), n("moe_intermediate_size")));
        }
        push(name("input_layernorm.weight"), "BF16", &[hidden]);
        push(name("post_attention_layernorm.weight"), "BF16", &[hidden]);
        if n("q_lora_rank") > 0 {
            push(name("self_attn.q_a_layernorm.weight"), "BF16", &[n("q_lora_rank")]);
        }
        push(name("self_attn.kv_a_layernorm.weight"), "BF16", &[n("kv_lora_rank")]);
        if !dense {
            push(name("mlp.gate.weight"), "BF16", &[n("n_routed_experts"), hidden]);
            if config["topk_method"] == "noaux_tc" {
                push(name("mlp.gate.e_score_correction_bias"), "F32", &[n("n_routed_experts")]);
            }
        }
        if layer >= n("num_hidden_layers") {
            push(name("embed_tokens.weight"), "BF16", &[n("vocab_size"), hidden]);
            push(name("enorm.weight"), "BF16", &[hidden]);
            push(name("hnorm.weight"), "BF16", &[hidden]);
            push(name("eh_proj.weight"), "BF16", &[hidden, 2 * hidden]);
            push(name("shared_head.norm.weight"), "BF16", &[hidden]);
            push(name("shared_head.head.weight"), "BF16", &[n("vocab_size"), hidden]);
        }
    }
    push("model.norm.weight".into(), "BF16", &[hidden]);
    push("lm_head.weight".into(), "BF16", &[n("vocab_size"), hidden]);
    list
}

/// One safetensors file of a checkpoint: its name, what is before the data, and the tensors in the order of the data.
pub struct Shard<'a> {
    pub name: String,
    /// Length and JSON.
    pub header: Vec<u8>,
    pub tensors: Vec<&'a Declared>,
}

/// Shares the tensors out to `count` shards of about equal size.
pub fn shards<'a>(tensors: &'a [Declared], count: u64) -> Vec<Shard<'a>> {
    let total: u64 = tensors.iter().map(Declared::bytes).sum();
    let mut shares: BTreeMap<u64, Vec<&Declared>> = BTreeMap::new();
    let mut before = 0;
    for tensor in tensors {
        // The shard in which the tensor's middle lies.
        let shard = (u128::from(before + tensor.bytes() / 2) * u128::from(count) / u128::from(total)) as u64;
        shares.entry(shard.min(count - 1)).or_default().push(tensor);
        before += tensor.bytes();
    }
    assert_eq!(shares.len() as u64, count, "every shard holds something");
    let shard = |(number, tensors): (u64, Vec<&'a Declared>)| {
        let mut entries = Map::new();
        let mut end = 0;
        for tensor in &tensors {
            let begin = end;
            end += tensor.bytes();
            let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]});
            entries.insert(tensor.name.clone(), entry);
        }
        let json = Value::Object(entries).to_string();
        Shard {
            name: format!("model-{:05}-of-{count:06}.safetensors", number + 1),
            header: [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat(),
            tensors,
        }
    };
    shares.into_iter().map(shard).collect()
}

/// Writes config and index.
pub fn write_index(folder: &Path, config: &Value, shards: &[Shard]) {
    fs::write(folder.join("config.json"), config.to_string()).expect("written");
    let mut map = Map::new();
    let mut total = 0;
    for shard in shards {
        for tensor in &shard.tensors {
            map.insert(tensor.name.clone(), shard.name.clone().into());
            total += tensor.bytes();
        }
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("written");
}

/// Writes config, index and `count` sparse shards into the folder.
pub fn write(folder: &Path, config: &Value, tensors: &[Declared], count: u64) {
    write_with(folder, config, tensors, count, &[]);
}

/// The same, with data of the first tensors.
pub fn write_with(folder: &Path, config: &Value, tensors: &[Declared], count: u64, mut data: &[u8]) {
    let shards = shards(tensors, count);
    write_index(folder, config, &shards);
    for shard in shards {
        let mut file = File::create(folder.join(shard.name)).expect("created");
        file.write_all(&shard.header).expect("written");
        file.write_all(std::mem::take(&mut data)).expect("written");
        let data: u64 = shard.tensors.iter().map(|tensor| tensor.bytes()).sum();
        file.set_len(shard.header.len() as u64 + data).expect("a sparse file");
    }
}

/// Writes a tokenizer of `base` trained and `added` special tokens with deepseek-v3's splitting rules.
pub fn write_tokenizer(folder: &Path, base: u32, added: u32) {
    let fixture = fs::read(super::fixture("tiny-r1/tokenizer.json")).expect("read");
    let mut tokenizer: Value = serde_json::from_slice(&fixture).expect("JSON");
    // The first are digits, so that each of t100, t101, ... is joined of one that is there and a digit.
    let text = |id: u32| if id < 10 { id.to_string() } else { format!("t{id}") };
    let vocab: Map<String, Value> = (0..base).map(|id| (text(id), id.into())).collect();
    let merges: Vec<Value> = (100..base).map(|id| json!([text(id / 10), text(id % 10)])).collect();
    tokenizer["model"]["vocab"] = vocab.into();
    tokenizer["model"]["merges"] = merges.into();
    tokenizer["added_tokens"] = (0..added)
        .map(|i| json!({"id": base + i, "content": format!("<｜special {i}｜>"), "special": true}))
        .collect();
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    let config = json!({"add_bos_token": true, "bos_token": "<｜special 0｜>", "eos_token": "<｜special 1｜>",
            "pad_token": "<｜special 1｜>"});
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("written");
}
