//! A folder with gradients at the hidden states behind each half of each layer, for the first chunks of a text: how the
//! model's answers change with what the half adds.
//!
//! ```text
//! states before each layer -> head: tokens drawn from the answers -> back through the last layer -> ... -> the first
//!        kept                         gradient-L-ffn.f32 kept      gradient-L-attention.f32
//! ```
//!
//! Feedback goes on from them into the matrices of a half (`covariance/outputs.rs` says what for).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dense_kernels::View;
use serde::{Deserialize, Serialize};

use super::back::Behind;
use super::head::Head;
use super::milestones::{Milestones, file_name};
use super::pass::Pass;
use super::states::States;
use crate::checkpoint::Fingerprint;
use crate::disk;
use crate::error::{Error, Result};
use crate::model::layer::{Gradients, Ignore, Inputs, Observer, no_way_back};
use crate::model::{Description, EMBEDDING, HEAD, Half, Weights};
use crate::moment;
use crate::whole;

/// The most bytes that what is said of it has.
const MAX_NOTE: u64 = 1 << 20;

/// Files of mean squares, until all are together.
const HEAD_SQUARES: &str = "head.squares";
const EMBEDDING_SQUARES: &str = "embedding.squares";

/// Rows that are read at a time.
const BATCH: usize = 1024;

/// The folder, and what its gradients must be of.
#[derive(Clone, Debug)]
pub struct GradientFolder {
    files: Milestones,
    path: PathBuf,
    /// Tokens of the first chunks of the text.
    tokens: Vec<u32>,
    context: usize,
}

#[derive(Serialize, Deserialize)]
struct Note {
    tokens: usize,
    /// The mean square of gradients at an output of a tensor, by its name.
    outputs: Squares,
}

/// Mean squares of gradients by the names of tensors.
pub type Squares = BTreeMap<String, f64>;

/// How far the way there and back has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// Layers that were gone through, in both directions.
    pub done: usize,
    /// All, in both directions.
    pub layers: usize,
}

impl GradientFolder {
    /// The file in the folder that is written when all gradients are there.
    pub const NOTE: &str = "gradients.json";

    /// The gradients of these tokens, chunks of `context` after one another.
    pub fn new(
        folder: &Path,
        source: &Fingerprint,
        model: &Description,
        tokens: &[u32],
        context: usize,
    ) -> Self {
        let files = Milestones::new(folder, source, model, tokens, context).of_option("--gradients");
        Self { files, path: folder.to_owned(), tokens: tokens.to_vec(), context }
    }

    /// The gradients in a folder that are of the first of these tokens.
    ///
    /// # Errors
    /// If there are none that are finished, or not of these.
    pub fn open(
        folder: &Path,
        source: &Fingerprint,
        model: &Description,
        tokens: &[u32],
        context: usize,
    ) -> Result<Self> {
        let path = folder.join(Self::NOTE);
        let fault = |problem: &str| Error::Argument(format!("--gradients: {} {problem}", path.display()));
        let Note { tokens: count, .. } = serde_json::from_str(&Self::note(folder)?)
            .map_err(|_| fault("is no note of quantpress's about gradients"))?;
        let Some(first) = tokens.get(..count).filter(|_| count.is_multiple_of(context) && count > 0) else {
            let problem = format!(
                "is of {count} tokens, which are not the first chunks of the {} tokens of this text",
                tokens.len()
            );
            return Err(fault(&problem));
        };
        let found = Self::new(folder, source, model, first, context);
        for layer in 0..model.layers.len() {
            for half in Half::ALL {
                if !found.files.has_file(&name(layer, half))? {
                    return Err(fault(
                        "is of gradients that are not whole; the same calibrate goes on with them",
                    ));
                }
            }
        }
        Ok(found)
    }

    /// What is said about a folder, when its gradients are whole.
    ///
    /// # Errors
    /// If nothing is.
    pub fn note(folder: &Path) -> Result<String> {
        let path = folder.join(Self::NOTE);
        let of_io = |problem: String| Error::io("read", &path, std::io::Error::other(problem));
        let bytes = whole::read(&path, MAX_NOTE, of_io)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The files that there will be, for the check that nothing is overwritten.
    pub fn names(layers: usize) -> impl Iterator<Item = String> {
        (0..layers).flat_map(|layer| Half::ALL.map(|half| name(layer, half)))
    }

    /// Gradients at the states behind a half.
    ///
    /// # Errors
    /// If they are not there as they were written.
    pub fn behind(&self, layer: usize, half: Half, columns: usize, memory: u64) -> Result<States> {
        let mut states = States::new(self.tokens.len(), columns, memory)?;
        self.files.restore_file(&name(layer, half), &mut states)?;
        Ok(states)
    }

    /// Goes through the model and back, as far as an earlier run has not.
    ///
    /// # Errors
    /// If weights cannot be read or the folder not be written, and that there is no way back through a layer.
    pub fn make(
        &self,
        weights: &Weights,
        model: &Description,
        memory: u64,
        told: &dyn Fn(Turned),
    ) -> Result<()> {
        let layers = model.layers.len();
        if !model.layers.iter().all(|layer| layer.attention.goes_back()) {
            return Err(no_way_back());
        }
        let tell = |done| told(Turned { done, layers: 2 * layers });
        let kept = |layer, half| self.files.has_file(&name(layer, half));
        let mut last = 0;
        while last < layers && !kept(last, Half::Ffn)? {
            last += 1;
        }
        let last = match last < layers {
            true => last,
            false => {
                let nearest = self.nearest(layers)?;
                let mut pass = self.before(nearest, weights, model, memory)?;
                for layer in nearest..layers {
                    if layer > 0 {
                        self.files.keep(layer, pass.states())?;
                        moment::pass("gradients");
                    }
                    pass.layer(weights, layer, &Ignore)?;
                    tell(layer + 1);
                }
                let (gradients, square) = Head::gradients(weights, &mut pass, memory / 4)?;
                let head = if weights.find(HEAD).is_some() { HEAD } else { EMBEDDING };
                self.keep_squares(HEAD_SQUARES, &Squares::from([(head.to_owned(), square)]))?;
                self.files.keep_file(&name(layers - 1, Half::Ffn), &gradients)?;
                layers - 1
            }
        };
        for layer in (0..=last).rev() {
            let mut pass = self.before(layer, weights, model, memory)?;
            if !kept(layer, Half::Attention)? {
                pass.half(Half::Attention, weights, layer, &Ignore, true)?;
                let before = self.half_back(&mut pass, weights, layer, Half::Ffn, memory)?;
                self.files.keep_file(&name(layer, Half::Attention), &before)?;
                pass = self.before(layer, weights, model, memory)?;
            }
            let before = self.half_back(&mut pass, weights, layer, Half::Attention, memory)?;
            match layer.checked_sub(1) {
                Some(earlier) => self.files.keep_file(&name(earlier, Half::Ffn), &before)?,
                None => {
                    let mut square = Mean::default();
                    for start in (0..before.rows()).step_by(BATCH) {
                        square.add(before.read(start..before.rows().min(start + BATCH))?.view());
                    }
                    let embedding = Squares::from([(EMBEDDING.to_owned(), square.mean())]);
                    self.keep_squares(EMBEDDING_SQUARES, &embedding)?;
                }
            }
            drop(pass);
            moment::pass("gradients");
            self.files.remove_file(&file_name(layer))?;
            tell(2 * layers - layer);
        }
        // What a run that was killed has not removed.
        (1..layers).try_for_each(|layer| self.files.remove_file(&file_name(layer)))?;
        let of_halves = (0..layers).flat_map(|layer| Half::ALL.map(|half| squares(layer, half)));
        let parts: Vec<String> =
            [EMBEDDING_SQUARES.to_owned(), HEAD_SQUARES.to_owned()].into_iter().chain(of_halves).collect();
        let mut outputs = Squares::new();
        for part in &parts {
            let path = self.path.join(part);
            let of_io = |problem: String| Error::io("read", &path, std::io::Error::other(problem));
            let text = whole::read_text(&path, MAX_NOTE, of_io)?;
            let squares: Squares = serde_json::from_str(&text)
                .map_err(|e| Error::Argument(format!("--gradients: {}: {e}", path.display())))?;
            // A head that is the embedding as well counts as both.
            squares.into_iter().for_each(|(name, square)| *outputs.entry(name).or_default() += square);
        }
        self.write(Self::NOTE, &Note { tokens: self.tokens.len(), outputs })?;
        parts.iter().try_for_each(|part| {
            let path = self.path.join(part);
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))
        })
    }

    /// The mean squares of gradients at the outputs of tensors, when all is there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn outputs(&self) -> Result<Squares> {
        let path = self.path.join(Self::NOTE);
        let fault = |e| Error::Argument(format!("--gradients: {}: {e}", path.display()));
        let note: Note = serde_json::from_str(&Self::note(&self.path)?).map_err(fault)?;
        Ok(note.outputs)
    }

    fn keep_squares(&self, name: &str, squares: &Squares) -> Result<()> {
        fs::create_dir_all(&self.path).map_err(|e| Error::io("create", &self.path, e))?;
        self.write(name, squares)
    }

    fn write(&self, name: &str, what: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(what).expect("names and numbers are JSON");
        let path = self.path.join(name);
        disk::write_whole(&path, &json).map_err(|e| Error::io("write", &path, e))
    }

    /// Whether all is there.
    ///
    /// # Errors
    /// If there are gradients of something else.
    pub fn is_made(&self, layers: usize) -> Result<bool> {
        for name in Self::names(layers) {
            if !self.files.has_file(&name)? {
                return Ok(false);
            }
        }
        Ok(fs::exists(self.path.join(Self::NOTE)).unwrap_or(false))
    }

    /// The last layer before which states are kept; 0, whose states are the embeddings, if there are none.
    fn nearest(&self, layers: usize) -> Result<usize> {
        self.files.last(layers - 1).map(|layer| layer.unwrap_or(0))
    }

    /// The states before a layer.
    fn before(&self, layer: usize, weights: &Weights, model: &Description, memory: u64) -> Result<Pass> {
        let text = (&self.tokens[..], self.context, memory);
        Pass::before(layer, weights, model, text, &self.files, &Ignore)
    }

    /// From the gradients behind a half, which are kept, to those before it.
    fn half_back(
        &self,
        pass: &mut Pass,
        weights: &Weights,
        layer: usize,
        half: Half,
        memory: u64,
    ) -> Result<States> {
        let gradients = self.behind(layer, half, pass.states().columns(), memory / 4)?;
        let mut before = gradients.copy(memory / 4)?;
        let behind = Behind::with(&gradients, &mut before);
        let squarer = Squarer::default();
        pass.half_and_back(half, weights, layer, &squarer, false, Some(behind))?;
        self.keep_squares(&squares(layer, half), &squarer.squares(weights))?;
        Ok(before)
    }
}

/// The mean of the squares of numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, rows: View<'_>) {
        for row in 0..rows.rows() {
            self.sum += rows.row(row).iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
        }
        self.count += rows.rows() as u64 * rows.columns() as u64;
    }

    fn mean(self) -> f64 {
        if self.count > 0 { self.sum / self.count as f64 } else { 0.0 }
    }
}

/// An observer that takes the mean squares of gradients. Each slice has a sum of its own, since slices come in any order.
#[derive(Default)]
struct Squarer(Mutex<BTreeMap<(usize, usize), Mean>>);

impl Squarer {
    fn squares(self, weights: &Weights) -> Squares {
        let mut of_tensors: BTreeMap<usize, Mean> = BTreeMap::new();
        for ((tensor, _), of_slice) in self.0.into_inner().expect("no thread panics while it adds") {
            let all = of_tensors.entry(tensor).or_default();
            all.sum += of_slice.sum;
            all.count += of_slice.count;
        }
        let named = |(tensor, mean): (usize, Mean)| (weights.tensors()[tensor].name.clone(), mean.mean());
        of_tensors.into_iter().map(named).collect()
    }
}

impl Observer for Squarer {
    fn see(&self, _input: Inputs<'_>) -> Result<()> {
        Ok(())
    }

    fn wants_mixed(&self) -> bool {
        false
    }

    fn see_gradients(&self, gradients: Gradients<'_>) -> Result<()> {
        let Gradients { tensors, slice, rows } = gradients;
        let mut of_these = Mean::default();
        of_these.add(rows);
        let mut list = self.0.lock().expect("no thread panics while it adds");
        for &tensor in tensors {
            let sum = list.entry((tensor, slice)).or_default();
            sum.sum += of_these.sum;
            sum.count += of_these.count;
        }
        Ok(())
    }
}

/// The name of the mean squares of a half, until all are together.
fn squares(layer: usize, half: Half) -> String {
    format!("{}.squares", name(layer, half))
}

/// The name of the gradients behind a half.
fn name(layer: usize, half: Half) -> String {
    let half = match half {
        Half::Attention => "attention",
        Half::Ffn => "ffn",
    };
    format!("gradient-{layer}-{half}.f32")
}
