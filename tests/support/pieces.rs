//! A small vocabulary of SentencePiece's kind: as tokenizer.model, and as the tokenizer.json that transformers makes of it.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// The special tokens; the pieces of the bytes follow.
pub const SPECIALS: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// Pairs of what is joined, in the order of the scores: those of one piece in two ways, and those across words, too.
const JOINED: [(&str, &str); 24] = [
    ("\u{2581}", "t"),
    ("h", "e"),
    ("i", "n"),
    ("\u{2581}t", "he"),
    ("e", "r"),
    ("\u{2581}", "a"),
    ("o", "n"),
    ("in", "g"),
    ("\u{2581}", "\u{2581}"),
    ("n", "d"),
    ("\u{2581}a", "nd"),
    ("\u{2581}\u{2581}", "\u{2581}\u{2581}"),
    ("t", "h"),
    ("t", "he"),
    ("\u{2581}", "s"),
    ("l", "l"),
    ("1", "2"),
    ("12", "3"),
    ("\u{e9}", "t"),
    ("\u{2581}the", "r"),
    ("'", "s"),
    ("e", "s"),
    ("r", "e"),
    (".", "."),
];

/// Texts and scores of the pieces behind the special tokens and the bytes.
fn pieces() -> Vec<(String, f32)> {
    let mut texts: Vec<String> = JOINED.iter().map(|(a, b)| format!("{a}{b}")).collect();
    for a in "etaoinsr".chars() {
        texts.extend("etaoinsr".chars().map(|b| format!("{a}{b}")));
    }
    texts.extend(
        "\u{2581}etaoinshrdlucmfwypvbgkqjxzTAIS0123456789.,'-!?()/\u{e9}\u{7684}".chars().map(String::from),
    );
    let mut seen = std::collections::HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts.into_iter().enumerate().map(|(place, text)| (text, -(place as f32))).collect()
}

fn bytes() -> impl Iterator<Item = String> {
    (0..256).map(|byte| format!("<0x{byte:02X}>"))
}

/// tokenizer.json.
pub fn json() -> Value {
    let pieces = pieces();
    let texts: Vec<String> = SPECIALS
        .iter()
        .map(|text| (*text).to_owned())
        .chain(bytes())
        .chain(pieces.iter().map(|p| p.0.clone()))
        .collect();
    let ids: HashMap<&str, usize> = texts.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (text, _) in &pieces {
        let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut known: Vec<(&str, &str)> =
            splits.filter(|(a, b)| ids.contains_key(a) && ids.contains_key(b)).collect();
        known.sort_by_key(|(a, b)| (ids[a], ids[b]));
        merges.extend(known.into_iter().map(|(a, b)| json!([a, b])));
    }
    let vocabulary: Map<String, Value> =
        texts.iter().enumerate().map(|(id, text)| (text.clone(), json!(id))).collect();
    let added: Vec<Value> = SPECIALS
        .iter()
        .enumerate()
        .map(|(id, text)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges},
    })
}

/// tokenizer.model.
pub fn model() -> Vec<u8> {
    let mut out = Vec::new();
    let kinds = [2, 3, 3].into_iter().chain([6; 256]);
    let specials = SPECIALS.iter().map(|text| (*text).to_owned()).chain(bytes()).map(|text| (text, 0.0));
    let trained = pieces().into_iter().map(|piece| (piece, 1));
    for ((text, score), kind) in specials.zip(kinds).chain(trained) {
        let score: f32 = score;
        let own =
            [field(1, text.as_bytes()), vec![2 << 3 | 5], score.to_le_bytes().to_vec(), number(3, kind)];
        out.extend(field(1, &own.concat()));
    }
    // BPE, bytes for what is unknown, and the ids of the special tokens.
    let trainer = [number(3, 2), number(35, 1), number(40, 0), number(41, 1), number(42, 2)];
    out.extend(field(2, &trainer.concat()));
    // A space before texts, and no other changes.
    let normalizer = [field(1, b"identity"), number(3, 1), number(4, 0), number(5, 1)];
    out.extend(field(3, &normalizer.concat()));
    out
}

/// A number of protobuf.
fn variable(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 128 {
        bytes.push(number as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn number(field: usize, number: usize) -> Vec<u8> {
    [variable(field << 3), variable(number)].concat()
}

fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
    [variable(number << 3 | 2), variable(bytes.len()), bytes.to_vec()].concat()
}
