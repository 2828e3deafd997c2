//! A report as one HTML page: no scripts, nothing from a network. Pure: the same subject gives the same page.
//!
//! A chart is a file; each gives a figure of SVG with axes, units and a legend, or nothing where there is no data.

mod axis;
mod bit_map;
mod certificate;
mod expert_errors;
mod markup;
mod palette;
mod size_bar;
mod svg;
mod tables;
mod tensor_errors;
mod time;
mod tradeoff;

use markup::{escaped, figure};

use super::subject::Subject;
use super::{Size, grouped};

/// The page of a plan or a finished file.
pub fn page(subject: &Subject) -> String {
    let title = format!("{} · {}", subject.name, subject.recipe);
    let mut body = head(subject);
    body += &tables::warnings(subject);
    body += &figure("Size by role", "What the file's bytes are spent on.", &size_bar::chart(subject));
    body += &figure(
        "Bits per weight by layer",
        "One row for each kind of tensor, one cell for each layer; the column at the left is outside of the layers. \
         Norms, routers and routing biases are F32 in every file and left out.",
        &bit_map::chart(subject),
    );
    body += &tradeoff::section(subject);
    body += &certificate::section(subject);
    body += &tensor_errors::section(subject);
    body += &expert_errors::section(subject);
    body += &tables::machine(subject);
    body += &time::section(subject);
    body += &tables::types(subject);
    body += &tables::tensors(subject);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{}{}</style>\n</head>\n\
         <body>\n{body}<footer>quantpress {}</footer>\n</body>\n</html>\n",
        escaped(&title),
        include_str!("style.css"),
        palette::style(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// What it is, in a heading and a list of facts.
fn head(subject: &Subject) -> String {
    let weights: u64 = subject.tensors.iter().map(|tensor| tensor.weights).sum();
    let kind = if subject.made { "a finished file" } else { "a plan: nothing is written yet" };
    let mut facts = vec![
        ("report of", kind.to_owned()),
        ("architecture", subject.architecture.clone()),
        ("recipe", subject.recipe.clone()),
        ("size", format!("{}, {} bytes", Size(subject.bytes), grouped(subject.bytes))),
        ("weights", format!("{} in {} tensors", grouped(weights), subject.tensors.len())),
        ("bits per weight", format!("{:.4}", subject.bits_per_weight())),
    ];
    if let Some((numbers, of)) = subject.parts.as_ref().filter(|(numbers, of)| numbers.len() < *of as usize) {
        let numbers = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        facts
            .push(("part of a split", format!("{numbers} of {of} files; the others are not in this report")));
    }
    facts.extend(subject.overrides.iter().map(|text| ("override", text.clone())));
    facts.extend(subject.digests.iter().map(|(of, digest)| (*of, format!("SHA-256 {digest}"))));
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(value)))
        .collect();
    format!("<h1>{}</h1>\n<dl>\n{facts}</dl>\n", escaped(&subject.name))
}
