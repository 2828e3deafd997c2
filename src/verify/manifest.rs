//! The manifest that quantize writes beside a file: what each tensor's bytes were when they were made, and of what.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::Problem;
use crate::error::{Error, Result};
use crate::gguf::{Entry, Part, Parts, beside};
use crate::plain;
use crate::whole;

/// A larger one is refused; R1's has a megabyte.
const MAX_FILE: u64 = 64 << 20;

/// The manifests beside the files of a model.
#[derive(Debug)]
pub struct Manifests {
    /// In the order of the files; None where there is none.
    of: Vec<Option<Manifest>>,
}

/// The part of a manifest that can be checked against its file.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    /// SHA-256 of the whole file.
    pub sha256: String,
    tensors: Vec<Listed>,
    /// How and of what the file was made.
    #[serde(flatten)]
    pub made: Made,
    #[serde(skip)]
    places: HashMap<String, usize>,
}

/// The fields that all files of a split have in common.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Made {
    /// Program and version.
    pub tool: Value,
    /// Name and overrides.
    pub recipe: Value,
    /// Those that change the model.
    pub options: Value,
    /// The checkpoint's fingerprint.
    pub source: Source,
    /// The importance matrix's.
    pub imatrix: Value,
    /// SHA-256 of the text for error feedback.
    pub feedback: Value,
}

/// The checkpoint. Its shards may be divided otherwise on another machine.
#[derive(Debug, Default, Deserialize, PartialEq)]
pub struct Source {
    /// Of settings, list of tensors and samples of the weights.
    #[serde(default)]
    sha256: Value,
}

/// One tensor of a manifest.
#[derive(Debug, Deserialize)]
pub struct Listed {
    name: String,
    #[serde(rename = "type")]
    format: String,
    bytes: u64,
    sha256: String,
}

impl Manifests {
    /// Reads `OUT.gguf.json` beside every file that has one.
    ///
    /// # Errors
    /// If one is there and no manifest.
    pub fn beside(parts: &Parts) -> Result<Self> {
        let read = |part: &Part| match Manifest::read(&Manifest::path(&part.path)) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        Ok(Self { of: parts.files.iter().map(read).collect::<Result<_>>()? })
    }

    /// The manifest of a file, by its place.
    pub fn of_file(&self, file: usize) -> Option<&Manifest> {
        self.of[file].as_ref()
    }

    /// The first that there is.
    pub fn first(&self) -> Option<&Manifest> {
        self.of.iter().flatten().next()
    }

    /// The files that have none.
    pub fn missing(&self, parts: &Parts) -> Vec<PathBuf> {
        let files = parts.files.iter().zip(&self.of).filter(|(_, manifest)| manifest.is_none());
        files.map(|(part, _)| part.path.clone()).collect()
    }

    /// Tensors that are on one side only, and files that were not made alike.
    pub fn problems(&self, parts: &Parts) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut first: Option<(&Part, &Manifest)> = None;
        for (part, manifest) in parts.files.iter().zip(&self.of) {
            let Some(manifest) = manifest else { continue };
            problems.extend(manifest.one_sided(part));
            match first {
                None => first = Some((part, manifest)),
                Some((before, of)) => problems.extend(of.made.differing(&manifest.made).map(|what| {
                    let [before, this] = [before, part].map(|part| plain::path(&part.path));
                    let problem =
                        format!("{this}: was made with another {what} than {before}, of the same split");
                    Problem { tensor: None, problem }
                })),
            }
        }
        problems
    }
}

impl Made {
    /// The first field in which files of a split differ and should not.
    fn differing(&self, other: &Self) -> Option<&'static str> {
        let pairs = [
            ("version of the program", &self.tool, &other.tool),
            ("recipe", &self.recipe, &other.recipe),
            ("choice of options", &self.options, &other.options),
            ("checkpoint", &self.source.sha256, &other.source.sha256),
            ("importance matrix", &self.imatrix, &other.imatrix),
            ("text for error feedback", &self.feedback, &other.feedback),
        ];
        pairs.into_iter().find(|(_, ours, others)| ours != others).map(|(what, ..)| what)
    }
}

impl Manifest {
    /// Where the manifest of a file is.
    pub fn path(file: &Path) -> PathBuf {
        beside(file, ".json")
    }

    fn read(path: &Path) -> Result<Self> {
        let fault = |problem: String| Error::Gguf { file: path.display().to_string(), problem };
        let text = whole::read(path, MAX_FILE, fault)?;
        let mut manifest: Self =
            serde_json::from_slice(&text).map_err(|e| fault(format!("is no manifest of quantpress: {e}")))?;
        for (place, listed) in manifest.tensors.iter().enumerate() {
            if manifest.places.insert(listed.name.clone(), place).is_some() {
                return Err(fault(format!("lists tensor \"{}\" twice", listed.name)));
            }
        }
        Ok(manifest)
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Listed> {
        self.places.get(name).map(|&place| &self.tensors[place])
    }

    fn one_sided(&self, part: &Part) -> Vec<Problem> {
        let there: HashSet<&str> = part.contents.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let unlisted = part.contents.tensors.iter().filter(|tensor| !self.places.contains_key(&tensor.name));
        let lost = self.tensors.iter().filter(|listed| !there.contains(listed.name.as_str()));
        let unlisted = unlisted.map(|tensor| Problem::of(&tensor.name, "is not in the manifest"));
        unlisted
            .chain(lost.map(|listed| Problem::of(&listed.name, "is in the manifest, but not in the file")))
            .collect()
    }
}

impl Listed {
    /// A message about what differs from the file's tensor.
    pub fn problem(&self, entry: &Entry, sha256: &str) -> Option<String> {
        let format = entry.format.name();
        if (self.format.as_str(), self.bytes) != (format, entry.bytes) {
            let Self { format: listed, bytes, .. } = self;
            return Some(format!(
                "is {format} in {} bytes; the manifest has {listed} in {bytes}",
                entry.bytes
            ));
        }
        (self.sha256 != sha256).then(|| format!("has the SHA-256 {sha256}; the manifest has {}", self.sha256))
    }
}
