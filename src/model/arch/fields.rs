//! Fields of config.json that every model may have: tables, those of a family beside it.

pub use crate::checkpoint::fields::{Field, Treatment, check};

use Treatment::{Ignored, Read, Refused};

const TRAINING: Treatment = Ignored("of training");
const SAMPLING: Treatment = Ignored("of sampling; generation_config.json counts");
const CODE: Treatment = Ignored("says which code, and not what it computes");
const HEADS: Treatment = Ignored("of other heads than a language model's");

/// Fields that transformers writes into every config.json, in old versions and new.
pub const GENERAL: &[Field] = &[
    ("architectures", Read),
    ("bos_token_id", Read),
    ("eos_token_id", Read),
    ("pad_token_id", Read),
    ("tie_word_embeddings", Read),
    ("quantization_config", Read),
    ("compression_config", Read),
    ("vocab_size", Read),
    ("model_type", CODE),
    ("auto_map", CODE),
    ("transformers_version", CODE),
    ("name_or_path", CODE),
    ("tokenizer_class", CODE),
    ("processor_class", CODE),
    ("custom_pipelines", CODE),
    ("attn_implementation", CODE),
    ("use_flash_attention", CODE),
    ("unsloth_fixed", CODE),
    ("transformers.js_config", CODE),
    ("unsloth_version", CODE),
    ("torch_dtype", Ignored("tensors have their own types")),
    ("dtype", Ignored("tensors have their own types")),
    ("use_bfloat16", Ignored("tensors have their own types")),
    ("use_cache", Ignored("the same without a cache")),
    ("cache_implementation", Ignored("the same without a cache")),
    ("sep_token_id", Ignored("of other tasks than text generation")),
    ("decoder_start_token_id", Ignored("of models with an encoder")),
    ("cross_attention_hidden_size", Ignored("of models with an encoder")),
    ("add_cross_attention", Treatment::Only("false")),
    ("is_encoder_decoder", Treatment::Only("false")),
    ("is_decoder", Ignored("every language model is one")),
    ("tie_encoder_decoder", Ignored("of models with an encoder")),
    ("chunk_size_feed_forward", Ignored("the same in one piece")),
    ("return_dict", CODE),
    ("return_dict_in_generate", CODE),
    ("output_hidden_states", CODE),
    ("output_attentions", CODE),
    ("output_scores", CODE),
    ("torchscript", CODE),
    ("tf_legacy_loss", CODE),
    ("pruned_heads", Treatment::Only("{}")),
    ("initializer_range", TRAINING),
    ("attention_dropout", TRAINING),
    ("hidden_dropout", TRAINING),
    ("gradient_checkpointing", TRAINING),
    ("use_gradient_checkpointing", TRAINING),
    ("pretraining_tp", Ignored("sums in parts are the same sums")),
    ("finetuning_task", HEADS),
    ("id2label", HEADS),
    ("label2id", HEADS),
    ("num_labels", HEADS),
    ("problem_type", HEADS),
    ("task_specific_params", HEADS),
    ("prefix", HEADS),
    ("max_length", SAMPLING),
    ("min_length", SAMPLING),
    ("do_sample", SAMPLING),
    ("early_stopping", SAMPLING),
    ("num_beams", SAMPLING),
    ("num_beam_groups", SAMPLING),
    ("diversity_penalty", SAMPLING),
    ("temperature", SAMPLING),
    ("top_k", SAMPLING),
    ("top_p", SAMPLING),
    ("typical_p", SAMPLING),
    ("repetition_penalty", SAMPLING),
    ("length_penalty", SAMPLING),
    ("no_repeat_ngram_size", SAMPLING),
    ("encoder_no_repeat_ngram_size", SAMPLING),
    ("bad_words_ids", SAMPLING),
    ("num_return_sequences", SAMPLING),
    ("forced_bos_token_id", SAMPLING),
    ("forced_eos_token_id", SAMPLING),
    ("remove_invalid_values", SAMPLING),
    ("exponential_decay_length_penalty", SAMPLING),
    ("suppress_tokens", SAMPLING),
    ("begin_suppress_tokens", SAMPLING),
];

/// Fields of `rope_scaling` and `rope_parameters`.
pub const ROPE: &[Field] = &[
    ("type", Read),
    ("rope_type", Read),
    ("rope_theta", Read),
    ("factor", Read),
    ("original_max_position_embeddings", Read),
    ("beta_fast", Read),
    ("beta_slow", Read),
    ("mscale", Read),
    ("mscale_all_dim", Read),
    ("max_position_embeddings", Ignored("config.json's own counts")),
    ("partial_rotary_factor", Treatment::Only("1")),
    ("truncate", Treatment::Only("true")),
    ("attention_factor", Refused),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_on_a_list_twice() {
        for list in [GENERAL, ROPE] {
            let mut names: Vec<&str> = list.iter().map(|(name, _)| *name).collect();
            names.sort_unstable();
            assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        }
    }
}
