//! The manifest that quantize writes beside a file: what each tensor's bytes were when they were made.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Problem;
use crate::error::{Error, Result};
use crate::gguf::{Entry, Parts};

/// A larger one is refused; R1's has a megabyte.
const MAX_FILE: u64 = 64 << 20;

/// The part of a manifest that can be checked against the file.
#[derive(Debug, Default)]
pub struct Manifest {
    /// Whole-file SHA-256 by file name.
    files: HashMap<String, String>,
    tensors: HashMap<String, Listed>,
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

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    sha256: Option<String>,
    tensors: Vec<Listed>,
}

impl Manifest {
    /// The manifests beside the files of a model: `OUT.gguf.json`; None where there are none.
    ///
    /// # Errors
    /// If one is there and no manifest.
    pub fn beside(parts: &Parts) -> Result<Option<Self>> {
        let mut found = None;
        for part in &parts.files {
            let path = Self::path(&part.path);
            if let Ok(metadata) = path.metadata() {
                let manifest: &mut Self = found.get_or_insert_default();
                manifest.add(&part.path, &path, metadata.len())?;
            }
        }
        Ok(found)
    }

    /// Where the manifest of a file is.
    pub fn path(file: &Path) -> PathBuf {
        let mut path = file.as_os_str().to_owned();
        path.push(".json");
        path.into()
    }

    fn add(&mut self, file: &Path, path: &Path, bytes: u64) -> Result<()> {
        let fault = |problem: String| Error::Gguf { file: path.display().to_string(), problem };
        if bytes > MAX_FILE {
            return Err(fault(format!("has {bytes} bytes; expected a manifest of up to {MAX_FILE}")));
        }
        let text = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let manifest: File =
            serde_json::from_slice(&text).map_err(|e| fault(format!("is no manifest of quantpress: {e}")))?;
        if let Some(sha256) = manifest.sha256 {
            self.files.insert(name(file), sha256);
        }
        self.tensors.extend(manifest.tensors.into_iter().map(|listed| (listed.name.clone(), listed)));
        Ok(())
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Listed> {
        self.tensors.get(name)
    }

    /// SHA-256 of a whole file.
    pub fn file(&self, path: &Path) -> Option<&str> {
        self.files.get(&name(path)).map(String::as_str)
    }

    /// Tensors that are on one side only.
    pub fn absent(&self, parts: &Parts) -> Vec<Problem> {
        let unlisted = parts.tensors().filter(|(_, entry)| !self.tensors.contains_key(&entry.name));
        let mut problems: Vec<Problem> =
            unlisted.map(|(_, entry)| Problem::of(&entry.name, "is not in the manifest")).collect();
        let there: std::collections::HashSet<&str> =
            parts.tensors().map(|(_, entry)| entry.name.as_str()).collect();
        let mut lost: Vec<&String> =
            self.tensors.keys().filter(|name| !there.contains(name.as_str())).collect();
        lost.sort();
        problems.extend(
            lost.into_iter().map(|name| Problem::of(name, "is in the manifest, but not in the file")),
        );
        problems
    }
}

impl Listed {
    /// What differs from the file's tensor.
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

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
