//! A small random Qwen3-MoE checkpoint in the layout of the published ones, the same each time it is made.
//! `fixtures/tiny-qwen3moe/make.py` makes it too, for transformers and for llama.cpp's converter.

use std::path::Path;

use serde_json::{Map, Value, json};

/// Token ids.
const VOCABULARY: u64 = 512;

/// Qwen's splitting rule.
const RULE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// config.json.
pub fn config() -> Value {
    json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": VOCABULARY,
        "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 128, "intermediate_size": 512, "moe_intermediate_size": 256, "num_experts": 8,
        "num_experts_per_tok": 3, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "rope_scaling": null, "attention_bias": false, "tie_word_embeddings": false,
        "use_sliding_window": false, "sliding_window": null, "max_window_layers": 3, "torch_dtype": "bfloat16",
        "bos_token_id": 508, "eos_token_id": 509, "router_aux_loss_coef": 0.001, "output_router_logits": false,
    })
}

/// Names and shapes of the tensors, in the order in which the file has them.
fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut list = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, 256])];
    for layer in 0..3 {
        let mut push = |name: &str, shape: &[u64]| {
            list.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()))
        };
        push("input_layernorm", &[256]);
        push("self_attn.q_proj", &[512, 256]);
        push("self_attn.k_proj", &[256, 256]);
        push("self_attn.v_proj", &[256, 256]);
        push("self_attn.o_proj", &[256, 512]);
        push("self_attn.q_norm", &[128]);
        push("self_attn.k_norm", &[128]);
        push("post_attention_layernorm", &[256]);
        push("mlp.gate", &[8, 256]);
        for expert in 0..8 {
            for matrix in ["gate_proj", "up_proj", "down_proj"] {
                push(&format!("mlp.experts.{expert}.{matrix}"), &[256, 256]);
            }
        }
    }
    list.push(("model.norm.weight".to_owned(), vec![256]));
    list.push(("lm_head.weight".to_owned(), vec![VOCABULARY, 256]));
    list
}

/// Weights of a tensor as BF16: multiples of a power of two, so that any program finds the same. Gains of norms are
/// near 1.
fn weights(name: &str, count: u64) -> impl Iterator<Item = [u8; 2]> {
    // FNV-1a of the name, then SplitMix64 of the places.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let norm = name.contains("norm");
    let unit = match name {
        _ if name.contains("o_proj") => 1.0 / 2048.0,
        _ if name.contains("embed") || name.contains("lm_head") || name.contains("mlp.gate.") => 1.0 / 512.0,
        _ => 1.0 / 1024.0,
    };
    (1..=count).map(move |place| {
        let z = seed.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let z = (z ^ (z >> 31)) >> 32;
        let weight =
            if norm { 1.0 + ((z % 63) as f32 - 31.0) / 128.0 } else { ((z % 255) as f32 - 127.0) * unit };
        let [_, _, low, high] = weight.to_le_bytes();
        [low, high]
    })
}

/// The one file of weights.
pub fn safetensors() -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in tensors() {
        let start = data.len();
        data.extend(weights(&name, shape.iter().product()).flatten());
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    file
}

/// tokenizer.json: the 256 bytes, pairs of frequent letters, and four special tokens at the end.
fn tokenizer() -> Value {
    let kept = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let alphabet: Vec<char> = (0..256)
        .map(|byte| if kept(byte) { byte } else { others.next().expect("endless") })
        .map(|code| char::from_u32(code).expect("a letter"))
        .collect();
    let mut sorted = alphabet;
    sorted.sort_unstable();
    let mut vocabulary: Map<String, Value> =
        sorted.iter().enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
    let mut merges = Vec::new();
    for a in "etaoinshrdlu".chars() {
        for b in "etaoinshrdlu".chars() {
            vocabulary.insert(format!("{a}{b}"), json!(vocabulary.len()));
            merges.push(json!([a, b]));
        }
    }
    let special = |(number, text): (u64, &&str)| {
        json!({"id": VOCABULARY - 4 + number, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let special: Vec<Value> =
        (0..).zip(&["<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|pad|>"]).map(special).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": RULE}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges},
    })
}

/// Writes the whole checkpoint.
pub fn write(folder: &Path) {
    let tokens = json!({
        "tokenizer_class": "Qwen2Tokenizer", "bos_token": null, "eos_token": "<|im_end|>", "pad_token": "<|pad|>",
        "add_bos_token": false, "model_max_length": 4096,
    });
    for (file, bytes) in [
        ("config.json", config().to_string().into_bytes()),
        ("tokenizer.json", tokenizer().to_string().into_bytes()),
        ("tokenizer_config.json", tokens.to_string().into_bytes()),
        ("model.safetensors", safetensors()),
    ] {
        std::fs::write(folder.join(file), bytes).expect("written");
    }
}
