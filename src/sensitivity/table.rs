//! The table of measured errors, as a file that a later plan can use instead of measuring again.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use quant_kernels::Format;
use serde::{Deserialize, Serialize};

use super::Probed;
use crate::checkpoint::Fingerprint;
use crate::disk;
use crate::error::{Error, Result};
use crate::model::Half;
use crate::whole;

/// The version of the file.
const VERSION: u32 = 2;

/// A larger file is a mistake; R1's has 300 KB.
const MAX_FILE: u64 = 64 << 20;

/// The relative errors of a model's tensors in several types.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Version of the file's schema.
    pub version: u32,
    /// SHA-256 of the checkpoint's list of tensors.
    pub tensors_sha256: String,
    /// SHA-256 of samples of its weights.
    pub sample_sha256: String,
    /// SHA-256 of the importance matrix, if there was one.
    pub imatrix_sha256: Option<String>,
    /// Bytes of weights that were read.
    pub sampled_bytes: u64,
    /// What blocks add to the residual stream; empty if no text was run.
    pub blocks: Vec<Added>,
    /// In the model's order.
    pub tensors: Vec<Measured>,
}

/// What one block of a layer added to the residual stream of a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Added {
    /// Number of the layer, from 0.
    pub layer: u32,
    /// Whether it is the FFN; else it is attention.
    pub ffn: bool,
    /// Energy of what the block adds to the residual stream, relative to the stream's after it: the mean over tokens.
    pub share: f64,
}

impl Added {
    /// The layer, and the half of it.
    pub fn block(&self) -> (u32, Half) {
        (self.layer, if self.ffn { Half::Ffn } else { Half::Attention })
    }
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
    /// The energy of the real output over `energy`: from the covariance of the inputs, or estimated from the
    /// importances of the matrix that follows.
    pub alignment: Option<f64>,
    /// Mean square of the gradients at one output, of the surprise at a token that is drawn from the model's answers; None
    /// if none were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<f64>,
    /// Error of that output in each type, squared and relative to the energy.
    pub errors: BTreeMap<String, f64>,
    /// The same for rows encoded with feedback; empty if no text was run.
    pub with_feedback: BTreeMap<String, f64>,
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
            blocks: Vec::new(),
            tensors,
        };
        table.as_read()
    }

    /// With its numbers as a reader of the file finds them: the reader of JSON may differ from the writer in a
    /// number's last bit, and the choice must not depend on it.
    fn as_read(&self) -> Self {
        serde_json::from_str(&self.text()).expect("what was written is read")
    }

    /// The table with what was measured on a text.
    #[must_use]
    pub fn with(mut self, probed: Probed) -> Self {
        for tensor in &mut self.tensors {
            let Some(sums) = probed.tensors.get(&tensor.name).filter(|sums| sums.independent > 0.0) else {
                continue;
            };
            let relative = |(format, error): (&String, &f64)| (format.clone(), error / sums.independent);
            tensor.alignment = Some(sums.real / sums.independent);
            tensor.with_feedback = sums.errors.iter().map(relative).collect();
        }
        self.blocks = probed.blocks;
        self.as_read()
    }

    /// The table with mean squares of gradients.
    #[must_use]
    pub fn with_gradients(mut self, squares: &BTreeMap<String, f64>) -> Self {
        for tensor in &mut self.tensors {
            tensor.gradient = squares.get(&tensor.name).copied();
        }
        self.as_read()
    }

    /// Reads a table; None if the file is not there.
    ///
    /// # Errors
    /// If it cannot be read, is no such table, or is of another checkpoint or importance matrix.
    pub fn read(path: &Path, source: &Fingerprint, imatrix: Option<&str>) -> Result<Option<Self>> {
        let fault = |problem: String| Error::Argument(format!("{}: {problem}", path.display()));
        let text = match whole::read_text(path, MAX_FILE, fault) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            read => read?,
        };
        let table: Self =
            serde_json::from_str(&text).map_err(|e| fault(format!("is no table of sensitivities: {e}")))?;
        if table.version != VERSION {
            let problem = format!("is of version {}; expected {VERSION}; name a new file", table.version);
            return Err(fault(problem));
        }
        let possible = |x: &f64| x.is_finite() && *x >= 0.0;
        if let Some(Added { layer, share, .. }) = table.blocks.iter().find(|block| !possible(&block.share)) {
            return Err(fault(format!("a block of layer {layer} has the share {share}; expected 0 or more")));
        }
        for tensor in &table.tensors {
            let errors = tensor.errors.values().chain(tensor.with_feedback.values());
            let numbers = errors.chain(&tensor.energy).chain(&tensor.alignment).chain(&tensor.gradient);
            if let Some(wrong) = numbers.into_iter().find(|x| !possible(x)) {
                return Err(fault(format!("tensor \"{}\" has {wrong}; expected 0 or more", tensor.name)));
            }
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
        Ok(Some(table))
    }

    /// Writes the table, whole or not at all, where no other one is, or in its place if it may `replace` one.
    ///
    /// # Errors
    /// If another one has come there, or the system cannot.
    pub fn save(&self, path: &Path, replace: bool) -> Result<()> {
        let text = self.text();
        let written = if replace { disk::write_whole } else { disk::write_new }(path, text.as_bytes());
        written.or_else(|e| match e.kind() {
            ErrorKind::AlreadyExists if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) => {
                Ok(())
            }
            ErrorKind::AlreadyExists => Err(Error::Exists(path.to_owned())),
            _ => Err(Error::io("write", path, e)),
        })
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
    /// The relative error in a type, if it was measured; with feedback, if that was measured too.
    pub fn error(&self, format: Format, feedback: bool) -> Option<f64> {
        let fed = self.with_feedback.get(format.name()).filter(|_| feedback);
        fed.or_else(|| self.errors.get(format.name())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_has_come_there_meanwhile_is_not_lost() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let path = folder.path().join("table.json");
        let table = |sample: &str| Table {
            version: VERSION,
            tensors_sha256: String::new(),
            sample_sha256: sample.to_owned(),
            imatrix_sha256: None,
            sampled_bytes: 0,
            blocks: Vec::new(),
            tensors: Vec::new(),
        };
        table("one").save(&path, false).expect("written");
        assert!(matches!(table("two").save(&path, false), Err(Error::Exists(_))));
        table("one").save(&path, false).expect("the same");
        assert!(std::fs::read_to_string(&path).expect("read").contains("one"));
        table("two").save(&path, true).expect("by force");
        assert!(std::fs::read_to_string(&path).expect("read").contains("two"));
    }
}
