//! Tokenizers whose parts lie in several files, and those that no reader could use.

use std::fs;

use quantpress::Result;
use quantpress::checkpoint::{Checkpoint, Fingerprint};
use quantpress::gguf::Value as Gguf;
use quantpress::model::{Encoder, Model, Options};
use serde_json::{Value, json};

use crate::support::checkpoint::Copy;
use crate::support::{fail, succeed, text};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

fn plan(copy: &Copy) -> Result<Model> {
    Model::plan(&Checkpoint::open_folder(copy.path())?, &Options::default())
}

fn tokens(model: &Model) -> Vec<(String, i32)> {
    let (Some(Gguf::Strings(tokens)), Some(Gguf::I32s(kinds))) =
        (model.metadata.get("tokenizer.ggml.tokens"), model.metadata.get("tokenizer.ggml.token_type"))
    else {
        panic!("no tokens")
    };
    tokens.iter().cloned().zip(kinds.iter().copied()).collect()
}

/// Takes the tokens from 1000 on out of tokenizer.json.
fn late(copy: &Copy) -> Vec<Value> {
    let mut late = Vec::new();
    copy.edit(TOKENIZER, |tokenizer| {
        let list = tokenizer["added_tokens"].as_array_mut().expect("a list");
        late = list.extract_if(.., |token| token["id"].as_u64() >= Some(1000)).collect();
    });
    assert_eq!(late.len(), 4);
    late
}

fn decoder(list: &[Value]) -> Value {
    list.iter()
        .map(|token| (token["id"].to_string(), token.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
fn added_tokens_are_found_in_every_file_that_names_them() {
    let expected = tokens(&plan(&Copy::new()).expect("planned"));
    assert_eq!(expected[1002], ("<think>".to_owned(), 4));
    let sentence = "Is <think> a word? </think> yes <｜User｜>";
    let ids = |copy: &Copy| {
        let checkpoint = Checkpoint::open_folder(copy.path()).expect("sound");
        Encoder::read(&checkpoint).expect("read").encode(sentence, 1024).expect("encoded")
    };
    let same = ids(&Copy::new());
    // What looks like a control token is written as one, and no text has it, whatever the file says.
    let plain = Copy::new();
    plain.edit(TOKENIZER, |tokenizer| {
        let list = tokenizer["added_tokens"].as_array_mut().expect("a list");
        list.iter_mut().for_each(|token| token["special"] = false.into());
    });
    assert_eq!(ids(&plain), same);
    assert!(same.contains(&1002) && !same.contains(&1000), "{same:?}");

    let in_config = Copy::new();
    let list = late(&in_config);
    in_config.edit(CONFIG, |config| config["added_tokens_decoder"] = decoder(&list));
    let in_file = Copy::new();
    late(&in_file);
    let by_text: serde_json::Map<String, Value> = list
        .iter()
        .map(|token| (token["content"].as_str().expect("text").to_owned(), token["id"].clone()))
        .collect();
    in_file.write("added_tokens.json", Value::Object(by_text).to_string().as_bytes());
    for copy in [&in_config, &in_file] {
        assert_eq!(tokens(&plan(copy).expect("planned")), expected);
        assert_eq!(ids(copy), same);
    }
    // The library counts on from the last id; the model does not.
    let gap = Copy::new();
    late(&gap);
    gap.write("added_tokens.json", br#"{"<think>": 1010}"#);
    assert!(ids(&gap).contains(&1010));
}

#[test]
fn files_that_contradict_each_other_are_named() {
    let with_decoder = |tokens: Value| {
        let copy = Copy::new();
        copy.edit(CONFIG, |config| config["added_tokens_decoder"] = tokens);
        plan(&copy).expect_err("contradiction").to_string()
    };
    for (tokens, words) in [
        (json!({"1002": {"content": "<thought>"}}), "\"<think>\" has id 1002"),
        (json!({"1010": {"content": "<think>"}}), "\"<think>\" has id 1002"),
        (json!({"5000": {"content": "<far>"}}), "vocab_size is 1024"),
    ] {
        let said = with_decoder(tokens);
        assert!(said.contains(words) && said.contains(CONFIG), "{said}");
        assert!(said.contains("vocab_size") || said.contains(TOKENIZER), "{said}");
    }
    let copy = Copy::new();
    copy.edit(CONFIG, |config| config["added_tokens_decoder"] = json!({"1010": {"content": "<a>"}}));
    copy.write("added_tokens.json", br#"{"<b>": 1010}"#);
    let said = plan(&copy).expect_err("contradiction").to_string();
    assert!(said.contains(CONFIG) && said.contains("added_tokens.json"), "{said}");
    // What tokenizer_config.json says of a token's kind counts.
    let copy = Copy::new();
    copy.edit(CONFIG, |config| {
        config["added_tokens_decoder"] = json!({"1002": {"content": "<think>", "special": true}})
    });
    assert_eq!(tokens(&plan(&copy).expect("planned"))[1002], ("<think>".to_owned(), 3));
}

#[test]
fn special_tokens_may_be_named_in_a_map_alone() {
    let copy = Copy::new();
    copy.edit(CONFIG, |config| {
        ["eos_token", "pad_token"].iter().for_each(|field| config[field] = Value::Null)
    });
    copy.edit("config.json", |config| config["eos_token_id"] = Value::Null);
    copy.remove("generation_config.json");
    copy.write(
        "special_tokens_map.json",
        json!({"eos_token": {"content": "</think>"}}).to_string().as_bytes(),
    );
    let model = plan(&copy).expect("planned");
    assert_eq!(model.metadata.get("tokenizer.ggml.eos_token_id"), Some(&Gguf::U32(1003)));
    let warnings: Vec<String> = model.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("no padding token is named"), "{warnings:?}");
    let stderr = fail(&["plan", text(copy.path()), "--strict"], 3);
    assert!(stderr.contains("no padding token"), "{stderr}");
}

#[test]
fn what_tokenizers_say_twice_or_not_at_all_is_told() {
    let told = |change: &dyn Fn(&Copy)| -> Vec<String> {
        let copy = Copy::new();
        change(&copy);
        plan(&copy).expect("planned").warnings.iter().map(ToString::to_string).collect()
    };
    let one = |told: Vec<String>, words: &[&str]| {
        assert!(told.len() == 1 && words.iter().all(|words| told[0].contains(words)), "{words:?}: {told:?}");
    };
    let map = |copy: &Copy| {
        copy.write("special_tokens_map.json", br#"{"eos_token": "</think>", "unk_token": "x"}"#)
    };
    // The map is the newer one where the tokens are not listed beside it.
    let told_of_map = told(&map);
    assert!(
        told_of_map[0].contains("eos_token is \"<")
            && told_of_map[0].contains("special_tokens_map.json: eos_token is \"</think>\", which counts"),
        "{told_of_map:?}"
    );
    let agreeing = r#"{"eos_token": {"content": "<｜end▁of▁sentence｜>"}}"#;
    assert_eq!(told(&|copy| copy.write("special_tokens_map.json", agreeing.as_bytes())), [""; 0]);
    one(
        told(&|copy| {
            copy.edit(CONFIG, |config| drop(config.as_object_mut().expect("fields").remove("chat_template")))
        }),
        &["has no chat template", "chat_template.jinja"],
    );
    let ignoring =
        |copy: &Copy| copy.edit(TOKENIZER, |tokenizer| tokenizer["model"]["ignore_merges"] = true.into());
    one(told(&ignoring), &["model.ignore_merges is true", "deepseek-v3"]);
    let stripping =
        |copy: &Copy| copy.edit(TOKENIZER, |tokenizer| tokenizer["added_tokens"][3]["rstrip"] = true.into());
    one(told(&stripping), &["<｜User｜>", "rstrip"]);
    let copy = Copy::new();
    ignoring(&copy);
    succeed(&["plan", text(copy.path()), "--strict", "--pre", "llama-bpe"]);
}

#[test]
fn chat_templates_are_found_in_every_file() {
    let template = |copy: &Copy, key: &str| plan(copy).expect("planned").metadata.get(key).cloned();
    let copy = Copy::new();
    copy.write("chat_template.json", br#"{"chat_template": "old"}"#);
    assert_ne!(template(&copy, "tokenizer.chat_template"), Some("old".into()));
    copy.edit(CONFIG, |config| config["chat_template"] = Value::Null);
    assert_eq!(template(&copy, "tokenizer.chat_template"), Some("old".into()));
    copy.write("chat_template.jinja", b"own");
    fs::create_dir(copy.file("additional_chat_templates")).expect("created");
    let before = Fingerprint::of(&Checkpoint::open_folder(copy.path()).expect("sound")).expect("read");
    copy.write("additional_chat_templates/tool_use.jinja", b"tools");
    let after = Fingerprint::of(&Checkpoint::open_folder(copy.path()).expect("sound")).expect("read");
    assert_ne!(before.settings, after.settings);
    assert_eq!(template(&copy, "tokenizer.chat_template"), Some("own".into()));
    assert_eq!(template(&copy, "tokenizer.chat_template.tool_use"), Some("tools".into()));
    for (wrong, words) in [
        (json!({"default": "x"}), "chat_template is an object; expected a template's text"),
        (json!(5), "chat_template is 5; expected"),
        (json!([{"name": "a"}]), "has an entry 0 without a name or a template"),
        (
            json!([{"name": "a", "template": ""}, {"name": "a", "template": ""}]),
            "two templates with the name",
        ),
    ] {
        let copy = Copy::new();
        copy.edit(CONFIG, |config| config["chat_template"] = wrong);
        let error = plan(&copy).expect_err("wrong").to_string();
        assert!(error.contains(words) && !error.contains("untagged"), "{error}");
    }
}

#[test]
fn tokenizers_that_no_reader_could_use_are_refused_when_planned() {
    let refused = |code: i32, words: &str, change: &dyn Fn(&mut Value)| {
        let copy = Copy::new();
        copy.edit(TOKENIZER, change);
        let stderr = fail(&["plan", text(copy.path())], code);
        assert!(stderr.contains(TOKENIZER) && stderr.contains(words), "{stderr}");
    };
    for merge in [json!("a b c"), json!(""), json!("a"), json!(["zz", "a"]), json!("a zz")] {
        refused(3, "model.merges, entry 0", &|tokenizer| tokenizer["model"]["merges"][0] = merge.clone());
    }
    // Both sides are tokens, and together they are none.
    refused(3, "needs \"zQ\"", &|tokenizer| tokenizer["model"]["merges"][0] = json!("z Q"));
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
        refused(4, field, &|tokenizer| tokenizer["model"][field] = "##".into());
    }
}

#[test]
fn a_sequence_that_only_composes_is_qwens_normalizer_too() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    crate::support::qwen::write(folder.path());
    let file = folder.path().join(TOKENIZER);
    let with = |normalizer: Value| {
        let mut tokenizer: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
        tokenizer["normalizer"] = normalizer;
        fs::write(&file, tokenizer.to_string()).expect("written");
    };
    let sequence = |steps: &[&str]| {
        let steps: Vec<Value> = steps.iter().map(|step| json!({"type": step})).collect();
        json!({"type": "Sequence", "normalizers": steps})
    };
    let ids = || {
        let checkpoint = Checkpoint::open_folder(folder.path()).expect("sound");
        Encoder::read(&checkpoint).expect("read").encode("the cafe\u{301} e\u{301}", 512).expect("encoded")
    };
    let expected = ids();
    with(sequence(&["NFC"]));
    succeed(&["plan", text(folder.path())]);
    assert_eq!(ids(), expected);
    for other in [sequence(&["NFC", "Lowercase"]), sequence(&["NFKC"])] {
        with(other);
        let stderr = fail(&["plan", text(folder.path())], 4);
        assert!(stderr.contains("has a normalizer, which llama.cpp does not apply"), "{stderr}");
    }
}

#[test]
fn what_training_left_in_the_tokenizer_is_not_obeyed() {
    let calibration = crate::support::fixture("tiny-r1/calibration.txt");
    let calibration = &fs::read_to_string(calibration).expect("read")[..20_000];
    let ids = |copy: &Copy| {
        let checkpoint = Checkpoint::open_folder(copy.path()).expect("sound");
        Encoder::read(&checkpoint).expect("read").encode(calibration, 1024).expect("encoded")
    };
    let expected = ids(&Copy::new());
    let copy = Copy::new();
    copy.edit(TOKENIZER, |tokenizer| {
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 700, "strategy": "LongestFirst", "stride": 0});
        tokenizer["padding"] = json!({"strategy": {"Fixed": 100_000}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
        tokenizer["model"]["dropout"] = json!(0.5);
    });
    assert_eq!(ids(&copy), expected);
}
