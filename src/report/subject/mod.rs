//! What a report shows: a plan or a finished file, as its JSON says, checked so that drawing cannot fail.

mod bound;
mod certificate;
mod read;
mod run;
mod tensor;

pub use certificate::read_certificate;
pub use read::read;
pub use run::{Run, read_run};
pub use tensor::Tensor;

use std::path::PathBuf;

use serde::Deserialize;

use super::{Estimate, Fallback};
use crate::evaluate::Certificate;
use crate::machine::Fit;

/// A plan or a finished file.
#[derive(Debug, Default)]
pub struct Subject {
    /// Whether it is a finished file, so that errors were measured.
    pub made: bool,
    /// Name of the file; for a plan the model's, or the architecture's.
    pub name: String,
    /// The files that the manifests are of, beside them.
    pub files: Vec<PathBuf>,
    /// GGUF architecture.
    pub architecture: String,
    /// Name of the recipe.
    pub recipe: String,
    /// Overrides of the recipe.
    pub overrides: Vec<String>,
    /// SHA-256 of source, importance matrix and file, by what they are of.
    pub digests: Vec<(&'static str, String)>,
    /// The files of a split that it is of, from 1, and how many there are; None if the file is not split.
    pub parts: Option<(Vec<u32>, u32)>,
    /// Bytes of all files.
    pub bytes: u64,
    /// In file order; not empty.
    pub tensors: Vec<Tensor>,
    /// Types that do not fit.
    pub fallbacks: Vec<Fallback>,
    /// Warnings.
    pub warnings: Vec<String>,
    /// Expected damage at other sizes, smallest first.
    pub tradeoff: Vec<Point>,
    /// The one that was chosen.
    pub chosen: Option<Point>,
    /// How a plan's file runs on the machine that was asked about.
    pub fit: Option<Fit>,
    /// How long a plan's work would take.
    pub estimate: Option<Estimate>,
    /// How long the work took.
    pub run: Option<Run>,
    /// What `evaluate` found.
    pub certificate: Option<Certificate>,
}

/// A size and the damage that is expected at it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct Point {
    /// Bytes of the whole file.
    pub bytes: u64,
    /// Expected damage, in the allocation's own measure; less is better.
    pub damage: f64,
}

impl Subject {
    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Bits per weight over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        let weights: u64 = self.tensors.iter().map(|tensor| tensor.weights).sum();
        self.tensor_bytes() as f64 * 8.0 / weights as f64
    }

    /// Number of layers.
    pub fn layers(&self) -> u32 {
        self.tensors.iter().filter_map(|tensor| tensor.layer).max().map_or(0, |last| last + 1)
    }
}
