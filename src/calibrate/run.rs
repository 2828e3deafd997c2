//! The calibration: layer by layer, each one's sums kept as soon as it is finished.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use quant_kernels::Format;
use serde::{Deserialize, Serialize};

use super::collector::{Collector, EXTRA_WEIGHT, LEAST_TOKENS};
use super::manifest::{self, Made, Manifest};
use super::prober::{self, Prober};
use crate::checkpoint::{Checkpoint, Seen};
use crate::error::{Error, Result};
use crate::forward::{Head, Ignore, MANIFEST, Milestones, Pass, Saved, Weights};
use crate::gguf::{ManifestPlace, Output, beside};
use crate::identity::{Identity, TOOL, hex, of_tokens};
use crate::log;
use crate::model::{Description, Gated, Model, Slices, TensorPlan};
use crate::moment;
use crate::recipe::imatrix::{Entry, Imatrix, Layout, Origin, Writer};
use crate::sensitivity::Probed;

/// The input of a calibration.
#[derive(Clone, Debug)]
pub struct Calibration<'a> {
    /// Chunks of `context` tokens.
    pub tokens: &'a [u32],
    /// Tokens in a chunk.
    pub context: usize,
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Whether experts with few tokens are shown others.
    pub cover: bool,
    /// The file's layout.
    pub layout: Layout,
    /// Bytes for hidden states.
    pub memory: u64,
    /// Forget what an earlier run has done.
    pub restart: bool,
    /// Replace a file that is there.
    pub force: bool,
    /// Becomes true when the user wants to stop.
    pub stop: &'a AtomicBool,
    /// The checkpoint; sizes and times of its shards are compared again at the end.
    pub checkpoint: &'a Checkpoint,
    /// The parts of the work's identity that come from the checkpoint and from the model that it is read as.
    pub source: Identity,
    /// Whether the cost of types is measured besides.
    pub probing: Option<Probing<'a>>,
    /// Whether hidden states are kept besides.
    pub keeping: Option<Keeping<'a>>,
}

/// What `--states` keeps while a text is calibrated.
#[derive(Clone, Copy, Debug)]
pub struct Keeping<'a> {
    /// Where.
    pub milestones: &'a Milestones,
    /// The layers before which states are kept, from 1 on; the number of layers stands for the head.
    pub at: &'a [usize],
}

impl Keeping<'_> {
    /// Keeps the states before this layer, if they are wanted.
    fn pass(&self, layer: usize, pass: &mut Pass) -> Result<()> {
        match self.at.contains(&layer) {
            true => self.milestones.keep(layer, pass.states()),
            false => Ok(()),
        }
    }
}

/// What `--sensitivity` measures while a text is calibrated.
#[derive(Clone, Copy)]
pub struct Probing<'a> {
    /// The model whose tensors are measured.
    pub model: &'a Model,
    /// The types that are tried.
    pub types: &'a [Format],
    /// Whether an earlier run has written the table already.
    pub made: bool,
    /// Takes what was found, when the importance matrix is written.
    pub done: &'a (dyn Fn(Probed) -> Result<()> + Sync),
}

impl fmt::Debug for Probing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probing").field("types", &self.types).finish_non_exhaustive()
    }
}

/// Progress of a calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Layers that are finished, and all.
    pub layers: [usize; 2],
    /// Layers that an earlier run had finished.
    pub earlier: usize,
}

/// Experts of a layer that no token of the text chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    /// Number of the layer, from 0.
    pub layer: usize,
    /// Their numbers.
    pub experts: Vec<usize>,
}

/// The result of a calibration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Whether an earlier run had made the file already.
    #[serde(default, skip_deserializing)]
    pub already: bool,
    /// Tensors with importances.
    pub tensors: usize,
    /// Tokens that went through.
    pub tokens: usize,
    /// Experts that the text did not reach, `cover` or not.
    pub unreached: Vec<Unreached>,
    /// Experts of all layers that it did reach, but with fewer than [`LEAST_TOKENS`] tokens each.
    #[serde(default)]
    pub few_tokens: usize,
}

/// Measures the importances and writes them to `path`, unless an earlier run of the same work has; so with the hidden
/// states that are wanted besides.
///
/// # Errors
/// If weights cannot be read, or the file not be written, or another file is there; if the user wants to stop. What was
/// finished is taken up by the next run.
pub fn run(
    weights: &Weights,
    model: &Description,
    calibration: &Calibration,
    path: &Path,
    told: &dyn Fn(Step),
) -> Result<Found> {
    let Some(Keeping { milestones, at }) = calibration.keeping else {
        return importances(weights, model, calibration, path, told);
    };
    // States of something else are found before the work.
    at.iter().try_for_each(|&layer| milestones.has(layer).map(drop))?;
    let found = importances(weights, model, calibration, path, told)?;
    // Those of layers that an earlier run had finished.
    let weights = weights.clone().until(calibration.stop);
    let text = (calibration.tokens, calibration.context, calibration.memory);
    let mut at = at.to_vec();
    at.sort_unstable();
    for layer in at {
        if !milestones.has(layer)? {
            let mut pass = Pass::before(layer, &weights, model, text, milestones, &Ignore)?;
            milestones.keep(layer, pass.states())?;
        }
    }
    Ok(found)
}

/// Measures the importances and writes them, as [`run`].
fn importances(
    weights: &Weights,
    model: &Description,
    calibration: &Calibration,
    path: &Path,
    told: &dyn Fn(Step),
) -> Result<Found> {
    Output::check(path)?;
    let identity = identity(calibration);
    let work = hex(&identity.work());
    let now = Seen::of(calibration.checkpoint)?;
    let folder = beside(path, ".calibrating");
    let made = match calibration.force {
        true => Made::Other,
        false => manifest::made(path, &beside(path, ".json"), &work)?,
    };
    let probed = calibration.probing.as_ref().is_none_or(|probing| probing.made);
    match &made {
        Made::Changed => {
            let problem = "was changed: it does not have its manifest's SHA-256".to_owned();
            return Err(Error::Remake { file: path.to_owned(), problem });
        }
        Made::Whole(manifest) => {
            manifest.changed(path, &now).iter().for_each(log::warn);
            if probed {
                if folder.is_dir() {
                    Saved::open(folder, identity, now)?.remove()?;
                }
                return Ok(Found { already: true, ..manifest.found() });
            }
        }
        Made::Other => {}
    }
    let place = ManifestPlace::beside(path, calibration.force)?;
    let mut folder = Saved::open(folder, identity, now.clone())?;
    // A quantization into the same name holds another lock. Each checks the other's after taking its own, so at least
    // one of the two notices.
    if Output::is_busy(path) {
        folder.leave();
        return Err(Error::Busy(path.to_owned()));
    }
    if calibration.restart {
        folder.clear()?;
    } else if let Some(problem) = folder.other_work()? {
        return Err(Error::Resume { journal: folder.path().to_owned(), problem });
    }
    // A run was killed after giving the file its name and before writing its manifest.
    let promised = match manifest::made(path, &folder.file(MANIFEST), &work)? {
        Made::Whole(manifest) if !calibration.force => Some(manifest),
        _ => None,
    };
    if let Some(manifest) = promised.as_ref().filter(|_| probed) {
        place.write(&manifest.bytes())?;
        folder.remove()?;
        return Ok(Found { already: true, ..manifest.found() });
    }
    let is_ours = promised.is_some() || matches!(made, Made::Whole(_));
    if !is_ours && !calibration.force && path.symlink_metadata().is_ok() {
        folder.leave();
        return Err(Error::Exists(path.to_owned()));
    }
    let advice = "if so, --restart begins anew, and without it the importances are of both";
    let changed = folder.seen()?.changed(&now, "this work began", advice);
    changed.iter().for_each(log::warn);
    let target = Target { path, work: &work, place: &place, is_ours };
    let mut finished = 0;
    match layers(weights, model, calibration, &target, &folder, told, &mut finished) {
        Ok(found) => {
            let advice = "if so, the importances are of both, and --force makes them anew";
            let changed = now.changed(&Seen::of(calibration.checkpoint)?, "this run began", advice);
            changed.iter().for_each(log::warn);
            folder.remove()?;
            Ok(found)
        }
        Err(cause) => {
            folder.leave();
            let percent = (finished * 100 / (model.layers.len() + 1)) as u64;
            Err(match finished {
                0 => cause,
                _ => Error::Unfinished { cause: Box::new(cause), percent, output: path.to_owned() },
            })
        }
    }
}

/// The file that the importances are written to.
struct Target<'a> {
    path: &'a Path,
    /// The digest of the work.
    work: &'a str,
    /// Place of the manifest.
    place: &'a ManifestPlace,
    /// Whether a file of this work is there.
    is_ours: bool,
}

fn layers(
    weights: &Weights,
    model: &Description,
    calibration: &Calibration,
    target: &Target,
    folder: &Saved,
    told: &dyn Fn(Step),
    finished: &mut usize,
) -> Result<Found> {
    let Calibration { tokens, context, memory, cover, stop, .. } = *calibration;
    let earlier = folder.layers()?.unwrap_or(0);
    tracing::debug!(earlier, tokens = tokens.len(), context, cover, "calibration");
    *finished = earlier;
    let mut pass = if earlier > 0 {
        let mut pass = Pass::resume(model, tokens.len(), context, memory)?;
        folder.restore(earlier, pass.states())?;
        pass
    } else {
        Pass::new(weights, model, tokens, context, memory)?
    };
    let origin = Origin {
        datasets: calibration.datasets.clone(),
        chunks: (tokens.len() / context) as u32,
        context: context as u32,
    };
    let layers = model.layers.len();
    let mut collector = Collector::new(weights.tensors(), cover, stop);
    let mut prober = Prober::new(calibration.probing.as_ref(), weights, memory);
    told(Step { layers: [earlier, layers], earlier });
    for layer in earlier..layers {
        calibration.keeping.map_or(Ok(()), |keeping| keeping.pass(layer, &mut pass))?;
        prober.layer(&mut pass, layer, &collector)?;
        let mut files = vec![sums(layer)];
        work_trace::step("keep states");
        if prober.keep(&folder.file(&probed(layer)))? {
            files.push(probed(layer));
        }
        keep(&mut collector, &folder.file(&sums(layer)), &origin)?;
        folder.keep(layer + 1, pass.states(), &files)?;
        *finished = layer + 1;
        told(Step { layers: [layer + 1, layers], earlier });
    }
    calibration.keeping.map_or(Ok(()), |keeping| keeping.pass(layers, &mut pass))?;
    prober.watch(&collector, TensorPlan::is_head, |observer| Head::observe(weights, &mut pass, observer))?;
    prober.keep(&folder.file(&probed(layers)))?;
    keep(&mut collector, &folder.file(&sums(layers)), &origin)?;
    let found = join(folder, calibration, weights.tensors(), layers, origin, target)?;
    if let Some(probing) = &calibration.probing {
        let mut all = Probed::default();
        for layer in 0..=layers {
            all.add(prober::read(&folder.file(&probed(layer)))?);
        }
        (probing.done)(all)?;
    }
    Ok(found)
}

/// The file of a layer's sums.
fn sums(layer: usize) -> String {
    format!("layer-{layer}.imatrix")
}

/// The file of what a layer's types cost.
fn probed(layer: usize) -> String {
    format!("layer-{layer}.sensitivity")
}

/// Writes what was collected as an importance matrix of its own.
fn keep(collector: &mut Collector, path: &Path, origin: &Origin) -> Result<()> {
    let sums = collector.take();
    let entries = sums.iter().map(|(name, sums)| {
        // Heads have columns of their own, but every token goes through all: they have one count.
        let matrices = sums.counts.len();
        Entry { name: name.clone(), values: sums.sums.len() / matrices, matrices }
    });
    let writer = Writer::create(path, Layout::Gguf, origin, entries.collect())?;
    for (place, sums) in sums.values().enumerate() {
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        writer.put(place, &narrow(&sums.sums), &narrow(&sums.counts))?;
    }
    writer.finish(true)
}

/// Joins the layers' files, which come in the order of the layers. The file may take the place of one that is there if
/// that is of the same work, or the user says so.
fn join(
    folder: &Saved,
    calibration: &Calibration,
    model: &[TensorPlan],
    layers: usize,
    origin: Origin,
    target: &Target,
) -> Result<Found> {
    // One tensor of each layer's experts, which has inputs only of the tokens that chose them.
    let down = |tensor: &&TensorPlan| {
        tensor.part.slices == Slices::Experts && tensor.part.gated == Some(Gated::Down)
    };
    let of_experts: HashSet<&str> = model.iter().filter(down).map(|tensor| tensor.name.as_str()).collect();
    let parts: Vec<Imatrix> =
        (0..=layers).map(|layer| Imatrix::open(&folder.file(&sums(layer)))).collect::<Result<_>>()?;
    let mut entries = Vec::new();
    let mut sources = Vec::new();
    let mut unreached: Vec<Unreached> = Vec::new();
    let mut few_tokens = 0;
    for (layer, part) in parts.iter().enumerate() {
        for name in part.names() {
            let [sums, counts] = part.sums(name).expect("written as GGUF");
            let (matrices, seen) = (counts.len(), counts.iter().any(|&count| count > 0.0));
            if of_experts.contains(name) {
                // Less than one token of its own: only extra ones, if any.
                let own = |expert: usize| calibration.own_tokens(counts[expert]);
                let experts: Vec<usize> = (0..matrices).filter(|&expert| own(expert) <= 0.0).collect();
                let few = (0..matrices).filter(|&expert| own(expert) < LEAST_TOKENS as f32).count();
                few_tokens += few - experts.len();
                if !experts.is_empty() {
                    unreached.push(Unreached { layer, experts });
                }
            }
            // The older layout cannot express that an expert had no tokens.
            if seen || calibration.layout == Layout::Gguf {
                entries.push(Entry { name: name.to_owned(), values: sums.len() / matrices, matrices });
                sources.push((layer, name.to_owned()));
            }
        }
    }
    let tensors = entries.len();
    let writer = Writer::create(target.path, calibration.layout, &origin, entries)?;
    for (place, (layer, name)) in sources.iter().enumerate() {
        let [sums, counts] = parts[*layer].sums(name).expect("it was there before");
        writer.put(place, &sums, &counts)?;
    }
    let found = Found { already: false, tensors, tokens: calibration.tokens.len(), unreached, few_tokens };
    // The manifest is noted in the folder first, so that a run killed in between recognises the file as its own. It
    // is written beside the file after the file has its name, and so never describes another one.
    let manifest = Manifest::new(target.work, folder.seen()?, writer.sha256()?, found.clone());
    manifest.promise(&folder.file(MANIFEST))?;
    writer.finish(calibration.force || target.is_ours)?;
    moment::pass("joined");
    target.place.write(&manifest.bytes())?;
    moment::pass("told");
    Ok(found)
}

impl Calibration<'_> {
    /// Tokens of a count that chose the expert themselves.
    fn own_tokens(&self, count: f32) -> f32 {
        // n own tokens and as many others as make LEAST_TOKENS: count = n + (LEAST - n) * weight.
        let least = LEAST_TOKENS.min(self.tokens.len()) as f32;
        if self.cover && count < least {
            ((count - least * EXTRA_WEIGHT) / (1.0 - EXTRA_WEIGHT)).round()
        } else {
            count
        }
    }
}

/// Everything that the files depend on.
fn identity(calibration: &Calibration) -> Identity {
    let types: Vec<&str> =
        calibration.probing.iter().flat_map(|probing| probing.types).map(|t| t.name()).collect();
    let types = if types.is_empty() { "none".to_owned() } else { types.join(",") };
    let layout = if calibration.layout == Layout::Dat { "dat" } else { "gguf" };
    let mut identity = calibration.source.clone();
    identity.0.extend(
        Identity::new([
            ("the tool", TOOL.to_owned()),
            ("--context", calibration.context.to_string()),
            ("--cover", calibration.cover.to_string()),
            ("--format", layout.to_owned()),
            ("--sensitivity's types", types),
            ("the texts' names", calibration.datasets.join(", ")),
            ("the texts with --chunks, as tokens", of_tokens(calibration.tokens)),
        ])
        .0,
    );
    identity
}
