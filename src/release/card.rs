//! The card of a release: what a reader of the repository wants to know, from a template (minijinja's language).

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::identity::TOOL;
use crate::plain::plain;
use crate::recipe::{Fed, Plan};
use crate::size::{Size, grouped};

/// The template that is used where the user gives none.
pub const DEFAULT_CARD: &str = include_str!("card.md");

/// What a template knows.
#[derive(Clone, Debug, Serialize)]
pub struct Card {
    /// The model's name, or the file's.
    pub title: String,
    /// Its repository on the hub, if it was read there.
    pub base_model: Option<String>,
    /// The licence that the checkpoint's card names, by the hub's word for it.
    pub license: Option<String>,
    /// Its name, if it is none that the hub has a word for.
    pub license_name: Option<String>,
    /// Where it can be read.
    pub license_link: Option<String>,
    /// GGUF's name of the architecture.
    pub architecture: String,
    /// Name of the recipe.
    pub recipe: String,
    /// Types that went before its rules.
    pub overrides: Vec<String>,
    /// SHA-256 of the importance matrix.
    pub imatrix: Option<String>,
    /// SHA-256 of the text for error feedback.
    pub feedback: Option<String>,
    /// Whether there was error feedback without a text.
    pub textless: bool,
    /// Fingerprint of the checkpoint.
    pub source: String,
    /// The program and its version.
    pub tool: &'static str,
    /// Number of weights.
    pub weights: String,
    /// Over all tensors.
    pub bits_per_weight: String,
    /// Of all files.
    pub size: String,
    /// The files of the release.
    pub files: Vec<Listed>,
    /// Types, the one with most bytes first.
    pub types: Vec<Share>,
}

/// A file of the release.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// As people read it.
    pub size: String,
    /// Bytes.
    pub bytes: u64,
}

/// What a type takes of the files.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// The type's name.
    pub name: String,
    /// In percent of the bytes, with one digit after the point.
    pub share: String,
}

impl Card {
    /// The facts of a plan whose files go by these names.
    pub fn new(plan: &Plan, names: &[String], base_model: Option<String>) -> Self {
        let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
        for tensor in 0..plan.model.tensors.len() {
            *bytes.entry(plan.format(tensor).name()).or_default() += plan.bytes(tensor);
        }
        let all = bytes.values().sum::<u64>().max(1) as f64;
        let mut types: Vec<_> = bytes.into_iter().collect();
        types.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        let share = |(name, bytes): (&str, u64)| Share {
            name: name.to_owned(),
            share: format!("{:.1}", bytes as f64 * 100.0 / all),
        };
        let said = |key: &str| plan.model.metadata.get(key).and_then(Value::as_str).map(str::to_owned);
        let named =
            said("general.name").or_else(|| base_model.as_deref()?.split('/').nth(1).map(str::to_owned));
        let stem = || names.first().map_or("", |name| name.trim_end_matches(".gguf")).to_owned();
        let files = names.iter().zip(&plan.files).map(|(name, file)| {
            let bytes = file.layout.file_size;
            Listed { name: name.clone(), size: Size(bytes).to_string(), bytes }
        });
        Self {
            title: named.unwrap_or_else(stem),
            base_model,
            license: said("general.license").filter(|text| is_word(text)),
            license_name: said("general.license.name").filter(|text| is_word(text)),
            license_link: said("general.license.link").filter(|text| is_word(text) && text.contains("://")),
            architecture: plan.model.arch.to_string(),
            recipe: plan.recipe.clone(),
            overrides: plan.overrides.clone(),
            imatrix: plan.imatrix.clone(),
            feedback: plan.feedback.as_ref().and_then(Fed::text).map(str::to_owned),
            textless: plan.feedback.as_ref().is_some_and(|fed| fed.text().is_none()),
            source: plan.source.sha256(),
            tool: TOOL,
            weights: grouped(plan.model.weights()),
            bits_per_weight: format!("{:.2}", plan.bits_per_weight()),
            size: Size(plan.file_bytes()).to_string(),
            files: files.collect(),
            types: types.into_iter().map(share).collect(),
        }
    }

    /// The card by a template, which `file` names in messages.
    ///
    /// # Errors
    /// If the template is none, or wants what is not known.
    pub fn write(&self, template: &str, file: Option<&Path>) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let text = environment.render_str(template, Serde(self)).map_err(|error| {
            let file = file.map_or("the card".to_owned(), |file| format!("--card {}", file.display()));
            Error::Argument(format!("{file}: {}", plain(error)))
        });
        // The language takes the last line's end away.
        Ok(format!("{}\n", text?.trim_end()))
    }
}

/// Whether a text can stand in a card's YAML as it is: the hub's words, and addresses.
fn is_word(text: &str) -> bool {
    let may_be = |c: char| c.is_ascii_alphanumeric() || "-_./:~?=&%".contains(c);
    !text.is_empty() && !text.ends_with(':') && text.chars().all(may_be)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(files: usize, base_model: Option<&str>) -> Card {
        let file =
            |number: usize| Listed { name: format!("R1-{number}.gguf"), size: "1 GB".into(), bytes: 1 };
        Card {
            title: "R1".into(),
            base_model: base_model.map(str::to_owned),
            license: base_model.map(|_| "mit".to_owned()),
            license_name: None,
            license_link: None,
            architecture: "deepseek2".into(),
            recipe: "ud-iq1_s".into(),
            overrides: vec!["attn=Q8_0".into()],
            imatrix: None,
            feedback: Some("ab".into()),
            textless: false,
            source: "cd".into(),
            tool: "quantpress 0.1.0",
            weights: "671,026,419,200".into(),
            bits_per_weight: "1.67".into(),
            size: "140.2 GB".into(),
            files: (0..files).map(file).collect(),
            types: vec![Share { name: "IQ1_S".into(), share: "85.0".into() }],
        }
    }

    #[test]
    fn the_card_says_what_was_made_of_what() {
        let text = card(2, Some("deepseek-ai/DeepSeek-R1")).write(DEFAULT_CARD, None).expect("sound");
        assert!(
            text.starts_with(
                "---\nbase_model: deepseek-ai/DeepSeek-R1\nbase_model_relation: quantized\nlicense: mit\nlibrary_name: gguf\n"
            ),
            "{text}"
        );
        for part in [
            "| R1-0.gguf | 1 GB |\n| R1-1.gguf | 1 GB |",
            "llama-server -m R1-0.gguf",
            "the other files",
            "`attn=Q8_0`",
            "on a text, SHA-256 ab",
            "| IQ1_S | 85.0 % |",
            "none measured",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let text = card(1, None).write(DEFAULT_CARD, None).expect("sound");
        assert!(text.starts_with("---\nlibrary_name: gguf\n") && !text.contains("the other files"), "{text}");
    }

    #[test]
    fn what_is_no_word_stays_out_of_the_cards_facts() {
        assert!(is_word("apache-2.0") && is_word("https://example.org/a?b=c"));
        assert!(!is_word("") && !is_word("mit\ntags: x") && !is_word("a b") && !is_word("a:"));
    }

    #[test]
    fn a_template_with_a_fault_is_an_error_with_its_place() {
        for (template, words) in [("{{ titel }}", "undefined"), ("{% if %}", "syntax error")] {
            let error =
                card(1, None).write(template, Some(Path::new("a.md"))).expect_err("a fault").to_string();
            assert!(error.starts_with("--card a.md: ") && error.contains(words), "{error}");
        }
        assert_eq!(
            card(1, None).write("{{ title }}: {{ files[0].bytes }}\n", None).expect("sound"),
            "R1: 1\n"
        );
    }
}
