//! What a tensor is for stands in its description: outside of `model/` and `llama_quantize/` no code asks a tensor's name.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Literals that are written for others to read, and ask nothing.
const WRITTEN: [(&str, &str); 4] = [
    // Messages and advice.
    ("recipe/overrides.rs", "expected REGEX=TYPE, for example ffn_down_exps=q2_k"),
    ("cli/tips.rs", "types of single tensors are chosen by --override 'REGEX=TYPE', as ^output.weight=q6_k"),
    ("cli/tips.rs", "types of single tensors are chosen by --override 'REGEX=TYPE', as token_embd=q8_0"),
    ("cli/calibrate.rs", "blk.{}: no token of the text chose experts {}"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// String literals that hold a part of a tensor's name, with their files, outside of comments and unit tests.
fn literals(root: &Path) -> Vec<(String, String)> {
    let literal = Regex::new(r#""((?:[^"\\]|\\.)*)""#).expect("a pattern");
    let name =
        Regex::new(r"attn_|ffn_|_exps|_shexp|exp_probs|token_embd|output_norm|output\.weight|nextn\.|blk\.")
            .expect("a pattern");
    let mut files = Vec::new();
    sources(root, &mut files);
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let file = path.strip_prefix(root).expect("below it").to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&path).expect("read");
        let code = text.split("#[cfg(test)]\nmod tests").next().expect("one part at least");
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let literals = literal.captures_iter(line).map(|found| found[1].to_owned());
            found.extend(literals.filter(|text| name.is_match(text)).map(|text| (file.clone(), text)));
        }
    }
    found
}

#[test]
fn only_the_model_knows_tensors_by_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let all = literals(&root);
    assert!(all.iter().any(|(file, _)| file == "model/layer/latent.rs"), "the search finds none at all");
    // llama-quantize's rules are about names, and have a place of their own.
    let known = |file: &str| file.starts_with("model/") || file.starts_with("llama_quantize/");
    let outside = all.iter().filter(|(file, _)| !known(file));
    let asked: Vec<_> =
        outside.filter(|(file, text)| !WRITTEN.contains(&(file.as_str(), text.as_str()))).collect();
    assert!(asked.is_empty(), "tensors are asked for by name in {asked:#?}");
}
