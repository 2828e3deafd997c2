//! Our blocks, decoded by ggml and by PyPI's gguf: the weights that we decode ourselves, to the bit.

use std::fs;

use quant_kernels::{Format, dequantize, quantize};
use tempfile::TempDir;

use crate::support::python::script;
use crate::support::text;

#[path = "../quant_kernels/tests/formats/rows.rs"]
mod rows;

const COLUMNS: usize = 2048;

/// Rows with the importances of their columns: 2^20 weights, hostile ones first, then normal ones of many sizes.
fn groups() -> Vec<(Vec<f32>, Option<Vec<f32>>)> {
    let hostile = rows::hostile_rows(COLUMNS).concat();
    let mut groups: Vec<_> = rows::hostile_importances(COLUMNS)
        .into_iter()
        .map(|importance| (hostile.clone(), importance))
        .collect();
    let mut random = rows::Random(11);
    while groups.iter().map(|(rows, _)| rows.len()).sum::<usize>() < 1 << 20 {
        let size = random.normal().exp();
        let rows = random.normals(16 * COLUMNS).into_iter().map(|x| x * size).collect();
        groups.push((rows, Some(random.importances(COLUMNS))));
    }
    groups
}

/// All but F32, which nobody has to decode.
fn encoded() -> impl Iterator<Item = Format> {
    Format::all().filter(|&format| format != Format::F32)
}

#[test]
fn ggml_and_gguf_decode_a_million_weights_of_every_format_as_we_do() {
    let folder = TempDir::new().expect("a temporary folder");
    let groups = groups();
    let mut names = vec![text(folder.path())];
    for format in encoded() {
        let (mut blocks, mut weights) = (Vec::new(), Vec::new());
        for (rows, importance) in &groups {
            let mut encoded = vec![0; rows.len() / COLUMNS * format.row_bytes(COLUMNS as u64) as usize];
            quantize(format, rows, COLUMNS, importance.as_deref(), &mut encoded);
            let mut decoded = vec![0.0; rows.len()];
            dequantize(format, &encoded, &mut decoded);
            blocks.extend(encoded);
            weights.extend(decoded.iter().flat_map(|y| y.to_le_bytes()));
        }
        assert!(weights.len() >= 4 << 20);
        fs::write(folder.path().join(format!("{format}.blocks")), blocks).expect("written");
        fs::write(folder.path().join(format!("{format}.f32")), weights).expect("written");
        names.push(format.name());
    }
    let Some(found) = script("decoders.py", &names) else { return };
    for format in encoded() {
        assert_eq!(found[format.name()], serde_json::json!({"ggml": 0, "gguf": 0}), "{format}");
    }
}
