//! Bad checkpoints: an error that names file, tensor, expected and found, and nothing under the final name. What was
//! done before the error is kept, if the message says so.

use std::fs;

use serde_json::{Value, json};

use crate::support::checkpoint::{Copy, with_header};
use crate::support::{fail, succeed, text};

const INDEX: &str = "model.safetensors.index.json";
const WEIGHT: &str = "model.layers.1.mlp.experts.3.up_proj.weight";
const SCALE: &str = "model.layers.1.mlp.experts.3.up_proj.weight_scale_inv";
const HEAD: &str = "lm_head.weight";
const NORM: &str = "model.layers.2.input_layernorm.weight";

/// Quantizes a changed copy of the fixture, which must fail with this code and say these words.
#[track_caller]
fn refused(change: impl FnOnce(&Copy), code: i32, words: &[&str]) {
    let copy = Copy::new();
    change(&copy);
    let output = copy.file("out.gguf");
    let stderr = fail(&["quantize", text(copy.path()), "-o", text(&output), "--quiet"], code);
    for word in words {
        assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}");
    }
    let left = fs::read_dir(copy.path()).expect("read").map(|file| file.expect("a file").file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("out.gguf")).collect();
    let kept = stderr.contains("the same command goes on from there");
    assert!(left.len() == if kept { 2 } else { 0 }, "left behind: {left:?}");
    assert!(!output.exists());
}

/// Changes an entry of a shard's header.
fn entry(tensor: &'static str, change: impl FnOnce(&mut Value)) -> impl FnOnce(&Copy) {
    move |copy| copy.edit_shard(tensor, |shard| change(&mut shard.header[tensor]))
}

/// Changes config.json.
fn config(change: impl FnOnce(&mut Value)) -> impl FnOnce(&Copy) {
    move |copy| copy.edit("config.json", change)
}

/// Changes the whole bytes of the shard that holds the tensor.
fn raw(tensor: &'static str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> impl FnOnce(&Copy) {
    move |copy| {
        let shard = copy.shard_of(tensor);
        let bytes = fs::read(copy.file(&shard)).expect("read");
        copy.write(&shard, &change(bytes));
    }
}

#[test]
fn a_truncated_shard() {
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - 1000);
        bytes
    };
    refused(raw(WEIGHT, cut), 3, &[".safetensors", "tensor \"", "cut short"]);
}

#[test]
fn a_shard_of_a_few_bytes() {
    refused(raw(WEIGHT, |_| vec![1, 2, 3]), 3, &[".safetensors", "has 3 bytes"]);
}

#[test]
fn bytes_after_the_last_tensor() {
    let longer = |mut bytes: Vec<u8>| {
        bytes.extend([0; 10]);
        bytes
    };
    refused(raw(WEIGHT, longer), 3, &[".safetensors", "its tensors end at"]);
}

#[test]
fn a_missing_shard() {
    let remove = |copy: &Copy| copy.remove(&copy.shard_of(WEIGHT));
    refused(remove, 3, &[".safetensors", "listed in the index, but is not there"]);
}

#[test]
fn an_index_naming_an_absent_tensor() {
    let absent = |copy: &Copy| copy.edit_shard(WEIGHT, |shard| shard.take(WEIGHT));
    refused(absent, 3, &[INDEX, WEIGHT, "does not have it"]);
}

#[test]
fn an_index_pointing_out_of_the_folder() {
    for path in ["../model-00001-of-000004.safetensors", "/etc/passwd", "a/../b"] {
        let outside = |copy: &Copy| copy.edit(INDEX, |index| index["weight_map"][WEIGHT] = path.into());
        refused(outside, 3, &[INDEX, WEIGHT, path, "not a file name"]);
    }
}

#[test]
fn an_index_that_is_no_index() {
    refused(|copy| copy.write(INDEX, b"[]"), 3, &[INDEX, "weight_map"]);
    refused(|copy| copy.write(INDEX, b"{\"weight_map\": {\"a\": 1}}"), 3, &[INDEX, "weight_map"]);
    refused(|copy| copy.write(INDEX, b"\xff\xfe"), 3, &[INDEX]);
}

#[test]
fn no_checkpoint_at_all() {
    let without_weights = |copy: &Copy| {
        (1..=4).for_each(|n| copy.remove(&format!("model-{n:05}-of-000004.safetensors")));
        copy.remove(INDEX);
    };
    refused(without_weights, 3, &[INDEX, "no safetensors checkpoint"]);
    refused(|copy| copy.remove("config.json"), 1, &["cannot read", "config.json"]);
    let stderr = fail(&["quantize", "/nowhere/at/all", "-o", "/tmp/never.gguf"], 2);
    assert!(stderr.contains("/nowhere/at/all: expected a checkpoint's folder"), "{stderr}");
}

#[test]
fn overlapping_offsets() {
    let overlap = |entry: &mut Value| {
        let shift = |i: usize| entry["data_offsets"][i].as_u64().expect("an offset") - 64;
        entry["data_offsets"] = json!([shift(0), shift(1)]);
    };
    refused(entry(WEIGHT, overlap), 3, &[".safetensors", "overlaps the tensor before it"]);
}

#[test]
fn offsets_past_the_end_of_the_file() {
    let far = |entry: &mut Value| {
        let size = entry["data_offsets"][1].as_u64().expect("an offset")
            - entry["data_offsets"][0].as_u64().expect("one");
        entry["data_offsets"] = json!([1u64 << 60, (1u64 << 60) + size]);
    };
    refused(entry(WEIGHT, far), 3, &[WEIGHT, "ends at byte 115292150460", "cut short"]);
    let backwards = |entry: &mut Value| entry["data_offsets"] = json!([100, 0]);
    refused(entry(WEIGHT, backwards), 3, &[WEIGHT, "its offsets are 100 to 0"]);
}

#[test]
fn a_size_that_overflows() {
    let huge = |entry: &mut Value| entry["shape"] = json!([1u64 << 40, 1u64 << 40]);
    refused(entry(WEIGHT, huge), 3, &[WEIGHT, "overflows"]);
}

#[test]
fn a_shape_that_does_not_fill_its_bytes() {
    refused(
        entry(WEIGHT, |e| e["shape"] = json!([255, 256])),
        3,
        &[WEIGHT, "takes 65280 bytes", "offsets are"],
    );
}

#[test]
fn a_header_longer_than_the_file() {
    let longer = |length: u64| {
        move |mut bytes: Vec<u8>| {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
            bytes
        }
    };
    refused(
        raw(WEIGHT, longer(1 << 40)),
        3,
        &[".safetensors", "says its header has 1099511627776 bytes, but"],
    );
    refused(raw(WEIGHT, longer(u64::MAX)), 3, &[".safetensors", "18446744073709551615"]);
}

#[test]
fn a_header_that_is_no_json() {
    refused(raw(WEIGHT, |_| with_header(b"{\"a\": ", &[])), 3, &[".safetensors", "not a JSON object"]);
    refused(raw(WEIGHT, |_| with_header(b"{\"a\": {}}", &[])), 3, &[".safetensors", "tensor \"a\"", "dtype"]);
}

#[test]
fn a_tensor_named_twice_in_a_header() {
    let twice = |bytes: Vec<u8>| {
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).expect("UTF-8");
        let again =
            format!("{{\"{WEIGHT}\": {{\"dtype\": \"F32\", \"shape\": [0], \"data_offsets\": [0, 0]}}, ");
        with_header(header.replacen('{', &again, 1).as_bytes(), &bytes[8 + length..])
    };
    refused(raw(WEIGHT, twice), 3, &[".safetensors", WEIGHT, "named twice"]);
}

#[test]
fn a_tensor_listed_twice_in_the_index() {
    let twice = |copy: &Copy| {
        let index = fs::read_to_string(copy.file(INDEX)).expect("read");
        let again = format!("\"weight_map\": {{\"{WEIGHT}\": \"elsewhere.safetensors\", ");
        let index = index.replacen("\"weight_map\": {", &again, 1);
        copy.write(INDEX, index.as_bytes());
    };
    refused(twice, 3, &[INDEX, WEIGHT, "listed twice"]);
}

#[test]
fn fp8_without_its_scale() {
    let without = |copy: &Copy| {
        copy.edit_shard(SCALE, |shard| shard.take(SCALE));
        copy.edit(INDEX, |index| drop(index["weight_map"].as_object_mut().expect("a map").remove(SCALE)));
    };
    refused(without, 3, &[".safetensors", WEIGHT, "needs its block scales", SCALE]);
}

#[test]
fn scales_of_another_shape() {
    let flat = |entry: &mut Value| entry["shape"] = json!([4, 1]);
    refused(entry(SCALE, flat), 3, &[SCALE, "is F32 [4, 1]", "expected F32 [2, 2]"]);
}

#[test]
fn a_shape_that_the_config_does_not_imply() {
    let turned = |entry: &mut Value| entry["shape"] = json!([128, 512]);
    refused(entry(WEIGHT, turned), 3, &[WEIGHT, "has shape [128, 512]", "config.json implies [256, 256]"]);
    let wider = config(|config| config["moe_intermediate_size"] = 512.into());
    refused(wider, 3, &["experts.0.gate_proj.weight", "has shape [256, 256]", "implies [512, 256]"]);
}

#[test]
fn a_tensor_that_the_architecture_needs() {
    let without = |copy: &Copy| {
        copy.edit_shard("lm_head.weight", |shard| shard.take("lm_head.weight"));
        copy.edit(INDEX, |index| {
            drop(index["weight_map"].as_object_mut().expect("a map").remove("lm_head.weight"))
        });
    };
    refused(without, 3, &["lm_head.weight", "is needed by the architecture"]);
    let without_bias = |copy: &Copy| {
        let bias = "model.layers.1.mlp.gate.e_score_correction_bias";
        copy.edit_shard(bias, |shard| shard.take(bias));
        copy.edit(INDEX, |index| drop(index["weight_map"].as_object_mut().expect("a map").remove(bias)));
    };
    refused(without_bias, 3, &["e_score_correction_bias", "is needed by the architecture"]);
}

#[test]
fn a_tensor_that_the_architecture_does_not_have() {
    let more = config(|config| config["n_routed_experts"] = 12.into());
    refused(more, 3, &["mlp.gate.weight", "implies [12, 256]"]);
    let shallower = |copy: &Copy| {
        copy.edit_shard(NORM, |shard| {
            let entry = shard.header.remove(NORM).expect("it is there");
            shard.header.insert("model.layers.2.surprise.weight".into(), entry);
        });
        copy.edit(INDEX, |index| {
            let map = index["weight_map"].as_object_mut().expect("a map");
            let shard = map.remove(NORM).expect("it is there");
            map.insert("model.layers.2.surprise.weight".into(), shard.clone());
        });
    };
    refused(shallower, 3, &[NORM, "is needed by the architecture"]);
    let extra = |copy: &Copy| {
        copy.edit_shard(NORM, |shard| {
            let end = shard.data.len();
            shard.data.extend([0; 4]);
            let entry = json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
            shard.header.insert("model.surprise.weight".into(), entry);
        });
        let shard = copy.shard_of(NORM);
        copy.edit(INDEX, |index| index["weight_map"]["model.surprise.weight"] = shard.into());
    };
    refused(extra, 4, &["model.surprise.weight", "no place in this architecture"]);
}

#[test]
fn layers_beyond_those_of_the_config() {
    let four = config(|config| config["num_hidden_layers"] = 4.into());
    refused(four, 4, &["model.layers.5.", "no place in this architecture"]);
    let no_mtp = config(|config| config["num_nextn_predict_layers"] = 0.into());
    refused(no_mtp, 4, &["model.layers.5.", "no place in this architecture"]);
}

#[test]
fn a_scale_that_belongs_to_no_fp8_weight() {
    let wider = |copy: &Copy| {
        copy.edit_shard(WEIGHT, |shard| {
            shard.take(WEIGHT);
            let end = shard.data.len();
            shard.data.extend([0; 2 * 256 * 256]);
            let entry =
                json!({"dtype": "BF16", "shape": [256, 256], "data_offsets": [end, end + 2 * 256 * 256]});
            shard.header.insert(WEIGHT.into(), entry);
        });
    };
    refused(wider, 4, &[SCALE, "no place in this architecture"]);
}

#[test]
fn weights_that_are_not_finite() {
    // Row 3, column 232 of 256.
    let nan = |copy: &Copy| copy.edit_shard(WEIGHT, |shard| shard.tensor(WEIGHT)[1000] = 0xff);
    refused(nan, 3, &[".safetensors", WEIGHT, "holds NaN at row 3, column 232"]);
    let infinite = |copy: &Copy| {
        copy.edit_shard(NORM, |shard| shard.tensor(NORM)[20..22].copy_from_slice(&0x7f80u16.to_le_bytes()));
    };
    refused(infinite, 3, &[NORM, "holds inf at row 0, column 10", "expected a finite number"]);
    // Only in a router's bias it shuts something out.
    let minus = |copy: &Copy| {
        copy.edit_shard(NORM, |shard| shard.tensor(NORM)[20..22].copy_from_slice(&0xff80u16.to_le_bytes()));
    };
    refused(minus, 3, &[NORM, "holds -inf at row 0, column 10", "expected a finite number"]);
    let huge = |copy: &Copy| {
        copy.edit_shard(HEAD, |shard| shard.tensor(HEAD)[20..22].copy_from_slice(&0x7f00u16.to_le_bytes()));
    };
    refused(huge, 3, &[HEAD, "row 0, column 10", "at most 65504"]);
    // 16 bits with the range of F32 hold it.
    let copy = Copy::new();
    huge(&copy);
    let output = copy.file("bf16.gguf");
    succeed(&["quantize", text(copy.path()), "-o", text(&output), "-r", "bf16", "--quiet"]);
}

#[test]
fn scales_that_are_not_finite() {
    for (bits, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let broken = |copy: &Copy| {
            copy.edit_shard(SCALE, |shard| shard.tensor(SCALE)[12..16].copy_from_slice(&bits.to_le_bytes()));
        };
        refused(broken, 3, &[SCALE, &format!("holds {shown} at row 1, column 1")]);
    }
}

#[test]
fn an_unknown_dtype() {
    refused(entry(NORM, |e| e["dtype"] = "Q17".into()), 3, &[".safetensors", NORM, "unknown dtype \"Q17\""]);
    let integers = |entry: &mut Value| entry["dtype"] = "I16".into();
    refused(entry(NORM, integers), 4, &[NORM, "has dtype I16", "F32, F16, BF16 and FP8"]);
}

#[test]
fn config_fields_that_are_missing_or_absurd() {
    for field in
        ["hidden_size", "num_hidden_layers", "n_routed_experts", "kv_lora_rank", "rms_norm_eps", "vocab_size"]
    {
        let without = config(|config| drop(config.as_object_mut().expect("an object").remove(field)));
        refused(without, 3, &["config.json", field, "is missing"]);
        for absurd in [json!(0), json!(-5), json!("many"), json!(1e30), json!(4_000_000_000_000u64)] {
            if field == "rms_norm_eps" && absurd.as_f64().is_some_and(|x| x > 0.0) {
                continue;
            }
            refused(config(|config| config[field] = absurd), 3, &["config.json", field]);
        }
    }
    refused(
        config(|c| c["first_k_dense_replace"] = 9.into()),
        3,
        &["first_k_dense_replace is 9, but there are 5 layers"],
    );
    refused(config(|c| c["num_experts_per_tok"] = 17.into()), 3, &["num_experts_per_tok is 17", "1 to 16"]);
    refused(config(|c| c["n_group"] = 3.into()), 3, &["n_group is 3, which does not divide 16 experts"]);
    refused(config(|c| c["rope_scaling"] = 5.into()), 3, &["rope_scaling"]);
    refused(config(|c| c["rope_scaling"]["factor"] = 0.into()), 3, &["rope_scaling.factor is 0"]);
    refused(
        config(|c| c["quantization_config"]["weight_block_size"] = json!([0, 128])),
        3,
        &["weight_block_size"],
    );
    refused(config(|c| *c = json!([])), 3, &["config.json: expected a JSON object"]);
}

#[test]
fn what_is_sound_but_not_supported() {
    let other = config(|c| c["architectures"] = json!(["Gemma3ForCausalLM"]));
    refused(other, 4, &["Gemma3ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM"]);
    refused(config(|c| c["scoring_func"] = "tanh".into()), 4, &["scoring_func is \"tanh\"", "sigmoid"]);
    refused(config(|c| c["rope_scaling"]["type"] = "llama3".into()), 4, &["llama3", "yarn"]);
    refused(config(|c| c["quantization_config"]["quant_method"] = "quark".into()), 4, &["quark", "fp8"]);
    refused(config(|c| c["quantization_config"]["fmt"] = "e3m4".into()), 4, &["e3m4", "e5m2"]);
}

#[test]
fn tokenizers_that_cannot_be_carried_over() {
    refused(|copy| copy.remove("tokenizer.json"), 3, &["tokenizer.json", "tiktoken.model"]);
    let tokenizer = |change: fn(&mut Value)| move |copy: &Copy| copy.edit("tokenizer.json", change);
    let beyond = |t: &mut Value| t["model"]["vocab"]["zzz"] = 4096.into();
    refused(tokenizer(beyond), 3, &["tokenizer.json", "\"zzz\" has id 4096", "vocab_size is 1024"]);
    let shared = |t: &mut Value| t["model"]["vocab"]["zzz"] = 500.into();
    refused(tokenizer(shared), 3, &["tokenizer.json", "both have id 500"]);
    let same = |t: &mut Value| t["added_tokens"][3]["content"] = "<think>".into();
    refused(tokenizer(same), 3, &["tokenizer.json", "two ids have the text \"<think>\""]);
    refused(tokenizer(|t| t["model"]["type"] = "Unigram".into()), 4, &["Unigram", "BPE"]);
    refused(tokenizer(|t| t["normalizer"] = json!({"type": "NFC"})), 4, &["normalizer", "NFC"]);
    let other_rules =
        |t: &mut Value| t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x+".into();
    refused(tokenizer(other_rules), 4, &["pre_tokenizer", "--pre", "deepseek-v3"]);
    let twice = |t: &mut Value| t["added_tokens"][3]["id"] = 0.into();
    refused(tokenizer(twice), 3, &["tokenizer.json", "two added tokens have id 0"]);
    let no_end = |copy: &Copy| {
        copy.edit("tokenizer_config.json", |c| c["eos_token"] = Value::Null);
        copy.edit("config.json", |c| c["eos_token_id"] = Value::Null);
        copy.edit("generation_config.json", |c| c["eos_token_id"] = Value::Null);
    };
    refused(no_end, 3, &["eos_token is missing"]);
    let no_id = |copy: &Copy| {
        copy.edit("tokenizer_config.json", |c| c["eos_token"] = Value::Null);
        copy.edit("config.json", |c| c["eos_token_id"] = json!(-1));
    };
    refused(no_id, 3, &["config.json", "eos_token_id is -1"]);
    let no_such_token =
        |copy: &Copy| copy.edit("tokenizer_config.json", |c| c["eos_token"] = "<nothing>".into());
    refused(no_such_token, 3, &["tokenizer_config.json", "eos_token is \"<nothing>\"", "no token"]);
}
