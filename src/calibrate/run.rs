//! The calibration: layer by layer, each one's sums kept as soon as it is finished.

use std::fmt;
use std::path::{Path, PathBuf};

use quant_kernels::Format;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::collector::Collector;
use super::prober::{self, Prober};
use crate::error::Result;
use crate::forward::{Head, Input, Observer, Pass, Saved, Shape, Weights};
use crate::gguf::beside;
use crate::model::Model;
use crate::recipe::imatrix::{Entry, Imatrix, Layout, Origin, Writer};
use crate::sensitivity::Probed;

/// Tokens whose final states are looked at together.
const BATCH: usize = 2048;

/// What is to be calibrated.
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
    /// Stands for the checkpoint, so that another one's unfinished work is not taken up.
    pub checkpoint: String,
    /// Replace a finished file that is there.
    pub force: bool,
    /// Whether the cost of types is measured besides.
    pub probing: Option<Probing<'a>>,
}

/// What the cost of types is measured for.
#[derive(Clone, Copy)]
pub struct Probing<'a> {
    /// The tensors.
    pub model: &'a Model,
    /// The types.
    pub types: &'a [Format],
    /// Takes what was found, when the importance matrix is written.
    pub done: &'a (dyn Fn(Probed) -> Result<()> + Sync),
}

impl fmt::Debug for Probing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probing").field("types", &self.types).finish_non_exhaustive()
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Layers that are finished, and all.
    pub layers: [usize; 2],
    /// Of those, finished by an earlier run.
    pub earlier: usize,
}

/// Experts of a layer that no token of the text chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreached {
    /// The layer.
    pub layer: usize,
    /// Their numbers.
    pub experts: Vec<usize>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Tensors with importances.
    pub tensors: usize,
    /// Tokens that went through.
    pub tokens: usize,
    /// Experts that the text did not reach, `cover` or not.
    pub unreached: Vec<Unreached>,
}

/// Measures the importances and writes them to `path`.
///
/// # Errors
/// If weights cannot be read, or the file not be written. What was finished is taken up by the next run.
pub fn run(
    weights: &dyn Weights,
    shape: &Shape,
    calibration: &Calibration,
    path: &Path,
    told: &dyn Fn(Step),
) -> Result<Found> {
    let Calibration { tokens, context, memory, cover, .. } = *calibration;
    let folder = Saved::new(beside(path, ".calibrating"), fingerprint(calibration));
    folder.create()?;
    let earlier = folder.layers()?;
    let mut pass = if earlier > 0 {
        let mut pass = Pass::resume(shape.clone(), tokens.len(), context, memory)?;
        folder.restore(earlier, pass.states())?;
        pass
    } else {
        Pass::new(weights, shape.clone(), tokens, context, memory)?
    };
    let origin = Origin {
        datasets: calibration.datasets.clone(),
        chunks: (tokens.len() / context) as u32,
        context: context as u32,
    };
    let mut collector = Collector::new(shape.experts, shape.heads, cover);
    let mut prober = Prober::new(calibration.probing.as_ref(), weights, memory);
    told(Step { layers: [earlier, shape.layers], earlier });
    for layer in earlier..shape.layers {
        prober.layer(&mut pass, layer, &mut collector)?;
        prober.keep(&probed(&folder, layer))?;
        keep(&mut collector, &sums(&folder, layer), &origin)?;
        folder.keep(layer + 1, pass.states())?;
        told(Step { layers: [layer + 1, shape.layers], earlier });
    }
    prober.watch(&mut collector, |observer| head(weights, &mut pass, observer))?;
    prober.keep(&probed(&folder, shape.layers))?;
    keep(&mut collector, &sums(&folder, shape.layers), &origin)?;
    let found = join(&folder, calibration, shape, origin, path)?;
    if let Some(probing) = &calibration.probing {
        let mut all = Probed::default();
        for layer in 0..=shape.layers {
            all.add(prober::read(&probed(&folder, layer))?);
        }
        (probing.done)(all)?;
    }
    folder.remove()?;
    Ok(found)
}

/// The file of a layer's sums.
fn sums(folder: &Saved, layer: usize) -> PathBuf {
    folder.file(&format!("layer-{layer}.imatrix"))
}

/// The file of what a layer's types cost.
fn probed(folder: &Saved, layer: usize) -> PathBuf {
    folder.file(&format!("layer-{layer}.sensitivity"))
}

/// The inputs of the head.
fn head(weights: &dyn Weights, pass: &mut Pass, observer: &mut dyn Observer) -> Result<()> {
    let head = Head::read(weights, pass.shape())?;
    if weights.extent("output.weight").is_none() {
        return Ok(());
    }
    let layer = pass.shape().layers;
    let states = pass.states();
    for start in (0..states.rows()).step_by(BATCH) {
        let mut inputs = states.read(start..states.rows().min(start + BATCH))?;
        head.normalise(&mut inputs);
        observer.see(Input { layer, tensors: &["output"], slice: 0, inputs: inputs.view() })?;
    }
    Ok(())
}

/// Writes what was collected as an importance matrix of its own.
fn keep(collector: &mut Collector, path: &Path, origin: &Origin) -> Result<()> {
    let sums = collector.take();
    let entries = sums.iter().map(|(name, sums)| {
        // Heads have columns of their own, but every token goes through all: they have one count.
        let matrices = if name.ends_with("_exps.weight") { sums.counts.len() } else { 1 };
        Entry { name: name.clone(), values: sums.sums.len() / matrices, matrices }
    });
    let writer = Writer::create(path, Layout::Gguf, origin, entries.collect())?;
    for (place, (name, sums)) in sums.iter().enumerate() {
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let counts = if name.ends_with("_exps.weight") { &sums.counts[..] } else { &sums.counts[..1] };
        writer.put(place, &narrow(&sums.sums), &narrow(counts))?;
    }
    writer.finish()
}

/// Joins the layers' files, which come in the order of the layers.
fn join(
    folder: &Saved,
    calibration: &Calibration,
    shape: &Shape,
    origin: Origin,
    path: &Path,
) -> Result<Found> {
    let parts: Vec<Imatrix> =
        (0..=shape.layers).map(|layer| Imatrix::open(&sums(folder, layer))).collect::<Result<_>>()?;
    let mut entries = Vec::new();
    let mut sources = Vec::new();
    let mut unreached: Vec<Unreached> = Vec::new();
    for (layer, part) in parts.iter().enumerate() {
        for name in part.names() {
            let [sums, counts] = part.sums(name).expect("written as GGUF");
            let (matrices, seen) = (counts.len(), counts.iter().any(|&count| count > 0.0));
            if name.ends_with("ffn_down_exps.weight") {
                // Less than one token of its own: only extra ones, if any.
                let own = |count: f32| calibration.own_tokens(count) > 0.0;
                let experts: Vec<usize> = (0..matrices).filter(|&e| !own(counts[e])).collect();
                if !experts.is_empty() {
                    unreached.push(Unreached { layer, experts });
                }
            }
            // The older layout has no way to say that nothing was seen.
            if seen || calibration.layout == Layout::Gguf {
                entries.push(Entry { name: name.to_owned(), values: sums.len() / matrices, matrices });
                sources.push((layer, name.to_owned()));
            }
        }
    }
    let tensors = entries.len();
    let writer = Writer::create(path, calibration.layout, &origin, entries)?;
    for (place, (layer, name)) in sources.iter().enumerate() {
        let [sums, counts] = parts[*layer].sums(name).expect("it was there before");
        writer.put(place, &sums, &counts)?;
    }
    writer.finish()?;
    Ok(Found { tensors, tokens: calibration.tokens.len(), unreached })
}

impl Calibration<'_> {
    /// Tokens of a count that chose the expert themselves.
    fn own_tokens(&self, count: f32) -> f32 {
        use super::collector::{EXTRA_WEIGHT, LEAST_TOKENS};
        // n own tokens and as many others as make LEAST_TOKENS: count = n + (LEAST - n) * weight.
        let least = LEAST_TOKENS.min(self.tokens.len()) as f32;
        if self.cover && count < least {
            ((count - least * EXTRA_WEIGHT) / (1.0 - EXTRA_WEIGHT)).round()
        } else {
            count
        }
    }
}

/// Everything that the sums depend on.
fn fingerprint(calibration: &Calibration) -> String {
    let mut digest = Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(&calibration.checkpoint);
    digest.update(calibration.context.to_le_bytes());
    digest.update([u8::from(calibration.cover)]);
    for format in calibration.probing.iter().flat_map(|probing| probing.types) {
        digest.update(format.name());
    }
    calibration.tokens.iter().for_each(|token| digest.update(token.to_le_bytes()));
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
