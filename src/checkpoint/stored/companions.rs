//! The names of the tensors beside the weights: those that a weight is put together from, those that are never needed,
//! and those that reveal a format that cannot be read.

use std::collections::HashMap;

use crate::checkpoint::Tensor;

// What follows the name of a weight.
pub const PACKED: &str = "_packed";
pub const SCALE: &str = "_scale";
pub const ZERO_POINT: &str = "_zero_point";
pub const G_IDX: &str = "_g_idx";
pub const SHAPE: &str = "_shape";
pub const GLOBAL_SCALE: &str = "_global_scale";
pub const SCALE_2: &str = "_scale_2";
pub const BLOCKS: &str = "_blocks";
pub const SCALES: &str = "_scales";
pub const FORMAT: &str = "_format";
pub const ABSMAX: &str = ".absmax";
pub const QUANT_MAP: &str = ".quant_map";
pub const NESTED_ABSMAX: &str = ".nested_absmax";
pub const NESTED_QUANT_MAP: &str = ".nested_quant_map";
pub const BNB_STATES: [&str; 2] = [".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"];
/// Any of these shows bitsandbytes' 4 bits.
pub const BNB: [&str; 4] = [ABSMAX, QUANT_MAP, BNB_STATES[0], BNB_STATES[1]];

// The last parts of names in a module.
pub const WEIGHT: &str = "weight";
pub const QWEIGHT: &str = "qweight";
pub const QZEROS: &str = "qzeros";
pub const MODULE_SCALES: &str = "scales";
pub const MODULE_SCALE: &str = "scale";
pub const MODULE_G_IDX: &str = "g_idx";
pub const SCB: &str = "SCB";

/// Suffixes of the tensor that holds the factors of FP8 weights. Despite the first one's name they are multiplied.
pub const SUFFIXES: [&str; 2] = ["_scale_inv", SCALE];

/// Tensors that no model needs: the last part of the name, and what they are.
const LEFT_OUT: &[(&str, &str)] = &[
    ("input_scale", "scales of activations, which a GGUF file does not quantize"),
    ("input_scale_ub", "bounds of the scales of activations"),
    ("input_global_scale", "scales of activations, which a GGUF file does not quantize"),
    ("input_zero_point", "zero points of activations, which a GGUF file does not quantize"),
    ("activation_scale", "scales of activations, which a GGUF file does not quantize"),
    ("output_scale", "scales of activations, which a GGUF file does not quantize"),
    ("k_scale", "scales of the KV cache, whose type is chosen when the model runs"),
    ("v_scale", "scales of the KV cache, whose type is chosen when the model runs"),
    ("kv_scale", "scales of the KV cache, whose type is chosen when the model runs"),
    ("q_scale", "scales of activations, which a GGUF file does not quantize"),
    ("inv_freq", "frequencies of the position encoding, which follow from config.json"),
];

/// Tensors that show that weights are stored in another format, or belong to codes that are not there.
const FOREIGN: &[(&str, &str)] = &[
    ("weight_packed", "packed codes of compressed-tensors"),
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

/// Tensors that belong to codes, and how these end instead.
const BELONG: &[(&str, &str)] = &[
    (SHAPE, PACKED),
    (G_IDX, PACKED),
    (".qzeros", ".qweight"),
    (".g_idx", ".qweight"),
    (ABSMAX, ""),
    (QUANT_MAP, ""),
    (NESTED_ABSMAX, ""),
    (NESTED_QUANT_MAP, ""),
    (BNB_STATES[0], ""),
    (BNB_STATES[1], ""),
    (".SCB", ".weight"),
];

/// The entry of a tensor that no model needs.
pub fn left_out(name: &str) -> Option<(&'static str, &'static str)> {
    let last = last(name);
    let entry = LEFT_OUT.iter().find(|(part, _)| *part == last).copied();
    // A family may well learn something else that is called like the frequencies.
    entry.filter(|(part, _)| *part != "inv_freq" || name.ends_with("rotary_emb.inv_freq"))
}

/// The format that a tensor of this name belongs to.
pub fn foreign(name: &str) -> Option<&'static str> {
    let last = last(name);
    // gpt-oss has gate_up_proj_blocks, others weight_blocks.
    let packed = || (last.ends_with(BLOCKS) || last.ends_with(PACKED)).then_some("packed blocks (MXFP4)");
    FOREIGN.iter().find(|(part, _)| *part == last).map(|(_, format)| *format).or_else(packed)
}

/// The codes that a tensor of this name would be beside.
pub fn codes_of(name: &str) -> Option<String> {
    let belongs = |(part, codes): &(&str, &str)| name.strip_suffix(part).map(|base| format!("{base}{codes}"));
    BELONG.iter().find_map(belongs)
}

/// The tensor of the same module whose last part is `wanted` where this one's is `part`.
pub fn sibling(name: &str, part: &str, wanted: &str) -> Option<String> {
    let module = name.strip_suffix(part)?;
    (module.is_empty() || module.ends_with('.')).then(|| format!("{module}{wanted}"))
}

/// Whether a tensor is called a weight.
pub fn is_weight(name: &str) -> bool {
    last(name) == WEIGHT
}

/// The names that a weight's factors may have.
pub fn scales_of(weight: &str) -> impl Iterator<Item = String> {
    let beside = SUFFIXES.map(|suffix| format!("{weight}{suffix}"));
    beside.into_iter().chain(sibling(weight, WEIGHT, MODULE_SCALE))
}

/// The tensor of a weight's factors, if there is one.
pub fn scale_of(tensors: &HashMap<String, Tensor>, weight: &str) -> Option<String> {
    scales_of(weight).find(|name| tensors.contains_key(name))
}

/// The weight that a tensor of this name would hold the factors of.
pub fn weight_of_scale(name: &str) -> Option<String> {
    let beside = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).map(str::to_owned);
    beside.or_else(|| sibling(name, MODULE_SCALE, WEIGHT))
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
