//! A byte-level BPE as the tokenizer.json that it would be, for the library that reads such files.

use serde_json::{Map, Value, json};

use super::{Kind, pre, split};

/// The file's bytes: `steps` are what the splitter called `pre` splits out, tokens come in the order of their ids, merges
/// are pairs of tokens with a space between.
pub fn of<'a>(
    pre: &str,
    steps: &[&str],
    tokens: impl Iterator<Item = (&'a str, Kind)>,
    merges: &[String],
) -> Vec<u8> {
    let (mut vocabulary, mut added) = (Map::new(), Vec::new());
    for (id, (token, kind)) in tokens.enumerate() {
        let special = kind == Kind::Control;
        if special || kind == Kind::UserDefined {
            added.push(json!({
                "id": id, "content": token, "special": special,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }));
        }
        if kind != Kind::Unused {
            vocabulary.insert(token.to_owned(), id.into());
        }
    }
    let split = |rule: &&str| match *rule {
        split::DIGIT => json!({"type": "Digits", "individual_digits": true}),
        regex => {
            json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
        }
    };
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let steps: Vec<Value> = steps.iter().map(split).chain([bytes]).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre::ignores_merges(pre),
            "vocab": vocabulary, "merges": merges,
        },
    });
    tokenizer.to_string().into_bytes()
}
