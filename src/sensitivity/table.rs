//! What was measured, as a file that a later plan can use instead of measuring again.

use std::collections::BTreeMap;
use std::path::Path;

use quant_kernels::Format;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Fingerprint;
use crate::disk;
use crate::error::{Error, Result};

/// The version of the file.
const VERSION: u32 = 1;

/// A larger file is a mistake; R1's has 300 KB.
const MAX_FILE: u64 = 64 << 20;

/// The relative errors of a model's tensors in several types.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Of this file's form.
    pub version: u32,
    /// SHA-256 of the checkpoint's list of tensors.
    pub tensors_sha256: String,
    /// SHA-256 of samples of its weights.
    pub sample_sha256: String,
    /// SHA-256 of the importance matrix, if there was one.
    pub imatrix_sha256: Option<String>,
    /// Bytes of weights that were read.
    pub sampled_bytes: u64,
    /// In the model's order.
    pub tensors: Vec<Measured>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Name in the GGUF file.
    pub name: String,
    /// Mean squared norm of what the tensor gives for a token, with all columns of the input as independent; of routed
    /// experts, their share in the sum that the layer gives. None without measured importances.
    pub energy: Option<f64>,
    /// How many times the energy the output really has, as far as the importances of what follows tell.
    pub alignment: Option<f64>,
    /// Error of that output in each type, squared and relative to the energy.
    pub errors: BTreeMap<String, f64>,
}

impl Table {
    /// A table of this checkpoint, with its numbers as a reader of the file would find them.
    pub fn new(
        source: &Fingerprint,
        imatrix: Option<String>,
        sampled_bytes: u64,
        tensors: Vec<Measured>,
    ) -> Self {
        let table = Self {
            version: VERSION,
            tensors_sha256: source.tensors.clone(),
            sample_sha256: source.sample.clone(),
            imatrix_sha256: imatrix,
            sampled_bytes,
            tensors,
        };
        // The reader of JSON may differ from the writer in a number's last bit, and the choice must not depend on it.
        serde_json::from_str(&table.text()).expect("what was written is read")
    }

    /// Reads a table; None if the file is not there.
    ///
    /// # Errors
    /// If it cannot be read, is no such table, or is of another checkpoint or importance matrix.
    pub fn read(path: &Path, source: &Fingerprint, imatrix: Option<&str>) -> Result<Option<Self>> {
        let fault = |problem: String| Error::Argument(format!("{}: {problem}", path.display()));
        match path.metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path, e)),
            Ok(file) if file.len() > MAX_FILE => {
                return Err(fault(format!("has {} bytes; expected a table of sensitivities", file.len())));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let table: Self =
            serde_json::from_str(&text).map_err(|e| fault(format!("is no table of sensitivities: {e}")))?;
        if table.version != VERSION {
            return Err(fault(format!("is of version {}; expected {VERSION}", table.version)));
        }
        if (&table.tensors_sha256, &table.sample_sha256) != (&source.tensors, &source.sample) {
            return Err(fault(
                "was measured on another checkpoint; name a new file to measure this one".into(),
            ));
        }
        if table.imatrix_sha256.as_deref() != imatrix {
            let say = |sha256: Option<&str>| {
                sha256.map_or("no importance matrix".to_owned(), |sha256| {
                    format!("the importance matrix {}", &sha256[..sha256.len().min(12)])
                })
            };
            return Err(fault(format!(
                "was measured with {}, not with {}; name a new file to measure again",
                say(table.imatrix_sha256.as_deref()),
                say(imatrix)
            )));
        }
        for tensor in &table.tensors {
            let numbers = tensor.errors.values().chain(&tensor.energy).chain(&tensor.alignment);
            if let Some(wrong) = numbers.into_iter().find(|x| !(x.is_finite() && **x >= 0.0)) {
                return Err(fault(format!("tensor \"{}\" has {wrong}; expected 0 or more", tensor.name)));
            }
        }
        Ok(Some(table))
    }

    /// Writes the table, whole or not at all.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn save(&self, path: &Path) -> Result<()> {
        disk::write_whole(path, self.text().as_bytes()).map_err(|e| Error::io("write", path, e))
    }

    fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data is JSON") + "\n"
    }

    /// The entry of a tensor.
    pub fn get(&self, name: &str) -> Option<&Measured> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

impl Measured {
    /// The relative error in a type, if it was measured.
    pub fn error(&self, format: Format) -> Option<f64> {
        self.errors.get(format.name()).copied()
    }
}
