//! Tensors of the families whose layers are of more than one kind, as their checkpoints have them.

use serde_json::Value;

/// Names, types and shapes.
pub type Tensors = Vec<(String, &'static str, Vec<u64>)>;

/// Of Qwen3.5: gated delta nets, of which some numbers are stored in F32, and attention with a gate; with experts if the
/// configuration has some, all of a layer in one tensor.
pub fn qwen35(config: &Value) -> Tensors {
    let number = |field: &str| config[field].as_u64().unwrap_or_else(|| panic!("{field} is a number"));
    let (hidden, ids) = (number("hidden_size"), number("vocab_size"));
    let (heads, kv_heads, width) =
        (number("num_attention_heads"), number("num_key_value_heads"), number("head_dim"));
    let [key_heads, value_heads] = ["linear_num_key_heads", "linear_num_value_heads"].map(number);
    let [key, value] = ["linear_key_head_dim", "linear_value_head_dim"].map(number);
    let mixed = 2 * key_heads * key + value_heads * value;
    let mut list = vec![("model.embed_tokens.weight".to_owned(), "BF16", vec![ids, hidden])];
    let mut layer = |prefix: String, full: bool| {
        let mut push = |name: &str, shape: &[u64]| {
            let dtype =
                if name.ends_with("A_log") || name.ends_with("attn.norm.weight") { "F32" } else { "BF16" };
            list.push((format!("{prefix}.{name}"), dtype, shape.to_vec()));
        };
        push("input_layernorm.weight", &[hidden]);
        if full {
            push("self_attn.q_proj.weight", &[2 * heads * width, hidden]);
            push("self_attn.k_proj.weight", &[kv_heads * width, hidden]);
            push("self_attn.v_proj.weight", &[kv_heads * width, hidden]);
            push("self_attn.o_proj.weight", &[hidden, heads * width]);
            push("self_attn.q_norm.weight", &[width]);
            push("self_attn.k_norm.weight", &[width]);
        } else {
            push("linear_attn.in_proj_qkv.weight", &[mixed, hidden]);
            push("linear_attn.in_proj_z.weight", &[value_heads * value, hidden]);
            push("linear_attn.in_proj_b.weight", &[value_heads, hidden]);
            push("linear_attn.in_proj_a.weight", &[value_heads, hidden]);
            push("linear_attn.conv1d.weight", &[mixed, 1, number("linear_conv_kernel_dim")]);
            push("linear_attn.dt_bias", &[value_heads]);
            push("linear_attn.A_log", &[value_heads]);
            push("linear_attn.norm.weight", &[value]);
            push("linear_attn.out_proj.weight", &[hidden, value_heads * value]);
        }
        push("post_attention_layernorm.weight", &[hidden]);
        let mut three = |module: &str, width: u64| {
            push(&format!("{module}.gate_proj.weight"), &[width, hidden]);
            push(&format!("{module}.up_proj.weight"), &[width, hidden]);
            push(&format!("{module}.down_proj.weight"), &[hidden, width]);
        };
        if let Some(count) = config["num_experts"].as_u64() {
            let width = number("moe_intermediate_size");
            three("mlp.shared_expert", number("shared_expert_intermediate_size"));
            push("mlp.gate.weight", &[count, hidden]);
            push("mlp.experts.gate_up_proj", &[count, 2 * width, hidden]);
            push("mlp.experts.down_proj", &[count, hidden, width]);
            push("mlp.shared_expert_gate.weight", &[1, hidden]);
        } else {
            three("mlp", number("intermediate_size"));
        }
    };
    for (number, kind) in (0..).zip(config["layer_types"].as_array().expect("kinds")) {
        layer(format!("model.layers.{number}"), kind == "full_attention");
    }
    layer("mtp.layers.0".to_owned(), true);
    for (name, shape) in [
        ("mtp.fc.weight", vec![hidden, 2 * hidden]),
        ("mtp.pre_fc_norm_embedding.weight", vec![hidden]),
        ("mtp.pre_fc_norm_hidden.weight", vec![hidden]),
        ("mtp.norm.weight", vec![hidden]),
        ("model.norm.weight", vec![hidden]),
    ] {
        list.push((name.to_owned(), "BF16", shape));
    }
    if config["tie_word_embeddings"] == false {
        list.push(("lm_head.weight".to_owned(), "BF16", vec![ids, hidden]));
    }
    list
}

/// Of DeepSeek V4: most matrices in FP8, experts in FP4, each with scales that are powers of two.
pub fn deepseek4(config: &Value) -> Tensors {
    let number = |field: &str| config[field].as_u64().unwrap_or_else(|| panic!("{field} is a number"));
    let (hidden, ids, streams) = (number("hidden_size"), number("vocab_size"), number("hc_mult"));
    let [heads, width, rank] = ["num_attention_heads", "head_dim", "q_lora_rank"].map(number);
    let [groups, o_rank] = ["o_groups", "o_lora_rank"].map(number);
    let [choosing, chooser] = ["index_n_heads", "index_head_dim"].map(number);
    let [count, used, expert] =
        ["n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"].map(number);
    let mixes = (2 + streams) * streams;
    let mut list = Tensors::new();
    let mut push = |name: String, dtype, shape: &[u64]| list.push((name, dtype, shape.to_vec()));
    for (name, dtype, shape) in [
        ("embed.weight", "BF16", &[ids, hidden][..]),
        ("norm.weight", "BF16", &[hidden]),
        ("head.weight", "BF16", &[ids, hidden]),
        ("hc_head_fn", "F32", &[streams, streams * hidden]),
        ("hc_head_base", "F32", &[streams]),
        ("hc_head_scale", "F32", &[1]),
        ("mtp.0.enorm.weight", "BF16", &[hidden]),
        ("mtp.0.e_proj.weight", "F8_E4M3", &[hidden, hidden]),
        ("mtp.0.e_proj.scale", "F8_E8M0", &[hidden / 128, hidden / 128]),
    ] {
        push(name.to_owned(), dtype, shape);
    }
    let ratios = config["compress_ratios"].as_array().expect("ratios");
    for layer in 0..number("num_hidden_layers") {
        let full = |name: &str| format!("layers.{layer}.{name}");
        for half in ["attn", "ffn"] {
            push(full(&format!("{half}_norm.weight")), "BF16", &[hidden]);
            push(full(&format!("hc_{half}_fn")), "F32", &[mixes, streams * hidden]);
            push(full(&format!("hc_{half}_base")), "F32", &[mixes]);
            push(full(&format!("hc_{half}_scale")), "F32", &[3]);
        }
        push(full("attn.attn_sink"), "F32", &[heads]);
        push(full("attn.q_norm.weight"), "BF16", &[rank]);
        push(full("attn.kv_norm.weight"), "BF16", &[width]);
        let ratio = ratios[layer as usize].as_u64().expect("a number");
        let inner = heads * width / groups;
        let mut matrices = vec![
            ("attn.wq_a", rank, hidden),
            ("attn.wq_b", heads * width, rank),
            ("attn.wkv", width, hidden),
            ("attn.wo_a", groups * o_rank, inner),
            ("attn.wo_b", hidden, groups * o_rank),
            ("ffn.shared_experts.w1", expert, hidden),
            ("ffn.shared_experts.w2", hidden, expert),
            ("ffn.shared_experts.w3", expert, hidden),
        ];
        let mut compressor = |name: &str, columns: u64, width: u64| {
            push(full(&format!("{name}.ape")), "F32", &[ratio, columns]);
            push(full(&format!("{name}.wkv.weight")), "BF16", &[columns, hidden]);
            push(full(&format!("{name}.wgate.weight")), "BF16", &[columns, hidden]);
            push(full(&format!("{name}.norm.weight")), "BF16", &[width]);
        };
        if ratio > 0 {
            compressor("attn.compressor", if ratio == 4 { 2 * width } else { width }, width);
        }
        if ratio == 4 {
            compressor("attn.indexer.compressor", 2 * chooser, chooser);
            push(full("attn.indexer.weights_proj.weight"), "BF16", &[choosing, hidden]);
            matrices.push(("attn.indexer.wq_b", choosing * chooser, rank));
        }
        for (name, rows, columns) in matrices {
            push(full(&format!("{name}.weight")), "F8_E4M3", &[rows, columns]);
            push(full(&format!("{name}.scale")), "F8_E8M0", &[rows.div_ceil(128), columns.div_ceil(128)]);
        }
        push(full("ffn.gate.weight"), "BF16", &[count, hidden]);
        // Of the layers that choose by ids nothing asks for it.
        push(full("ffn.gate.bias"), "F32", &[count]);
        if layer < number("num_hash_layers") {
            push(full("ffn.gate.tid2eid"), "I64", &[ids, used]);
        }
        for number in 0..count {
            for (name, rows, columns) in
                [("w1", expert, hidden), ("w2", hidden, expert), ("w3", expert, hidden)]
            {
                let full = |part: &str| full(&format!("ffn.experts.{number}.{name}.{part}"));
                push(full("weight"), "I8", &[rows, columns / 2]);
                push(full("scale"), "F8_E8M0", &[rows, columns / 32]);
            }
        }
    }
    list
}
