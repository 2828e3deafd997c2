//! Texts that models are run over: read in pieces that have the ids of the whole, no further than is asked for, and
//! only from files.

use std::fs;

use quantpress::checkpoint::Checkpoint;
use quantpress::model::Encoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::{fail, fixture, quantpress, succeed, text};

/// Rules of the three splitters that are known, on the fixture's vocabulary.
fn encoders() -> Vec<(&'static str, Encoder)> {
    let split = |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let ideographs = "[一-龥ࠀ-一가-퟿]+";
    let letters = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿ]+";
    let marks = "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+";
    let llm = ["[\r\n]", letters, marks, r"\s+$", ideographs];
    let coder = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", ideographs];
    let encoder = |steps: Option<&[&str]>| {
        let copy = Copy::new();
        copy.edit("tokenizer.json", |tokenizer| {
            if let Some(steps) = steps {
                let mut steps: Vec<Value> = steps.iter().map(split).collect();
                steps.extend([digits.clone(), bytes.clone()]);
                tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": steps});
            }
            // Tokens that are looked for in the text, and reach for what is around them.
            let token = |id: u32, content: &str, strip: bool, single: bool| json!({"id": id, "content": content,
                "special": false, "lstrip": strip, "rstrip": strip, "single_word": single, "normalized": false});
            let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
            added.extend([
                token(1004, "<strip>", true, false),
                token(1005, "cat sat", false, false),
                token(1006, "word", false, true),
                token(1007, "on\nthe", false, false),
            ]);
        });
        Encoder::read(&Checkpoint::open_folder(copy.path()).expect("sound")).expect("read")
    };
    vec![
        ("deepseek-v3", encoder(None)),
        ("deepseek-llm", encoder(Some(&llm))),
        ("deepseek-coder", encoder(Some(&coder))),
    ]
}

/// The ids of a text that comes a few bytes at a time and is cut wherever it may be.
fn in_pieces(encoder: &Encoder, text: &str, part: usize, piece: usize) -> (Vec<u32>, usize) {
    let (mut cutter, mut ids, mut pieces) = (encoder.cutter(piece), Vec::new(), 1);
    for bytes in text.as_bytes().chunks(part) {
        assert!(cutter.push(bytes));
        while let Some(piece) = cutter.cut() {
            ids.extend(encoder.encode(&piece, 2048).expect("encoded"));
            pieces += 1;
        }
    }
    ids.extend(encoder.encode(&cutter.last(), 2048).expect("encoded"));
    (ids, pieces)
}

/// Texts that lie across every rule: blanks and line ends in all orders, digits, ideographs, marks, literals.
fn adversarial() -> Vec<String> {
    let parts = [
        "a",
        "the",
        "\n",
        "\r\n",
        " ",
        "  ",
        "\t",
        "12",
        "3456",
        "一二",
        "ひらカナ",
        "。",
        "!",
        "...",
        "é",
        "e\u{301}",
        "🦀",
        "ß",
        "<think>",
        "<strip>",
        "cat sat",
        "cat sa",
        "word",
        "on\nthe",
        "on\n",
        "'s",
        "\u{3000}",
        "\u{a0}",
        "\0",
        "가나",
        "_x",
    ];
    let mut texts = vec![
        "a".repeat(3000),
        "\n".repeat(500),
        " \n".repeat(300),
        "\r\n \t".repeat(200),
        "7".repeat(1000),
        "漢字かな".repeat(200),
        "🦀🦀".repeat(200),
        "no blanks,but.marks;".repeat(100).replace(' ', ""),
    ];
    let mut state = 1u64;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    texts.extend((0..60).map(|_| (0..100).map(|_| parts[random(parts.len())]).collect()));
    texts
}

#[test]
fn pieces_have_the_ids_of_the_whole() {
    let strings: Value =
        serde_json::from_slice(&fs::read(fixture("strings.json")).expect("read")).expect("JSON");
    let mut texts = adversarial();
    collect(&strings, &mut texts);
    assert!(texts.len() > 100, "{} texts", texts.len());
    let calibration = fs::read_to_string(fixture("tiny-r1/calibration.txt")).expect("read");
    for (name, encoder) in encoders() {
        for text in &texts {
            let expected = encoder.encode(text, 2048).expect("encoded");
            for (part, piece) in [(1, 1), (5, 30), (4096, 64)] {
                assert_eq!(
                    in_pieces(&encoder, text, part, piece).0,
                    expected,
                    "{name} {part} {piece}: {text:?}"
                );
            }
        }
        let (ids, pieces) = in_pieces(&encoder, &calibration, 7, 20);
        assert!(ids == encoder.encode(&calibration, 2048).expect("encoded"), "{name}");
        assert!(pieces > 1000, "{name}: {pieces} pieces");
    }
}

/// All strings in a JSON value.
fn collect(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|value| collect(value, texts)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, texts)),
        _ => {}
    }
}

#[test]
fn a_long_text_is_read_as_far_as_it_is_needed() {
    let folder = TempDir::new().expect("a temporary folder");
    let (long, output) = (folder.path().join("long.txt"), folder.path().join("i.gguf"));
    let calibration = fs::read_to_string(fixture("tiny-r1/calibration.txt")).expect("read");
    fs::write(&long, calibration.repeat(200)).expect("written");
    let checkpoint = fixture("tiny-r1");
    let arguments =
        ["calibrate", text(&checkpoint), "--text", text(&long), "--chunks", "1", "--context", "64"];
    let found =
        succeed(&[&arguments[..], &["-o", text(&output), "--json", "-q", "--memory", "64MB"]].concat());
    let found: Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!(found["tokens"], 64);
    let memory = found["peak_memory_bytes"].as_u64();
    // 26 MB of text took 3.8 GB.
    assert!(memory.is_none_or(|bytes| bytes < 200_000_000), "{memory:?}");
    // What is not UTF-8 behind it is not read either; before it, it is an error.
    let mut bytes = fs::read(&long).expect("read");
    bytes[10_000_000] = 0xff;
    fs::write(&long, &bytes).expect("written");
    succeed(&[&arguments[..], &["-o", text(&output), "-q"]].concat());
    fs::write(&long, b"abc\xffdef").expect("written");
    let stderr = fail(&[&arguments[..], &["-o", text(&output), "-q"]].concat(), 2);
    assert!(stderr.contains("is not UTF-8"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn a_text_is_a_file() {
    let folder = TempDir::new().expect("a temporary folder");
    let (pipe, output) = (folder.path().join("pipe"), folder.path().join("out"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let checkpoint = fixture("tiny-r1");
    for file in [text(&pipe), "/dev/zero", "/dev/null", text(folder.path())] {
        let calibrate = ["calibrate", text(&checkpoint), "--text", file, "-o", text(&output)];
        let feedback =
            ["quantize", text(&checkpoint), "--feedback", "--text", file, "-o", text(&output), "-q"];
        for arguments in [&calibrate[..], &feedback] {
            let stderr = fail(arguments, 2);
            assert!(stderr.contains(file) && stderr.contains("is no regular file"), "{stderr}");
        }
    }
}

#[test]
fn chunks_beyond_the_models_context_are_told() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, output) = (fixture("tiny-r1"), folder.path().join("i.gguf"));
    let evaluation = fixture("tiny-r1/evaluation.txt");
    let said = |context: &str| {
        let arguments = ["calibrate", text(&checkpoint), "--text", text(&evaluation), "--chunks", "1"];
        let found =
            quantpress(&[&arguments[..], &["--context", context, "-o", text(&output), "--force"]].concat());
        assert!(found.status.success());
        String::from_utf8_lossy(&found.stderr).into_owned()
    };
    assert!(said("1025").contains("longer than the model's context of 1024"));
    assert!(!said("64").contains("context of 1024"));
}
