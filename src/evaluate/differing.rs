//! In which sizes two models differ, in words. Pure.

use crate::forward::Shape;

/// What a shape has, and how its value is written.
type Field = (&'static str, fn(&Shape) -> String);

const FIELDS: [Field; 16] = [
    ("vocabulary", |s| s.vocabulary.to_string()),
    ("hidden size", |s| s.hidden.to_string()),
    ("layers", |s| s.layers.to_string()),
    ("dense layers", |s| s.dense_layers.to_string()),
    ("heads", |s| s.heads.to_string()),
    ("rank of keys and values", |s| s.kv_rank.to_string()),
    ("columns of a key without position", |s| s.nope.to_string()),
    ("columns of a key with position", |s| s.rope.to_string()),
    ("columns of a value", |s| s.value.to_string()),
    ("experts", |s| s.experts.to_string()),
    ("experts of a token", |s| s.router.used.to_string()),
    ("groups of experts and of a token", |s| s.router.groups.map(|n| n.to_string()).join(" and ")),
    ("epsilon of norms", |s| s.eps.to_string()),
    ("base of rotations", |s| s.theta.to_string()),
    ("stretch of rotations", |s| s.yarn.map_or("none".to_owned(), |yarn| yarn.factor.to_string())),
    ("BOS token", |s| s.bos.map_or("none".to_owned(), |token| token.to_string())),
];

/// The first few, of a file that is not of the reference's shape.
const SHOWN: usize = 3;

/// "hidden size 256 (the checkpoint has 7168), ...".
pub fn differing(file: &Shape, reference: &Shape) -> String {
    let fields = FIELDS.iter().map(|(name, value)| (name, value(file), value(reference)));
    let differ: Vec<String> = fields
        .filter(|(_, file, reference)| file != reference)
        .map(|(name, file, reference)| format!("{name} {file} (the checkpoint has {reference})"))
        .collect();
    match differ.len() {
        0 => "its experts are weighed or its rotations stretched otherwise".to_owned(),
        1..=SHOWN => differ.join(", "),
        n => format!("{} and {} more differences", differ[..SHOWN].join(", "), n - SHOWN),
    }
}
