//! Compares a file with the checkpoint that it was made from: it must be the same model, and every slice within its
//! type's error.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;

use quant_kernels::Format;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::Serialize;

use super::deviation::Deviation;
use super::origin::Origin;
use super::slice::{Beside, Judged, WORST, sort_worst};
use super::{Bounds, Checked, Problem};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::gguf::{Entry, Parts, Value};
use crate::model::{Model, TensorPlan, factors_of};
use crate::progress::{More, Told};
use crate::recipe::{Choice, Imatrix, Importances};
use crate::threads;

/// The input of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Compare<'a> {
    /// The checkpoint or GGUF file that the file was made from.
    pub checkpoint: &'a Checkpoint,
    /// The importance matrix that the file was made with, by which errors are then weighted.
    pub imatrix: Option<&'a Imatrix>,
    /// Threads; the answer does not depend on them.
    pub threads: usize,
    /// Becomes true when the user wants to stop.
    pub stop: &'a AtomicBool,
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
    /// The largest unit-gain error that the type explains.
    pub bound: f64,
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
    /// The unit-gain error that our encoder has on these weights; None if the slice is within what the type explains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_error: Option<f64>,
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

/// Compares every tensor of the files that are here with its source.
///
/// # Errors
/// If the checkpoint or the importance matrix is damaged, the matrix is another than the file says, nothing says how
/// the file was made, the system cannot read, or the user wants to stop.
pub fn against(checked: &Checked, compare: Compare, told: Told<'_>) -> Result<(Vec<Compared>, Vec<Problem>)> {
    let parts = &checked.parts;
    let origin = Origin::of(parts, &checked.manifests)?;
    let weighted = origin.weighted(compare.imatrix)?;
    let mut model = origin.model(compare.checkpoint)?;
    let mut problems = if parts.has_first() { differing_metadata(parts, &model) } else { Vec::new() };
    let entries: HashMap<&str, (usize, &Entry)> =
        parts.tensors().map(|(file, entry)| (entry.name.as_str(), (file, entry))).collect();

    // What is missing is told of below.
    let written =
        |tensor: &TensorPlan| entries.get(&*tensor.name).map_or(Format::F32, |(_, entry)| entry.format);
    model.add_factors(&model.tensors.iter().map(written).collect::<Vec<_>>());

    // Only what is on both sides alike can be compared.
    let mut common = model.clone();
    common.tensors.retain(|tensor| match entries.get(tensor.name.as_str()) {
        None => {
            // It may be in a file that is not here.
            if parts.absent.is_empty() {
                problems.push(Problem::of(&tensor.name, "is not in the file"));
            }
            false
        }
        Some((_, entry)) if entry.shape != tensor.shape => {
            let problem = format!("has the shape {:?}; the checkpoint's is {:?}", entry.shape, tensor.shape);
            problems.push(Problem::of(&tensor.name, problem));
            false
        }
        Some(_) => true,
    });
    let planned: HashSet<&str> = model.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut factors: HashMap<&str, Vec<f32>> = HashMap::new();
    for tensor in &common.tensors {
        let name = factors_of(&tensor.name).filter(|name| !planned.contains(&**name));
        let beside = name.and_then(|name| entries.get(&*name)).filter(|(_, beside)| {
            beside.format == Format::F32
                && (beside.shape == [1] || beside.shape == [tensor.slices.len() as u64])
        });
        if let Some((file, beside)) = beside {
            let mut bytes = vec![0; beside.bytes as usize];
            parts.files[*file].read_at(beside.offset, &mut bytes)?;
            let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            factors.insert(&tensor.name, numbers.collect());
        }
    }
    let is_factors =
        |name: &str| factors.keys().any(|matrix| factors_of(matrix).is_some_and(|of| of == name));
    let unknown = parts
        .tensors()
        .filter(|(_, entry)| !planned.contains(entry.name.as_str()) && !is_factors(&entry.name));
    problems
        .extend(unknown.map(|(_, entry)| Problem::of(&entry.name, "is nothing that the checkpoint becomes")));

    let of = |tensor: &TensorPlan| entries[tensor.name.as_str()];
    let choice = |tensor| Choice { format: of(tensor).1.format, wanted: None, reason: String::new() };
    let choices: Vec<Choice> = common.tensors.iter().map(choice).collect();
    let importances = Importances::prepare(compare.checkpoint, &common, &choices, compare.imatrix)?;
    let slices: Vec<(usize, usize)> = (0..common.tensors.len())
        .flat_map(|tensor| (0..common.tensors[tensor].slices.len()).map(move |slice| (tensor, slice)))
        .collect();
    let all: u64 = common.tensors.iter().map(|tensor| of(tensor).1.bytes).sum();
    let work = |&(tensor, slice): &(usize, usize)| {
        let plan = &common.tensors[tensor];
        let (file, entry) = of(plan);
        let importance = if weighted { importances.slice(&common, tensor, slice)? } else { None };
        let beside = Beside {
            store: compare.checkpoint,
            plan,
            slice,
            part: &parts.files[file],
            entry,
            importance: importance.as_deref(),
            bounds: Bounds::of(entry.format, weighted, origin.feedback),
            factor: factors.get(&*plan.name).map_or(1.0, |all| all[slice.min(all.len() - 1)]),
            stop: compare.stop,
        };
        let judged = beside.judge()?;
        let bytes = entry.bytes / plan.slices.len() as u64;
        told(More { of: &entry.name, done: bytes, all, bytes });
        Ok(judged)
    };
    let judged = threads::on(compare.threads, || slices.par_iter().map(work).collect::<Result<Vec<_>>>())??;
    let mut judged = judged.into_iter();
    let mut compared = Vec::with_capacity(common.tensors.len());
    for tensor in &common.tensors {
        let judged: Vec<Judged> = judged.by_ref().take(tensor.slices.len()).collect();
        let entry = of(tensor).1;
        let bounds = Bounds::of(entry.format, weighted, origin.feedback);
        let tensor = Compared::new(tensor, entry, &judged, bounds);
        problems.extend(
            tensor
                .problem(&judged, bounds)
                .map(|problem| Problem::of(&tensor.name, problem + origin.hint(compare.imatrix))),
        );
        compared.push(tensor);
    }
    Ok((compared, problems))
}

/// Keys that a GGUF file as source has as well, and that follow from the recipe.
const OF_RECIPE: [&str; 2] = ["general.file_type", "general.quantization_version"];

/// Keys that the checkpoint determines and the file has otherwise.
fn differing_metadata(parts: &Parts, model: &Model) -> Vec<Problem> {
    let determined = model.metadata.iter().filter(|(key, _)| !OF_RECIPE.contains(key));
    let differing = determined.filter_map(|(key, expected)| {
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

impl Compared {
    fn new(plan: &TensorPlan, entry: &Entry, judged: &[Judged], bounds: Bounds) -> Self {
        let mut sum = Deviation::default();
        judged.iter().for_each(|slice| sum += slice.sum);
        let mut worst_rows: Vec<Row> = judged.iter().flat_map(|slice| slice.worst.clone()).collect();
        sort_worst(&mut worst_rows);
        worst_rows.truncate(WORST);
        Self {
            name: plan.name.clone(),
            class: plan.class().to_owned(),
            format: entry.format.name(),
            error: sum.plain.relative(),
            unit_gain_error: sum.weighted.unit(judged.iter().map(|slice| slice.floor).sum()),
            gain: sum.weighted.gain(),
            bound: bounds.error,
            slices: judged.iter().map(|judged| judged.slice).collect(),
            worst_rows,
        }
    }

    /// The slice with the largest error.
    pub fn worst_slice(&self) -> (usize, Slice) {
        let slices: Vec<_> = self.slices.iter().enumerate().collect();
        worst(&slices).expect("a tensor has a slice")
    }

    /// The problem, if slices or rows are beyond the type's bounds; slices come first, since that message says more.
    fn problem(&self, judged: &[Judged], bounds: Bounds) -> Option<String> {
        let beyond = self.slices.iter().zip(judged).enumerate().filter(|(_, (_, judged))| !judged.within);
        let beyond: Vec<_> = beyond.map(|(index, (slice, _))| (index, slice)).collect();
        if let Some((index, worst)) = worst(&beyond) {
            let problem = format!(
                "{} of {} slices are further from the checkpoint than {} explains; worst is slice {index}: error \
                 {:.3e} where {:.3e} is allowed, gain {:.4} where 1 +- {} is",
                beyond.len(),
                self.slices.len(),
                self.format,
                worst.unit_gain_error,
                bounds.allowed(worst.encoder_error),
                worst.gain,
                bounds.gain
            );
            return Some(problem);
        }
        let rows = judged.iter().filter_map(|judged| judged.beyond);
        let (Row { slice, row, unit_gain_error }, allowed) = rows
            .reduce(|a, b| if b.0.unit_gain_error.total_cmp(&a.0.unit_gain_error).is_gt() { b } else { a })?;
        Some(format!(
            "row {row} of slice {slice} is further from the checkpoint than {} explains: error \
             {unit_gain_error:.3e} where {allowed:.3e} is allowed",
            self.format
        ))
    }
}

/// The first with the largest error.
fn worst(slices: &[(usize, &Slice)]) -> Option<(usize, Slice)> {
    let error = |slice: &Slice| slice.unit_gain_error;
    let worst = slices.iter().rev().max_by(|a, b| error(a.1).total_cmp(&error(b.1)))?;
    Some((worst.0, *worst.1))
}
