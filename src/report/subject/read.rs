//! Reads the JSON of `plan --json` and the manifests of `quantize`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::tensor::{Listed, Tensor};
use super::{Point, Subject};
use crate::error::{Error, Result};
use crate::machine::Fit;
use crate::recipe::Fed;
use crate::report::warnings::{Look, warnings};
use crate::report::{Estimate, Fallback, fallbacks};
use crate::whole;

/// Larger files are refused; R1's manifest has a megabyte.
const MAX_FILE: u64 = 64 << 20;

/// No file is larger: an exabyte.
const MAX_BYTES: u64 = 1 << 60;

/// More tensors or points than a page can show.
const MAX_TENSORS: usize = 65_536;
const MAX_POINTS: usize = 65_536;

/// Names of tensors without layers: rows of a chart.
const MAX_CLASSES: usize = 256;

/// Which of the two it is: a plan counts its tensors and lists them elsewhere.
#[derive(Deserialize)]
struct Kind {
    tensor_list: Option<IgnoredAny>,
    sha256: Option<IgnoredAny>,
}

/// What `plan --json` prints, as far as it is shown.
#[derive(Deserialize)]
struct PlanFile {
    name: Option<String>,
    architecture: String,
    recipe: String,
    file_bytes: u64,
    tensor_list: Vec<Listed>,
    #[serde(default)]
    fallbacks: Vec<Fallback>,
    #[serde(default)]
    warnings: Vec<String>,
    fit: Option<Fit>,
    estimate: Option<Estimate>,
    #[serde(default)]
    tradeoff: Vec<Point>,
    chosen: Option<Point>,
}

/// A manifest, as far as it is shown.
#[derive(Deserialize)]
struct ManifestFile {
    file: String,
    bytes: u64,
    sha256: String,
    split: Option<Numbered>,
    architecture: String,
    recipe: Recipe,
    source: Digest,
    imatrix: Option<Digest>,
    #[serde(default)]
    feedback: Option<Digest>,
    tensors: Vec<Listed>,
    #[serde(default)]
    tradeoff: Vec<Point>,
    chosen: Option<Point>,
}

#[derive(Deserialize)]
struct Numbered {
    number: u32,
    of: u32,
}

#[derive(Deserialize, PartialEq)]
struct Recipe {
    name: String,
    #[serde(default)]
    overrides: Vec<String>,
}

#[derive(Deserialize, PartialEq)]
struct Digest {
    sha256: String,
}

/// A plan, or the manifests of a file or of all files of a split.
///
/// # Errors
/// If a file cannot be read, is neither, or says what cannot be; if several are not of one model.
pub fn read(files: &[PathBuf]) -> Result<Subject> {
    let mut subject: Option<Subject> = None;
    let mut described = Vec::new();
    for file in files {
        let (next, fault) = (one(file)?, |problem: String| Error::Gguf { file: place(file), problem });
        if next.made {
            // By the manifest's name as well: both may have been renamed.
            described.extend([file.with_file_name(&next.name), file.with_extension("")]);
        }
        match &mut subject {
            None => subject = Some(next),
            Some(first) => first.add(next).map_err(fault)?,
        }
    }
    let Some(mut subject) = subject else {
        return Err(Error::Argument("a report needs a plan or a manifest".into()));
    };
    subject.files = described;
    let fault = |problem: String| Error::Gguf { file: place(&files[0]), problem };
    subject.check().map_err(fault)?;
    if subject.made {
        subject.look_at_tensors();
    }
    Ok(subject)
}

fn one(path: &Path) -> Result<Subject> {
    let fault = |problem: String| Error::Gguf { file: place(path), problem };
    let text = whole::read(path, MAX_FILE, fault)?;
    let kind: Kind = serde_json::from_slice(&text)
        .map_err(|e| fault(format!("is neither a plan's JSON nor a manifest: {e}")))?;
    match kind {
        Kind { tensor_list: Some(_), .. } => serde_json::from_slice::<PlanFile>(&text)
            .map_err(|e| fault(format!("is no JSON of quantpress plan: {e}")))
            .and_then(|plan| plan.subject().map_err(fault)),
        Kind { sha256: Some(_), .. } => serde_json::from_slice::<ManifestFile>(&text)
            .map_err(|e| fault(format!("is no manifest of quantpress: {e}")))
            .and_then(|manifest| manifest.subject().map_err(fault)),
        _ => Err(fault(
            "is neither a plan's JSON (it has no tensor_list) nor a manifest (it has no sha256)".into(),
        )),
    }
}

impl PlanFile {
    fn subject(self) -> Result<Subject, String> {
        Ok(Subject {
            made: false,
            name: self.name.unwrap_or_else(|| self.architecture.clone()),
            architecture: self.architecture,
            recipe: self.recipe,
            bytes: self.file_bytes,
            tensors: tensors(self.tensor_list)?,
            fallbacks: self.fallbacks,
            warnings: self.warnings,
            tradeoff: self.tradeoff,
            chosen: self.chosen,
            fit: self.fit,
            estimate: self.estimate,
            ..Subject::default()
        })
    }
}

impl ManifestFile {
    fn subject(self) -> Result<Subject, String> {
        let mut digests = vec![("file", self.sha256), ("source", self.source.sha256)];
        digests.extend(self.imatrix.map(|imatrix| ("importance matrix", imatrix.sha256)));
        let text = self.feedback.filter(|feedback| feedback.sha256 != Fed::NO_TEXT);
        digests.extend(text.map(|feedback| ("text of the error feedback", feedback.sha256)));
        Ok(Subject {
            made: true,
            name: self.file,
            architecture: self.architecture,
            recipe: self.recipe.name,
            overrides: self.recipe.overrides,
            digests,
            parts: self.split.map(|split| (vec![split.number], split.of)),
            bytes: self.bytes,
            tensors: tensors(self.tensors)?,
            tradeoff: self.tradeoff,
            chosen: self.chosen,
            ..Subject::default()
        })
    }
}

fn tensors(listed: Vec<Listed>) -> Result<Vec<Tensor>, String> {
    listed.into_iter().map(Tensor::try_from).collect()
}

impl Subject {
    /// Adds another file of the same split.
    fn add(&mut self, next: Self) -> Result<(), String> {
        let of = |subject: &Self| {
            let digests: Vec<_> = subject.digests.iter().filter(|(of, _)| *of != "file").cloned().collect();
            (subject.made, subject.recipe.clone(), subject.overrides.clone(), digests)
        };
        if !self.made || of(self) != of(&next) {
            return Err("is not of the same split as the file before".into());
        }
        self.bytes = self.bytes.checked_add(next.bytes).ok_or("has too many bytes")?;
        self.tensors.extend(next.tensors);
        let place = self.digests.iter().take_while(|(of, _)| *of == "file").count();
        self.digests.insert(place, next.digests[0].clone());
        if let (Some((numbers, _)), Some((more, _))) = (&mut self.parts, next.parts) {
            numbers.extend(more);
        }
        Ok(())
    }

    /// Whether a page can be drawn of it.
    fn check(&mut self) -> Result<(), String> {
        match self.tensors.len() {
            0 => return Err("lists no tensors".into()),
            1..=MAX_TENSORS => {}
            found => return Err(format!("lists {found} tensors; expected up to {MAX_TENSORS}")),
        }
        let mut names: Vec<&str> = self.tensors.iter().map(|tensor| &*tensor.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("lists tensor {:?} twice", twice[0]));
        }
        let mut classes: Vec<&str> = self.tensors.iter().map(|tensor| &*tensor.class).collect();
        classes.sort_unstable();
        classes.dedup();
        if classes.len() > MAX_CLASSES {
            return Err(format!("lists {} kinds of tensors; expected up to {MAX_CLASSES}", classes.len()));
        }
        let data = self.tensors.iter().try_fold(0u64, |sum, tensor| sum.checked_add(tensor.bytes));
        if self.bytes > MAX_BYTES {
            return Err(format!("is of {} bytes; expected up to {MAX_BYTES}", self.bytes));
        }
        if data.is_none_or(|data| data > self.bytes) {
            return Err(format!("lists tensors larger than the file's {} bytes", self.bytes));
        }
        let possible = |point: &Point| point.damage.is_finite() && point.damage >= 0.0 && point.bytes > 0;
        if self.tradeoff.len() > MAX_POINTS || !self.tradeoff.iter().chain(&self.chosen).all(possible) {
            return Err("has an impossible trade-off curve".into());
        }
        self.tradeoff.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(b.damage.total_cmp(&a.damage)));
        Ok(())
    }

    /// A manifest's warnings are in its tensors.
    fn look_at_tensors(&mut self) {
        let look = |tensor: &Tensor| {
            Some(Look { format: tensor.format, role: tensor.role?, origin: tensor.origin? })
        };
        let has_imatrix = self.digests.iter().any(|(of, _)| *of == "importance matrix");
        self.warnings = warnings(has_imatrix, self.tensors.iter().filter_map(look));
        let replaced = self
            .tensors
            .iter()
            .filter_map(|tensor| Some((&*tensor.class, tensor.shape[0], tensor.wanted?, tensor.format)));
        self.fallbacks = fallbacks(replaced);
    }
}

fn place(path: &Path) -> String {
    path.display().to_string()
}
