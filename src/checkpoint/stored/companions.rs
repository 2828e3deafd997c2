//! Tables of tensors beside the weights, by the last part of their names: those that are never needed, and those that
//! reveal a format that cannot be read.

/// Tensors that no model needs: the last part of the name, and what they are.
const LEFT_OUT: &[(&str, &str)] = &[
    ("input_scale", "scales of activations, which a GGUF file does not quantize"),
    ("input_scale_ub", "bounds of the scales of activations"),
    ("activation_scale", "scales of activations, which a GGUF file does not quantize"),
    ("output_scale", "scales of activations, which a GGUF file does not quantize"),
    ("k_scale", "scales of the KV cache, whose type is chosen when the model runs"),
    ("v_scale", "scales of the KV cache, whose type is chosen when the model runs"),
    ("kv_scale", "scales of the KV cache, whose type is chosen when the model runs"),
    ("q_scale", "scales of activations, which a GGUF file does not quantize"),
    ("inv_freq", "frequencies of the position encoding, which follow from config.json"),
];

/// Tensors that show that weights are stored in another format.
const FOREIGN: &[(&str, &str)] = &[
    ("weight_packed", "packed codes of compressed-tensors (INT4, NVFP4 or MXFP4)"),
    ("weight_shape", "packed codes of compressed-tensors"),
    ("weight_zero_point", "integers of compressed-tensors"),
    ("weight_g_idx", "packed codes of compressed-tensors"),
    ("weight_global_scale", "NVFP4 of compressed-tensors"),
    ("weight_scale_2", "NVFP4 of ModelOpt"),
    ("qweight", "GPTQ's or AWQ's integers"),
    ("qzeros", "GPTQ's or AWQ's integers"),
    ("g_idx", "GPTQ's integers"),
    ("absmax", "bitsandbytes' 4 bits"),
    ("quant_map", "bitsandbytes' 4 bits"),
    ("nested_absmax", "bitsandbytes' 4 bits"),
    ("nested_quant_map", "bitsandbytes' 4 bits"),
    ("bitsandbytes__nf4", "bitsandbytes' 4 bits"),
    ("bitsandbytes__fp4", "bitsandbytes' 4 bits"),
    ("SCB", "bitsandbytes' 8 bits"),
    ("weight_scales", "packed blocks (MXFP4) or EETQ's 8 bits"),
    ("scales", "integers of GPTQ, AWQ or MLX"),
    ("biases", "MLX's integers"),
    ("compressed", "compressed-tensors' sparse weights"),
    ("bitmask", "compressed-tensors' sparse weights"),
    ("row_offsets", "compressed-tensors' sparse weights"),
    ("pre_quant_scale", "ModelOpt's AWQ, whose inputs are multiplied by it"),
    ("_data", "quanto's"),
    ("codebooks", "AQLM's codes"),
    ("centroids", "VPTQ's codes"),
    ("Qidxs", "QuIP#'s codes"),
    ("qscale_weight", "Mistral's FP8"),
    ("W_q", "HQQ's integers"),
];

/// The entry of a tensor that no model needs.
pub fn left_out(name: &str) -> Option<(&'static str, &'static str)> {
    let entry = LEFT_OUT.iter().find(|(part, _)| *part == last(name)).copied();
    // A family may well learn something else that is called like the frequencies.
    entry.filter(|(part, _)| *part != "inv_freq" || name.ends_with("rotary_emb.inv_freq"))
}

/// The format that a tensor of this name belongs to.
pub fn foreign(name: &str) -> Option<&'static str> {
    let last = last(name);
    // gpt-oss has gate_up_proj_blocks, others weight_blocks.
    let packed = || last.ends_with("_blocks").then_some("packed blocks (MXFP4)");
    FOREIGN.iter().find(|(part, _)| *part == last).map(|(_, format)| *format).or_else(packed)
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
