//! The sizes in which two models differ, as a message. Pure.

use crate::model::Description;

/// The first few, of a file that is not of the reference's shape.
const SHOWN: usize = 3;

/// "hidden size 256 (the checkpoint has 7168), ...".
pub fn differing(file: &Description, reference: &Description) -> String {
    let (file, reference) = (sizes(file), sizes(reference));
    let of = |sizes: &[(&str, String)], name: &str| {
        let size = sizes.iter().find(|(other, _)| *other == name);
        size.map_or("none".to_owned(), |(_, size)| size.clone())
    };
    let mut names: Vec<&str> = file.iter().map(|(name, _)| *name).collect();
    names.extend(
        reference.iter().map(|(name, _)| *name).filter(|name| !file.iter().any(|size| size.0 == *name)),
    );
    let differ: Vec<String> = names
        .into_iter()
        .map(|name| (name, of(&file, name), of(&reference, name)))
        .filter(|(_, file, reference)| file != reference)
        .map(|(name, file, reference)| format!("{name} {file} (the checkpoint has {reference})"))
        .collect();
    match differ.len() {
        0 => "its experts are weighed or its rotations stretched otherwise".to_owned(),
        1..=SHOWN => differ.join(", "),
        n => format!("{} and {} more differences", differ[..SHOWN].join(", "), n - SHOWN),
    }
}

/// The sizes of a model by name; of its kinds of layers those that the last layer has.
fn sizes(model: &Description) -> Vec<(&'static str, String)> {
    let mut sizes = vec![
        ("architecture", model.arch.to_owned()),
        ("vocabulary", model.vocabulary.to_string()),
        ("hidden size", model.hidden.to_string()),
        ("layers", model.layers.len().to_string()),
        ("dense layers", model.dense_layers().to_string()),
    ];
    if let Some(layer) = model.layers.last() {
        sizes.extend(layer.attention.sizes());
        sizes.extend(layer.ffn.sizes());
    }
    let yarn = model.rope.yarn;
    sizes.extend([
        ("columns with position", model.rope.columns.to_string()),
        ("longest text", model.context.to_string()),
        ("epsilon of norms", model.eps.to_string()),
        ("base of rotations", model.rope.theta.to_string()),
        ("stretch of rotations", yarn.map_or("none".to_owned(), |yarn| yarn.factor.to_string())),
        ("BOS token", model.bos.map_or("none".to_owned(), |token| token.to_string())),
    ]);
    sizes
}
