//! Fields of config.json: read, of no effect, or fixed to what a GGUF file can say. One that is on no list is a warning, since
//! it may change what the model computes. The lists are tables, those of a family beside it.

use serde_json::Value;

use crate::checkpoint::Config;
use crate::error::{Error, Result, Warning};

/// A field's name and what is done about it.
pub type Field = (&'static str, Treatment);

/// What is done about a field.
#[derive(Clone, Copy, Debug)]
pub enum Treatment {
    /// Its value goes into the file, or decides what does.
    Read,
    /// It does not change what the model computes, for this reason, which is for readers of the tables.
    Ignored(#[allow(dead_code)] &'static str),
    /// Only this value, in JSON, has a GGUF form.
    Only(&'static str),
    /// It has no GGUF form at all.
    Refused,
}

use Treatment::{Ignored, Read, Refused};

const TRAINING: Treatment = Ignored("of training");
const SAMPLING: Treatment = Ignored("of sampling; generation_config.json counts");
const CODE: Treatment = Ignored("says which code, and not what it computes");
const HEADS: Treatment = Ignored("of other heads than a language model's");

/// What transformers writes into every config.json, of today and of old.
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

/// What `rope_scaling` and `rope_parameters` may say.
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

/// Goes through the fields of an object: what is on no list is a warning.
///
/// # Errors
/// If a field has a value that no GGUF file can say.
pub fn check(config: &Config, lists: &[&[Field]]) -> Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    for name in config.names() {
        let value = config.value(name).unwrap_or(&Value::Null);
        // The library's own notes begin with an underscore.
        if name.starts_with('_') {
            continue;
        }
        let known = lists.iter().find_map(|list| list.iter().find(|(field, _)| *field == name));
        match known.map(|(_, treatment)| *treatment) {
            Some(Read | Ignored(_)) => {}
            Some(Treatment::Only(only)) if same(value, only) => {}
            Some(Treatment::Only(only)) => {
                let problem = format!("is {}; only {only} has a GGUF form", short(value));
                return Err(Error::Unsupported(config.says(name, &problem)));
            }
            Some(Refused) => {
                let problem = format!("is {}, which has no GGUF form", short(value));
                return Err(Error::Unsupported(config.says(name, &problem)));
            }
            None => {
                let problem = format!(
                    "is {}, and the field is not known here: if it changes what the model computes, the file will be wrong",
                    short(value)
                );
                warnings.push(Warning::new(Error::Unsupported(config.says(name, &problem))));
            }
        }
    }
    Ok(warnings)
}

fn same(value: &Value, only: &str) -> bool {
    let only: Value = serde_json::from_str(only).expect("the tables hold JSON");
    match (value.as_f64(), only.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => *value == only,
    }
}

/// A value as a message has room for.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_warnings_and_wrong_ones_errors() {
        let list: &[Field] = &[("a", Read), ("b", Treatment::Only("1")), ("c", Refused)];
        let check = |json: &str| {
            let config = Config::parse(json.as_bytes()).expect("an object");
            check(&config, &[list])
                .map(|warnings| warnings.iter().map(Warning::to_string).collect::<Vec<_>>())
        };
        assert_eq!(check(r#"{"a": 5, "b": 1.0, "c": null, "d": null, "_e": 1}"#).expect("sound").len(), 0);
        let warnings = check(r#"{"d": [1]}"#).expect("a warning");
        assert!(warnings[0].contains("config.json: d is [1], and the field is not known"), "{warnings:?}");
        for (json, words) in
            [(r#"{"b": 2}"#, "config.json: b is 2; only 1"), (r#"{"c": 0}"#, "c is 0, which has no")]
        {
            let error = check(json).expect_err(json);
            assert!(error.to_string().contains(words) && error.exit_code() == 4, "{error}");
        }
    }

    #[test]
    fn no_field_is_on_a_list_twice() {
        for list in [GENERAL, ROPE] {
            let mut names: Vec<&str> = list.iter().map(|(name, _)| *name).collect();
            names.sort_unstable();
            assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        }
    }
}
