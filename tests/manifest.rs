//! The manifest and the file's own metadata: what was made, of what and how well, and nothing of this machine.

use std::fs;

use quantpress::checkpoint::{Checkpoint, Matrix, Values};
use quantpress::gguf::Contents;
use quantpress::model::{Model, Options};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::interrupted::beside;
use crate::support::{fixture, hex, quantize_fixture, succeed, tensor_hashes, text};

#[test]
fn the_manifest_has_every_tensor_with_its_digest_and_its_error() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let file = quantize_fixture(folder.path(), "a.gguf", &["--imatrix", text(&imatrix), "--threads", "2"]);
    let manifest: Value =
        serde_json::from_slice(&fs::read(beside(&file, ".json")).expect("read")).expect("JSON");
    let bytes = fs::read(&file).expect("read");
    assert_eq!(manifest["sha256"], hex(&bytes));
    assert_eq!(manifest["bytes"], bytes.len());
    assert_eq!(manifest["file"], "a.gguf");
    assert!(manifest["split"].is_null());
    assert_eq!(manifest["imatrix"]["sha256"], hex(&fs::read(&imatrix).expect("read")));
    assert_eq!(manifest["source"]["shards"].as_array().map(Vec::len), Some(4));
    let contents = Contents::read(&file).expect("sound");
    assert_eq!(json!(contents.metadata["quantpress.source.sha256"]), manifest["source"]["sha256"]);
    assert_eq!(json!(contents.metadata["quantpress.imatrix.sha256"]), manifest["imatrix"]["sha256"]);

    let checkpoint = Checkpoint::open_folder(&fixture("tiny-r1")).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let hashes = tensor_hashes(&[file]);
    let listed = manifest["tensors"].as_array().expect("tensors");
    assert_eq!(listed.len(), contents.tensors.len());
    for ((entry, found), planned) in listed.iter().zip(&contents.tensors).zip(&model.tensors) {
        let name = entry["name"].as_str().expect("a name");
        assert_eq!((name, &entry["type"]), (&*found.name, &found.format.name().into()));
        assert_eq!(entry["sha256"], hashes[name]);
        assert!(entry["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
        // The error again, from the source and the finished file.
        let mut decoded = vec![0.0; found.weights() as usize];
        let data = &bytes[found.offset as usize..(found.offset + found.bytes) as usize];
        quant_kernels::dequantize(found.format, data, &mut decoded);
        let mut source = Vec::with_capacity(decoded.len());
        for slice in &planned.slices {
            let matrix = Matrix::open(&checkpoint, &slice.tensor).expect("sound");
            let columns = matrix.tensor().columns() as usize;
            let mut rows = vec![0.0; (slice.rows.end - slice.rows.start) as usize * columns];
            matrix.read(slice.rows.clone(), &mut Vec::new(), &mut rows, Values::Any).expect("read");
            if slice.transposed {
                source.extend((0..columns).flat_map(|c| rows.chunks(columns).map(move |row| row[c])));
            } else {
                source.extend(rows);
            }
        }
        let sum = |f: &dyn Fn(f64, f64) -> f64| {
            source.iter().zip(&decoded).map(|(x, y)| f((*x).into(), (*y).into())).sum::<f64>()
        };
        let expected = sum(&|x, y| (x - y) * (x - y)) / sum(&|x, _| x * x).max(f64::MIN_POSITIVE);
        let error = entry["relative_error"].as_f64().expect("a number");
        assert!((error - expected).abs() <= 1e-5 * expected, "{name}: {error}, expected {expected}");
        // The same of each expert, in four digits.
        let per_expert = source.len() / planned.slices.len();
        let listed = entry["expert_errors"].as_array().map_or(0, Vec::len);
        let experts = planned.name.contains("_exps.");
        assert_eq!(listed, if experts { planned.slices.len() } else { 0 }, "{name}");
        let parts = source.chunks_exact(per_expert).zip(decoded.chunks_exact(per_expert));
        for (expert, (x, y)) in parts.enumerate().take(listed) {
            let sum = |f: &dyn Fn(f64, f64) -> f64| {
                x.iter().zip(y).map(|(x, y)| f((*x).into(), (*y).into())).sum::<f64>()
            };
            let expected = sum(&|x, y| (x - y) * (x - y)) / sum(&|x, _| x * x).max(f64::MIN_POSITIVE);
            let error = entry["expert_errors"][expert].as_f64().expect("a number");
            assert!((error - expected).abs() <= 6e-4 * expected, "{name} {expert}: {error}, {expected}");
        }
        let weighted = entry["weighted_error"].as_f64().expect("a number");
        assert!(weighted.is_finite() && (weighted > 0.0) == (error > 0.0), "{name}: {weighted}");
        match found.format.name() {
            "F32" => assert_eq!(error, 0.0, "{name}"),
            "Q8_0" => assert!(error < 1e-4, "{name}: {error}"),
            _ => assert!((1e-5..0.5).contains(&error), "{name}: {error}"),
        }
    }
}

/// A curve goes from the smallest file to the largest, and what is chosen is no better than what the curve allows.
fn is_tradeoff(of: &Value) {
    let point = |point: &Value| {
        (point["bytes"].as_u64().expect("bytes"), point["damage"].as_f64().expect("a number"))
    };
    let curve: Vec<(u64, f64)> = of["tradeoff"].as_array().expect("a curve").iter().map(point).collect();
    assert!((30..=60).contains(&curve.len()), "{} points", curve.len());
    assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1), "{curve:?}");
    let (bytes, damage) = point(&of["chosen"]);
    let next = curve.iter().position(|point| point.0 >= bytes).expect("no more than the largest");
    assert!(
        next > 0 && curve[next].1 <= damage && damage <= curve[next - 1].1,
        "{bytes}: {damage} of {curve:?}"
    );
}

#[test]
fn a_named_size_leaves_its_tradeoff_in_plan_and_manifest() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let [table, recipe] = ["table.json", "recipe.toml"].map(|name| folder.path().join(name));
    let given = ["--size", "7MB", "--sensitivity", text(&table)];
    let manifest = |name: &str, arguments: &[&str]| {
        let file = quantize_fixture(folder.path(), name, arguments);
        let text = fs::read_to_string(beside(&file, ".json")).expect("read");
        (serde_json::from_str::<Value>(&text).expect("JSON"), text.replace(name, "a.gguf"))
    };
    // Measured on one thread, then by the table on several.
    let saved = [&given[..], &["--threads", "1", "--save-recipe", text(&recipe)]].concat();
    let (made, first) = manifest("a.gguf", &saved);
    is_tradeoff(&made);
    assert_eq!(made["chosen"]["bytes"], made["bytes"]);
    assert!(first == manifest("b.gguf", &[&given[..], &["--threads", "5"]].concat()).1);
    let bits = ["--bpw", "3.1", "--sensitivity", text(&table)];
    for size in [&given, &bits] {
        let plan = succeed(&[&["plan", text(&checkpoint), "--json"], &size[..]].concat());
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        is_tradeoff(&plan);
        assert_eq!(plan["chosen"]["bytes"], plan["file_bytes"]);
        assert_eq!(made["tradeoff"].as_array().map(Vec::len), plan["tradeoff"].as_array().map(Vec::len));
    }
    // The recipe alone names no size.
    let (other, _) = manifest("c.gguf", &["--recipe", text(&recipe)]);
    assert!(other.get("tradeoff").is_none() && other.get("chosen").is_none());
    assert_eq!(other["sha256"], made["sha256"]);
}

#[test]
fn neither_the_manifest_nor_the_file_knows_paths_times_or_threads() {
    let make = |threads: &str| {
        let folder = TempDir::new().expect("a temporary folder");
        let file = quantize_fixture(folder.path(), "a.gguf", &["--threads", threads]);
        let bytes = [fs::read(&file).expect("read"), fs::read(beside(&file, ".json")).expect("read")];
        for bytes in &bytes {
            let place = text(folder.path()).as_bytes();
            assert!(!bytes.windows(place.len()).any(|window| window == place));
        }
        bytes
    };
    assert!(make("1") == make("7"));
}
