//! A recipe with every type decided, as a file: one rule a line, for one tensor each, with the reason. Pure.

use quant_kernels::Format;

use super::{Choice, Recipe};
use crate::model::Model;

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
    let file_type = most.and_then(Format::file_type).or(base.file_type).unwrap_or_default();

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
}
