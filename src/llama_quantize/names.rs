//! What llama-quantize reads off a tensor's name: whether it is quantized at all, and its category.

/// What a tensor counts as; the first that fits, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// output.weight.
    Output,
    /// token_embd.weight, per_layer_token_embd.weight.
    Embedding,
    /// attn_qkv, attn_kv_b, attn_v.
    Value,
    /// attn_k.
    Key,
    /// attn_q.
    Query,
    /// attn_output.
    AttnOutput,
    /// ffn_up and all names that have it: ffn_up_exps, ffn_up_shexp.
    Up,
    /// ffn_gate, likewise.
    Gate,
    /// ffn_down, likewise.
    Down,
    /// All others.
    Other,
}

/// Parts of names and their categories, tried in this order.
const CATEGORIES: [(&str, Category); 9] = [
    ("attn_qkv.weight", Category::Value),
    ("attn_kv_b.weight", Category::Value),
    ("attn_v.weight", Category::Value),
    ("attn_k.weight", Category::Key),
    ("attn_q.weight", Category::Query),
    ("attn_output.weight", Category::AttnOutput),
    ("ffn_up", Category::Up),
    ("ffn_gate", Category::Gate),
    ("ffn_down", Category::Down),
];

impl Category {
    /// The category of a GGUF name.
    pub fn of(name: &str) -> Self {
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::Embedding,
            _ => CATEGORIES
                .iter()
                .find(|(part, _)| name.contains(part))
                .map_or(Self::Other, |(_, category)| *category),
        }
    }
}

/// Tensors with one of these in their names stay as they are.
const PROTECTED: [&str; 20] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// RWKV's small matrices, behind "time_mix_".
const TIME_MIX: [&str; 15] = [
    "first",
    "w0",
    "w1",
    "w2",
    "v0",
    "v1",
    "v2",
    "a0",
    "a1",
    "a2",
    "g1",
    "g2",
    "decay_w1",
    "decay_w2",
    "lerp_fused",
];

/// These whole names stay as they are, too.
const PROTECTED_NAMES: [&str; 2] = ["position_embd.weight", "token_types.weight"];

/// And with architecture glm5-next these.
const PROTECTED_GLM5_NEXT: [&str; 14] = [
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa",
    "attn_k_b",
    "attn_v_b",
];

/// What llama-quantize would quantize, and what converters keep at 16 or 32 bits for its effect: small matrices that
/// mix streams or choose positions. (docs/file-types.md has the table.)
const PROTECTED_BY_US: [&str; 5] =
    ["indexer.proj", "indexer_compressor_", "attn_compressor_ape", "hc_attn_fn", "hc_ffn_fn"];

/// Why a tensor stays as it is stored, if llama-quantize or we leave it so.
///
/// `shape` has the row length first.
pub fn protected(arch: &str, name: &str, shape: &[u64]) -> Option<&'static str> {
    let dimensions = shape.iter().rposition(|extent| *extent > 1).map_or(1, |last| last + 1);
    let time_mix = |name: &str| {
        let rest = name.split_once("time_mix_").map(|(_, rest)| rest);
        rest.and_then(|rest| rest.strip_suffix(".weight")).is_some_and(|rest| TIME_MIX.contains(&rest))
    };
    if dimensions < 2 {
        Some("a vector: llama-quantize leaves these as they are")
    } else if dimensions > 3 {
        Some("more than three dimensions: left as it is")
    } else if !name.ends_with("weight") {
        Some("no weight by its name: llama-quantize leaves these as they are")
    } else if PROTECTED.iter().any(|part| name.contains(part))
        || PROTECTED_NAMES.contains(&name)
        || time_mix(name)
        || (arch == "glm5-next" && PROTECTED_GLM5_NEXT.iter().any(|part| name.contains(part)))
    {
        Some("llama-quantize leaves it as it is")
    } else if PROTECTED_BY_US.iter().any(|part| name.contains(part)) {
        Some("small and sensitive: converters keep it at 16 or 32 bits")
    } else {
        None
    }
}

/// Whether glm5-next gives it at least Q8_0.
pub fn at_least_q8_0(arch: &str, name: &str) -> bool {
    let names = ["attn_q_a.weight", "attn_q_b.weight", "nextn.eh_proj.weight"];
    arch == "glm5-next" && names.iter().any(|part| name.contains(part))
}
