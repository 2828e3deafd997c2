//! The fields of `quantization_config` and of the objects in it: tables.

use crate::checkpoint::fields::{
    Field,
    Treatment::{Ignored, Only, Read},
};

const ACTIVATIONS: &str = "of activations, which a GGUF file does not quantize";
const TENSORS: &str = "tensors show what is quantized";
const CACHE: &str = "of the KV cache, whose type is chosen when the model runs";
const HISTORY: &str = "how the weights came about, and not what they are";

/// Fields of DeepSeek's and transformers' FP8.
pub const FP8: &[Field] = &[
    ("quant_method", Read),
    ("fmt", Read),
    ("weight_block_size", Read),
    ("scale_fmt", Ignored("scales have their own types")),
    ("activation_scheme", Ignored(ACTIVATIONS)),
    ("activation_block_size", Ignored(ACTIVATIONS)),
    ("activation_scale_ub", Ignored(ACTIVATIONS)),
    ("modules_to_not_convert", Ignored(TENSORS)),
    ("ignored_layers", Ignored(TENSORS)),
    ("ignore", Ignored(TENSORS)),
    ("exclude_modules", Ignored(TENSORS)),
    ("kv_cache_scheme", Ignored(CACHE)),
    ("dequantize", Ignored("says how it is loaded")),
    ("is_checkpoint_fp8_serialized", Ignored(TENSORS)),
];

/// Fields of compressed-tensors.
pub const COMPRESSED_TENSORS: &[Field] = &[
    ("quant_method", Read),
    ("format", Read),
    ("config_groups", Read),
    ("sparsity_config", Read),
    ("transform_config", Read),
    ("ignore", Ignored(TENSORS)),
    ("kv_cache_scheme", Ignored(CACHE)),
    ("quantization_status", Ignored(HISTORY)),
    ("global_compression_ratio", Ignored(HISTORY)),
    ("version", Ignored(HISTORY)),
    ("run_compressed", Ignored("says how it is loaded")),
    ("dequantize", Ignored("says how it is loaded")),
];

/// Fields of one of its groups.
pub const GROUP: &[Field] = &[
    ("weights", Read),
    ("format", Read),
    ("targets", Ignored(TENSORS)),
    ("input_activations", Ignored(ACTIVATIONS)),
    ("output_activations", Ignored(ACTIVATIONS)),
];

/// Fields of a group's weights.
pub const WEIGHTS: &[Field] = &[
    ("num_bits", Read),
    ("type", Read),
    ("strategy", Read),
    ("group_size", Read),
    ("block_structure", Read),
    ("symmetric", Only("true")),
    ("dynamic", Only("false")),
    ("actorder", Ignored("columns out of order have weight_g_idx, which is refused")),
    ("observer", Ignored(HISTORY)),
    ("observer_kwargs", Ignored(HISTORY)),
    ("scale_dtype", Ignored("scales have their own types")),
    ("zp_dtype", Ignored("there are no zero points")),
];

/// Fields of rotations that are computed beside the weights.
pub const TRANSFORM: &[Field] = &[("config_groups", Only("{}"))];

/// Fields of sparse weights.
pub const SPARSITY: &[Field] = &[
    ("format", Only("\"dense\"")),
    ("targets", Ignored(TENSORS)),
    ("ignore", Ignored(TENSORS)),
    ("global_sparsity", Ignored(HISTORY)),
    ("sparsity_structure", Ignored(HISTORY)),
    ("registry_requires_subclass", Ignored(HISTORY)),
];

/// Fields of ModelOpt.
pub const MODELOPT: &[Field] = &[
    ("quant_method", Read),
    ("quant_algo", Read),
    ("kv_cache_quant_algo", Ignored(CACHE)),
    ("kv_cache_scheme", Ignored(CACHE)),
    ("exclude_modules", Ignored(TENSORS)),
    ("ignore", Ignored(TENSORS)),
    ("config_groups", Ignored("quant_algo says it")),
    ("group_size", Ignored("of formats that are refused")),
    ("producer", Ignored(HISTORY)),
    ("version", Ignored(HISTORY)),
    ("has_zero_point", Only("false")),
    // Inputs would have to be multiplied by it.
    ("pre_quant_scale", Only("false")),
];
