//! A recipe with every type decided, as a file: one rule a line, for one tensor each, with the reason. Pure.

use quant_kernels::Format::{self, *};

use super::{Choice, Recipe};
use crate::model::Model;

/// llama.cpp's numbers of the file types that are nearest to a type.
const FILE_TYPES: [(Format, u32); 25] = [
    (F32, 0),
    (F16, 1),
    (Q4_0, 2),
    (Q4_1, 3),
    (Q8_0, 7),
    (Q5_0, 8),
    (Q5_1, 9),
    (Q2_K, 10),
    (Q3_K, 12),
    (Q4_K, 15),
    (Q5_K, 17),
    (Q6_K, 18),
    (IQ2_XXS, 19),
    (IQ2_XS, 20),
    (IQ3_XXS, 23),
    (IQ1_S, 24),
    (IQ4_NL, 25),
    (IQ3_S, 26),
    (IQ2_S, 28),
    (IQ4_XS, 30),
    (IQ1_M, 31),
    (BF16, 32),
    (TQ1_0, 36),
    (TQ2_0, 37),
    (MXFP4, 38),
];

/// The TOML of a recipe that makes these choices, in the model's order; the same choices give the same bytes.
pub fn resolved(model: &Model, base: &Recipe, name: &str, about: &str, choices: &[Choice]) -> String {
    let mut weights: Vec<(Format, u64)> = Vec::new();
    for (tensor, choice) in model.tensors.iter().zip(choices) {
        match weights.iter_mut().find(|entry| entry.0 == choice.format) {
            Some(entry) => entry.1 += tensor.weights(),
            None => weights.push((choice.format, tensor.weights())),
        }
    }
    let most = weights.iter().max_by_key(|entry| (entry.1, entry.0)).map(|entry| entry.0);
    let file_type =
        FILE_TYPES.iter().find(|entry| Some(entry.0) == most).map_or(base.file_type, |entry| entry.1);

    let mut text =
        format!("name = {}\nabout = {}\nfile_type = {file_type}\nrule = [\n", quoted(name), quoted(about));
    for (tensor, choice) in model.tensors.iter().zip(choices).filter(|(tensor, _)| !tensor.is_fixed()) {
        let pattern = format!("^{}$", regex::escape(&tensor.name));
        let format = choice.wanted.unwrap_or(choice.format);
        text.push_str(&format!(
            "  {{ name = {:<43} type = {:<10} reason = {} }},\n",
            format!("{},", quoted(&pattern)),
            format!("{},", quoted(format.name())),
            quoted(&choice.reason)
        ));
    }
    text.push_str("]\n");
    text
}

/// A TOML string.
fn quoted(text: &str) -> String {
    // Literal where it can be, so that patterns read as they are.
    match text.contains('\'') || text.chars().any(char::is_control) {
        false => format!("'{text}'"),
        true => toml::Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back() {
        for text in ["^blk\\.3\\.ffn_up\\.weight$", "it's", "two\nlines \"and\" 'quotes'", ""] {
            let found: toml::Table = format!("x = {}", quoted(text)).parse().expect("TOML");
            assert_eq!(found["x"].as_str(), Some(text));
        }
    }

    #[test]
    fn every_format_has_a_file_type() {
        assert!(Format::all().all(|format| FILE_TYPES.iter().any(|entry| entry.0 == format)));
    }
}
