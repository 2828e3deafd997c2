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
    ("symmetric", Read),
    ("dynamic", Only("false")),
    ("actorder", Read),
    ("observer", Ignored(HISTORY)),
    ("observer_kwargs", Ignored(HISTORY)),
    ("scale_dtype", Ignored("scales have their own types")),
    ("zp_dtype", Ignored("zero points have their own types")),
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
    ("group_size", Ignored(TENSORS)),
    ("quantized_layers", Ignored(TENSORS)),
    ("producer", Ignored(HISTORY)),
    ("version", Ignored(HISTORY)),
    ("has_zero_point", Only("false")),
    // Inputs would have to be multiplied by it.
    ("pre_quant_scale", Only("false")),
];

/// Fields of gpt-oss's MXFP4.
pub const MXFP4: &[Field] = &[
    ("quant_method", Read),
    ("modules_to_not_convert", Ignored(TENSORS)),
    ("dequantize", Ignored("says how it is loaded")),
];

/// Fields of GPTQ.
pub const GPTQ: &[Field] = &[
    ("quant_method", Read),
    ("bits", Read),
    ("group_size", Read),
    ("checkpoint_format", Read),
    ("desc_act", Read),
    ("format", Read),
    ("method", Ignored("quant_method says it")),
    ("sym", Ignored("all have zero points")),
    // Other bits for some of the modules.
    ("dynamic", Only("{}")),
    ("is_marlin_format", Only("false")),
    ("pack_dtype", Only("\"int32\"")),
    ("lm_head", Ignored(TENSORS)),
    ("modules_in_block_to_quantize", Ignored(TENSORS)),
    ("block_name_to_quantize", Ignored(TENSORS)),
    ("module_name_preceding_first_block", Ignored(TENSORS)),
    ("damp_percent", Ignored(HISTORY)),
    ("damp_auto_increment", Ignored(HISTORY)),
    ("true_sequential", Ignored(HISTORY)),
    ("static_groups", Ignored(HISTORY)),
    ("mse", Ignored(HISTORY)),
    ("dataset", Ignored(HISTORY)),
    ("tokenizer", Ignored(HISTORY)),
    ("batch_size", Ignored(HISTORY)),
    ("pad_token_id", Ignored(HISTORY)),
    ("model_seqlen", Ignored(HISTORY)),
    ("act_group_aware", Ignored(HISTORY)),
    ("meta", Ignored(HISTORY)),
    ("model_name_or_path", Ignored(HISTORY)),
    ("model_file_base_name", Ignored(HISTORY)),
    ("quant_type", Ignored(HISTORY)),
    ("cache_block_outputs", Ignored(HISTORY)),
    ("use_cuda_fp16", Ignored("says how it is loaded")),
    ("use_exllama", Ignored("says how it is loaded")),
    ("disable_exllama", Ignored("says how it is loaded")),
    ("exllama_config", Ignored("says how it is loaded")),
    ("max_input_length", Ignored("says how it is loaded")),
    ("backend", Ignored("says how it is loaded")),
    ("version", Ignored(HISTORY)),
];

/// Fields of AWQ.
pub const AWQ: &[Field] = &[
    ("quant_method", Read),
    ("bits", Read),
    ("w_bit", Read),
    ("group_size", Read),
    ("q_group_size", Read),
    ("version", Read),
    ("zero_point", Only("true")),
    ("modules_to_not_convert", Ignored(TENSORS)),
    ("backend", Ignored("says how it is loaded")),
    ("do_fuse", Ignored("says how it is loaded")),
    ("fuse_max_seq_len", Ignored("says how it is loaded")),
    ("modules_to_fuse", Ignored("says how it is loaded")),
    ("exllama_config", Ignored("says how it is loaded")),
];

/// Fields of bitsandbytes, whose tensors say all.
pub const BITSANDBYTES: &[Field] = &[
    ("quant_method", Read),
    ("load_in_4bit", Ignored(TENSORS)),
    ("load_in_8bit", Ignored(TENSORS)),
    ("bnb_4bit_compute_dtype", Ignored("says how it is computed")),
    ("bnb_4bit_quant_storage", Ignored(TENSORS)),
    ("bnb_4bit_quant_type", Ignored(TENSORS)),
    ("bnb_4bit_use_double_quant", Ignored(TENSORS)),
    ("llm_int8_enable_fp32_cpu_offload", Ignored("says how it is loaded")),
    ("llm_int8_has_fp16_weight", Ignored(TENSORS)),
    ("llm_int8_skip_modules", Ignored(TENSORS)),
    ("llm_int8_threshold", Ignored("says how it is computed")),
];

/// Fields of BitNet.
pub const BITNET: &[Field] = &[
    ("quant_method", Read),
    ("linear_class", Read),
    ("modules_to_not_convert", Ignored(TENSORS)),
    ("quantization_mode", Ignored(TENSORS)),
    // Norms of inputs that the architecture would have to have.
    ("use_rms_norm", Only("false")),
    ("rms_norm_eps", Ignored("of norms that are not there")),
];
