//! The fields of config.json that this family's own classes have, and their defaults where one is absent.

use crate::model::arch::fields::{
    Field,
    Treatment::{Ignored, Only, Read},
};

/// How each field is treated.
pub const FIELDS: &[Field] = &[
    ("model_type", Read),
    ("hidden_size", Read),
    ("num_hidden_layers", Read),
    ("num_nextn_predict_layers", Read),
    ("first_k_dense_replace", Read),
    ("intermediate_size", Read),
    ("moe_intermediate_size", Read),
    ("n_routed_experts", Read),
    ("num_experts_per_tok", Read),
    ("n_shared_experts", Read),
    ("n_group", Read),
    ("topk_group", Read),
    ("topk_method", Read),
    ("scoring_func", Read),
    ("norm_topk_prob", Read),
    ("routed_scaling_factor", Read),
    ("num_attention_heads", Read),
    ("q_lora_rank", Read),
    ("kv_lora_rank", Read),
    ("qk_nope_head_dim", Read),
    ("qk_rope_head_dim", Read),
    ("v_head_dim", Read),
    ("max_position_embeddings", Read),
    ("rms_norm_eps", Read),
    ("rope_theta", Read),
    ("rope_scaling", Read),
    ("rope_parameters", Read),
    ("hidden_act", Read),
    ("moe_layer_freq", Read),
    ("mlp_layer_types", Read),
    // Biases of projections, which llama.cpp does not load here.
    ("attention_bias", Only("false")),
    ("mlp_bias", Only("false")),
    // llama.cpp rotates neighbouring rows, as DeepSeek's checkpoints have them.
    ("rope_interleave", Only("true")),
    ("partial_rotary_factor", Only("1")),
    ("use_sliding_window", Only("false")),
    ("use_qk_norm", Only("false")),
    ("use_mla", Only("true")),
    ("attn_logit_softcapping", Only("null")),
    ("final_logit_softcapping", Only("null")),
    ("num_key_value_heads", Read),
    ("head_dim", Ignored("qk_rope_head_dim says it")),
    ("qk_head_dim", Read),
    ("ep_size", Ignored("how experts are shared out to machines")),
    ("aux_loss_alpha", Ignored("of training")),
    ("seq_aux", Ignored("of training")),
    ("router_aux_loss_coef", Ignored("of training")),
    ("output_router_logits", Ignored("of training")),
    ("model_max_length", Ignored("max_position_embeddings counts")),
];

/// Fields of classes with an indexer.
pub const INDEXER: &[Field] = &[
    ("index_n_heads", Read),
    ("index_head_dim", Read),
    ("index_topk", Read),
    ("layer_types", Read),
    // What transformers 5 writes besides.
    ("num_local_experts", Ignored("n_routed_experts counts")),
];

/// Fields of GLM's, where some layers take the choice of the one before.
pub const SHARED: &[Field] = &[
    ("indexer_types", Read),
    ("index_topk_pattern", Read),
    ("index_topk_freq", Read),
    ("index_skip_topk_offset", Read),
    ("indexer_rope_interleave", Only("true")),
    (
        "index_share_for_mtp_iteration",
        Ignored("of multi-token prediction, whose layer has an indexer of its own"),
    ),
];

/// The defaults of a class for absent fields.
pub struct Class {
    pub architecture: &'static str,
    /// GGUF's architecture.
    pub arch: &'static str,
    /// Its names in `model_type`.
    pub types: &'static [&'static str],
    pub scoring: &'static str,
    /// The first is that of an absent field; no other is computed by the class, whatever is said.
    pub methods: &'static [&'static str],
    pub normalised: bool,
    /// n_group and topk_group.
    pub groups: Option<[u32; 2]>,
    /// The first layers, which have no experts.
    pub dense: Option<u32>,
    /// Scalings of the position encoding that the architecture has.
    pub scalings: &'static [&'static str],
    /// What chooses the tokens that are attended to.
    pub indexer: Option<IndexerOf>,
}

/// The defaults of an indexer.
pub struct IndexerOf {
    pub heads: u32,
    pub width: u32,
    pub chosen: u32,
    /// Whether a layer may take the choice of one before it.
    pub shared: bool,
}

const STRETCHED: &[&str] = &["default", "yarn"];

/// The classes that the family reads. V3's computes sigmoid, bias and normalisation whatever its configuration says of
/// them; transformers' own DeepseekV3Config has no fields for the first two.
pub const CLASSES: [Class; 5] = [
    Class {
        architecture: "DeepseekV3ForCausalLM",
        arch: "deepseek2",
        types: &["deepseek_v3", "kimi_k2"],
        scoring: "sigmoid",
        methods: &["noaux_tc"],
        normalised: true,
        groups: Some([8, 4]),
        dense: None,
        scalings: STRETCHED,
        indexer: None,
    },
    Class {
        architecture: "DeepseekV2ForCausalLM",
        arch: "deepseek2",
        types: &["deepseek_v2"],
        scoring: "softmax",
        methods: &["greedy", "group_limited_greedy"],
        normalised: false,
        groups: None,
        dense: None,
        scalings: STRETCHED,
        indexer: None,
    },
    Class {
        architecture: "Glm4MoeLiteForCausalLM",
        arch: "deepseek2",
        types: &["glm4_moe_lite"],
        scoring: "sigmoid",
        methods: &["noaux_tc"],
        normalised: true,
        groups: Some([1, 1]),
        dense: Some(1),
        scalings: STRETCHED,
        indexer: None,
    },
    Class {
        architecture: "DeepseekV32ForCausalLM",
        arch: "deepseek32",
        types: &["deepseek_v32"],
        scoring: "sigmoid",
        methods: &["noaux_tc"],
        normalised: true,
        groups: Some([8, 4]),
        dense: Some(3),
        scalings: STRETCHED,
        indexer: Some(IndexerOf { heads: 64, width: 128, chosen: 2048, shared: false }),
    },
    Class {
        architecture: "GlmMoeDsaForCausalLM",
        arch: "glm-dsa",
        types: &["glm_moe_dsa"],
        scoring: "sigmoid",
        methods: &["noaux_tc"],
        normalised: true,
        groups: Some([1, 1]),
        dense: Some(3),
        scalings: &["default"],
        indexer: Some(IndexerOf { heads: 32, width: 128, chosen: 2048, shared: true }),
    },
];
