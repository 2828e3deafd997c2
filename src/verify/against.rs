//! A file against the checkpoint that it was made from: the same model, and every slice within its type's error.

use std::collections::HashMap;
use std::path::Path;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::Serialize;

use super::deviation::{Deviation, Sums};
use super::{Bounds, Problem, on, window};
use crate::checkpoint::{Checkpoint, Folder, Source};
use crate::error::{Error, Result};
use crate::gguf::{Entry, Parts, Value};
use crate::model::{Model, Options, TensorPlan};
use crate::recipe::{Choice, Imatrix, Importances};

/// Rows with less energy than this share of their slice's mean row are measured against that.
const FAINT: f64 = 0.01;

/// So is what has less energy a weight than this: half-precision scales end at 6e-8.
const FAINTEST: f64 = 1e-12;

/// Rows that are told of a tensor.
const WORST: usize = 3;

/// What to compare with.
#[derive(Clone, Copy, Debug)]
pub struct Compare<'a> {
    /// The source.
    pub checkpoint: &'a Checkpoint,
    /// The importance matrix that the file was made with, by which errors are then weighted.
    pub imatrix: Option<&'a Imatrix>,
    /// Threads; the answer does not depend on them.
    pub threads: usize,
}

/// One tensor beside its source. Errors are squared, relative to the squared weights.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// Name.
    pub name: String,
    /// Its name without layer and suffix.
    #[serde(skip)]
    pub class: String,
    /// Type.
    #[serde(rename = "type")]
    pub format: &'static str,
    /// Without importances.
    pub error: f64,
    /// At unit gain, weighted by the importances if they are known: what is judged.
    pub unit_gain_error: f64,
    /// sum(w x y) / sum(w x x).
    pub gain: f64,
    /// The largest unit-gain error of a slice that passes.
    pub bound: f64,
    #[serde(skip)]
    bounds: Bounds,
    /// Experts or heads in order; one for a matrix.
    pub slices: Vec<Slice>,
    /// The rows with the largest errors, the worst first.
    pub worst_rows: Vec<Row>,
}

/// One expert or head.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Slice {
    /// As the tensor's.
    pub unit_gain_error: f64,
    /// As the tensor's.
    pub gain: f64,
}

/// One row of a slice.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// Expert or head.
    pub slice: usize,
    /// Row of the slice.
    pub row: u64,
    /// Without importances.
    pub unit_gain_error: f64,
}

/// Compares every tensor with its source.
///
/// # Errors
/// If the checkpoint or the importance matrix is damaged, the matrix is another than the file says, or the system
/// cannot read.
pub fn against(parts: &Parts, compare: Compare) -> Result<(Vec<Compared>, Vec<Problem>)> {
    let weighted = weighted(parts, compare.imatrix)?;
    let model = model(parts, compare.checkpoint)?;
    let mut problems = differing_metadata(parts, &model);
    let entries: HashMap<&str, (usize, &Entry)> =
        parts.tensors().map(|(file, entry)| (entry.name.as_str(), (file, entry))).collect();

    // Only what is on both sides alike can be compared.
    let mut common = model.clone();
    common.tensors.retain(|tensor| match entries.get(tensor.name.as_str()) {
        None => {
            problems.push(Problem::of(&tensor.name, "is not in the file"));
            false
        }
        Some((_, entry)) if entry.shape != tensor.shape => {
            let problem = format!("has the shape {:?}; the checkpoint's is {:?}", entry.shape, tensor.shape);
            problems.push(Problem::of(&tensor.name, problem));
            false
        }
        Some(_) => true,
    });
    let planned: std::collections::HashSet<&str> =
        model.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let unknown = parts.tensors().filter(|(_, entry)| !planned.contains(entry.name.as_str()));
    problems
        .extend(unknown.map(|(_, entry)| Problem::of(&entry.name, "is nothing that the checkpoint becomes")));

    let of = |tensor: &TensorPlan| entries[tensor.name.as_str()];
    let choice = |tensor| Choice { format: of(tensor).1.format, wanted: None, reason: String::new() };
    let choices: Vec<Choice> = common.tensors.iter().map(choice).collect();
    let importances = Importances::prepare(compare.checkpoint, &common, &choices, compare.imatrix)?;
    let slices: Vec<(usize, usize)> = (0..common.tensors.len())
        .flat_map(|tensor| (0..common.tensors[tensor].slices.len()).map(move |slice| (tensor, slice)))
        .collect();
    let work = |&(tensor, slice): &(usize, usize)| {
        let (file, entry) = of(&common.tensors[tensor]);
        let path = &parts.files[file].path;
        let importance = if weighted { importances.slice(&common, tensor, slice)? } else { None };
        slice_of(compare.checkpoint, &common.tensors[tensor], slice, importance.as_deref(), entry, path)
    };
    let found = on(compare.threads, || slices.par_iter().map(work).collect::<Result<Vec<_>>>())??;
    let mut found = found.into_iter();
    let mut compared = Vec::with_capacity(common.tensors.len());
    for tensor in &common.tensors {
        let slices: Vec<Found> = found.by_ref().take(tensor.slices.len()).collect();
        let entry = of(tensor).1;
        let tensor = Compared::new(tensor, entry, &slices, Bounds::of(entry.format, weighted));
        problems.extend(tensor.problem());
        compared.push(tensor);
    }
    Ok((compared, problems))
}

/// Whether what the file was made with is known: the given matrix, or what the norms tell if there was none. With error
/// feedback it was covariances, and they are not.
fn weighted(parts: &Parts, imatrix: Option<&Imatrix>) -> Result<bool> {
    let made_with = parts.metadata().get("quantpress.imatrix.sha256").and_then(Value::as_str);
    let plain = !parts.metadata().contains_key("quantpress.feedback.sha256");
    let Some(imatrix) = imatrix else { return Ok(plain && made_with.is_none()) };
    let given = imatrix.fingerprint();
    match made_with {
        Some(made_with) if made_with == given => Ok(plain),
        Some(made_with) => Err(Error::Argument(format!(
            "--imatrix has the SHA-256 {given}, but the file was made with {made_with}"
        ))),
        // Made by another program, whose files do not say.
        None if !parts.metadata().contains_key("quantpress.version") => Ok(true),
        None => Err(Error::Argument("--imatrix: the file was made without an importance matrix".into())),
    }
}

/// The model that the checkpoint becomes, with the choices that the file shows.
fn model(parts: &Parts, checkpoint: &Checkpoint) -> Result<Model> {
    let text = |key: &str| parts.metadata().get(key).and_then(Value::as_str).map(str::to_owned);
    let kept = parts.metadata().iter().find(|(key, _)| key.ends_with(".nextn_predict_layers"));
    let keep_mtp = kept.is_some_and(|(_, layers)| layers.as_u64() > Some(0));
    let options = |pre| Options { keep_mtp, name: text("general.name"), pre };
    match Model::plan(checkpoint, &options(None)) {
        // Perhaps only the splitting rules, which --pre named when the file was made.
        Err(Error::Unsupported(_)) => Model::plan(checkpoint, &options(text("tokenizer.ggml.pre"))),
        other => other,
    }
}

/// Keys that the checkpoint determines and the file has otherwise.
fn differing_metadata(parts: &Parts, model: &Model) -> Vec<Problem> {
    let differing = model.metadata.iter().filter_map(|(key, expected)| {
        let found = parts.metadata().get(key);
        if found == Some(expected) {
            return None;
        }
        let short = |value: &Value| {
            let text = serde_json::to_string(value).unwrap_or_default();
            if text.chars().count() > 60 { "another value".to_owned() } else { text }
        };
        let found = found.map_or("missing".to_owned(), short);
        let problem = format!("the key {key} is {found}; from the checkpoint it is {}", short(expected));
        Some(Problem { tensor: None, problem })
    });
    differing.collect()
}

/// Sums over a slice, and its worst rows.
struct Found {
    sum: Deviation,
    weights: u64,
    worst: Vec<Row>,
}

fn slice_of(
    checkpoint: &Checkpoint,
    plan: &TensorPlan,
    slice: usize,
    importance: Option<&[f32]>,
    entry: &Entry,
    path: &Path,
) -> Result<Found> {
    let (folder, name) = (Folder::of_file(path), path.file_name().unwrap_or_default().to_string_lossy());
    let columns = plan.columns() as usize;
    let row_bytes = entry.format.row_bytes(plan.columns());
    let (mut blocks, mut decoded) = (Vec::new(), vec![0.0; columns]);
    let mut rows = Vec::with_capacity(plan.rows() as usize);
    let mut sum = Deviation::default();
    window::read(checkpoint, plan, &plan.slices[slice], |piece, weights| {
        blocks.resize(((piece.end - piece.start) * row_bytes) as usize, 0);
        let first = slice as u64 * plan.rows() + piece.start;
        folder
            .read_at(&name, entry.offset + first * row_bytes, &mut blocks)
            .map_err(|e| Error::io("read", path, e))?;
        for (row, blocks) in weights.chunks_exact(columns).zip(blocks.chunks_exact(row_bytes as usize)) {
            quant_kernels::dequantize(entry.format, blocks, &mut decoded);
            let row = Deviation::of_row(row, &decoded, importance);
            sum += row;
            rows.push(row.plain);
        }
        Ok(())
    })?;
    let floor = (FAINT * sum.plain.xx / rows.len() as f64).max(FAINTEST * columns as f64);
    let row = |(row, sums): (u64, &Sums)| Row { slice, row, unit_gain_error: sums.unit(floor) };
    let mut worst = (0..).zip(&rows).map(row).collect();
    keep_worst(&mut worst);
    Ok(Found { sum, weights: plan.rows() * plan.columns(), worst })
}

/// Keeps the worst rows, the first of equals first; NaN is worst of all.
fn keep_worst(rows: &mut Vec<Row>) {
    rows.sort_by(|a, b| b.unit_gain_error.total_cmp(&a.unit_gain_error));
    rows.truncate(WORST);
}

impl Found {
    /// The energy below which errors are not taken relative to it.
    fn floor(&self) -> f64 {
        let Deviation { weighted, plain } = self.sum;
        let mean_importance = if plain.xx > 0.0 { weighted.xx / plain.xx } else { 1.0 };
        FAINTEST * self.weights as f64 * mean_importance
    }
}

impl Compared {
    fn new(plan: &TensorPlan, entry: &Entry, slices: &[Found], bounds: Bounds) -> Self {
        let mut sum = Deviation::default();
        slices.iter().for_each(|slice| sum += slice.sum);
        let mut worst_rows: Vec<Row> = slices.iter().flat_map(|slice| slice.worst.clone()).collect();
        keep_worst(&mut worst_rows);
        let slice = |found: &Found| Slice {
            unit_gain_error: found.sum.weighted.unit(found.floor()),
            gain: found.sum.weighted.gain(),
        };
        Self {
            name: plan.name.clone(),
            class: plan.class().to_owned(),
            format: entry.format.name(),
            error: sum.plain.relative(),
            unit_gain_error: sum.weighted.unit(slices.iter().map(Found::floor).sum()),
            gain: sum.weighted.gain(),
            bound: bounds.error,
            bounds,
            slices: slices.iter().map(slice).collect(),
            worst_rows,
        }
    }

    /// The slice with the largest error.
    pub fn worst_slice(&self) -> (usize, Slice) {
        let slices: Vec<_> = self.slices.iter().enumerate().collect();
        worst(&slices).expect("a tensor has a slice")
    }

    /// What is beyond the bounds of the type; slices before rows, since their words are plainer.
    fn problem(&self) -> Option<Problem> {
        let Bounds { error, row_error, gain } = self.bounds;
        // NaN is within nothing.
        let within = |slice: &Slice| slice.unit_gain_error <= error && (slice.gain - 1.0).abs() <= gain;
        let beyond: Vec<_> = self.slices.iter().enumerate().filter(|(_, slice)| !within(slice)).collect();
        if let Some((index, worst)) = worst(&beyond) {
            let problem = format!(
                "{} of {} slices are further from the checkpoint than {} explains; worst is slice {index}: error \
                 {:.3e} where {error:.3e} is allowed, gain {:.4} where 1 +- {gain} is",
                beyond.len(),
                self.slices.len(),
                self.format,
                worst.unit_gain_error,
                worst.gain
            );
            return Some(Problem::of(&self.name, problem));
        }
        let Row { slice, row, unit_gain_error } = self.worst_rows.first()?;
        let within = *unit_gain_error <= row_error;
        (!within).then(|| {
            let problem = format!(
                "row {row} of slice {slice} is further from the checkpoint than {} explains: error \
                 {unit_gain_error:.3e} where {row_error:.3e} is allowed",
                self.format
            );
            Problem::of(&self.name, problem)
        })
    }
}

/// The first with the largest error.
fn worst(slices: &[(usize, &Slice)]) -> Option<(usize, Slice)> {
    let error = |slice: &Slice| slice.unit_gain_error;
    let worst = slices.iter().rev().max_by(|a, b| error(a.1).total_cmp(&error(b.1)))?;
    Some((worst.0, *worst.1))
}
