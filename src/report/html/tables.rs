//! Tables of the report: warnings, types by role, every tensor.

use std::collections::BTreeMap;

use super::markup::{Cell, escaped, table};
use super::palette;
use crate::report::machine::Told;
use crate::report::subject::Subject;
use crate::report::{Fallback, Size, grouped};

/// Warnings and replaced types, before everything else.
pub fn warnings(subject: &Subject) -> String {
    let replaced = subject.fallbacks.iter().map(|fallback| {
        let Fallback { class, columns, wanted, format, tensors } = fallback;
        format!(
            "{class} ({tensors} tensors) has rows of {columns}, which do not fit {wanted}: {format} instead"
        )
    });
    let items: String = subject
        .warnings
        .iter()
        .cloned()
        .chain(replaced)
        .map(|text| format!("<li>{}</li>\n", escaped(&text)))
        .collect();
    if items.is_empty() {
        return String::new();
    }
    format!("<section class=\"warnings\">\n<h2>Warnings and notes</h2>\n<ul>\n{items}</ul>\n</section>\n")
}

/// How the file runs on the machine that was asked about: the lines that `plan --ram` prints.
pub fn machine(subject: &Subject) -> String {
    let Some(fit) = &subject.fit else { return String::new() };
    let weights = subject.tensors.iter().map(|tensor| tensor.weights).sum();
    let told = Told { fit, weights }.to_string();
    let lines = told.lines().filter_map(|line| line.split_once(' '));
    let facts: String = lines
        .map(|(name, value)| {
            // The last is a command.
            let [open, close] = if name == "run" { ["<code>", "</code>"] } else { ["", ""] };
            format!("<dt>{}</dt><dd>{open}{}{close}</dd>\n", escaped(name), escaped(value.trim()))
        })
        .collect();
    format!("<section>\n<h2>On this machine</h2>\n<dl>\n{facts}</dl>\n</section>\n")
}

/// Tensors by role and type.
pub fn types(subject: &Subject) -> String {
    let mut groups: BTreeMap<_, [u64; 3]> = BTreeMap::new();
    for tensor in &subject.tensors {
        let place = palette::roles().position(|role| role == tensor.role).unwrap_or(0);
        let [count, weights, bytes] = groups.entry((place, tensor.format)).or_default();
        (*count, *weights, *bytes) = (*count + 1, *weights + tensor.weights, *bytes + tensor.bytes);
    }
    let rows = groups.into_iter().map(|((place, format), [count, weights, bytes])| {
        let role = palette::roles().nth(place).flatten();
        vec![
            Cell::Swatch(palette::of_role(role), palette::name(role).to_owned()),
            Cell::Swatch(palette::of_type(format), format.to_string()),
            Cell::Number(count.to_string()),
            Cell::Number(grouped(weights)),
            Cell::Number(Size(bytes).to_string()),
        ]
    });
    let table = table(&["role", "type", "tensors", "weights", "size"], rows);
    format!("<section>\n<h2>Types by role</h2>\n{table}</section>\n")
}

/// Every tensor, folded away.
pub fn tensors(subject: &Subject) -> String {
    let number =
        |error: Option<f64>| Cell::Number(error.map_or(String::new(), |error| format!("{error:.3e}")));
    let rows = subject.tensors.iter().map(|tensor| {
        vec![
            Cell::Text(tensor.name.clone()),
            Cell::Swatch(palette::of_type(tensor.format), tensor.format.to_string()),
            Cell::Text(tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ")),
            Cell::Number(grouped(tensor.bytes)),
            number(tensor.error),
            number(tensor.weighted_error),
            Cell::Text(tensor.reason.clone()),
        ]
    });
    let table = table(&["tensor", "type", "shape", "bytes", "error", "weighted error", "reason"], rows);
    format!(
        "<section>\n<h2>Tensors</h2>\n<details>\n<summary>All {} tensors with the reasons of their types</summary>\n\
         {table}</details>\n</section>\n",
        subject.tensors.len()
    )
}
