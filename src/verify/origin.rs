//! How a file was made, by its metadata or, for a split without its first file, by the manifests.

use super::Manifests;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::gguf::{Parts, Value};
use crate::model::{Model, Options, side};
use crate::recipe::Imatrix;

/// The facts of a file that a comparison of its weights needs.
#[derive(Debug)]
pub struct Origin {
    keep_mtp: bool,
    mtp_only: bool,
    name: Option<String>,
    pre: Option<String>,
    /// GGUF's architecture.
    arch: Option<String>,
    /// SHA-256 of the importance matrix.
    imatrix: Option<String>,
    pub feedback: bool,
    /// Whether this program made it.
    ours: bool,
}

impl Origin {
    /// The origin of these files.
    ///
    /// # Errors
    /// If the first file of a split is not here, and no other has a manifest.
    pub fn of(parts: &Parts, manifests: &Manifests) -> Result<Self> {
        if parts.has_first() {
            return Ok(Self::of_metadata(parts));
        }
        let Some(manifest) = manifests.first() else {
            return Err(Error::Argument(
                "--against needs the first file of the split or a manifest, which say how the others were made".into(),
            ));
        };
        let made = &manifest.made;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        Ok(Self {
            keep_mtp: made.options["keep_mtp"] == true,
            mtp_only: made.options["mtp_only"] == true,
            name: text(&made.options["name"]),
            pre: text(&made.options["pre"]),
            arch: text(&made.options["arch"]),
            imatrix: text(&made.imatrix["sha256"]),
            feedback: !made.feedback.is_null(),
            ours: true,
        })
    }

    fn of_metadata(parts: &Parts) -> Self {
        let metadata = parts.metadata();
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
        let names = parts.tensors().map(|(_, tensor)| tensor.name.as_str());
        let kept = metadata.iter().find(|(key, _)| key.ends_with(".nextn_predict_layers"));
        Self {
            keep_mtp: kept.is_some_and(|(_, layers)| layers.as_u64() > Some(0)),
            // Of a split that is not all here the tensors do not show it.
            mtp_only: metadata.get(side::KEY) == Some(&Value::Bool(true))
                || (parts.absent.is_empty() && side::is_one(metadata, names)),
            name: text("general.name"),
            pre: text("tokenizer.ggml.pre"),
            arch: text("general.architecture"),
            imatrix: text("quantpress.imatrix.sha256"),
            feedback: metadata.get("quantpress.feedback.sha256").is_some(),
            ours: metadata.get("quantpress.version").is_some(),
        }
    }

    /// Whether the importances that the encoder used are known: the given matrix, or those from the norms if there
    /// was none. With error feedback it used covariances, which are not known.
    ///
    /// # Errors
    /// If the matrix is not that of the file.
    pub fn weighted(&self, imatrix: Option<&Imatrix>) -> Result<bool> {
        let plain = !self.feedback;
        let Some(imatrix) = imatrix else { return Ok(plain && self.imatrix.is_none()) };
        let given = imatrix.fingerprint();
        match &self.imatrix {
            Some(made_with) if *made_with == given => Ok(plain),
            Some(made_with) => Err(Error::Argument(format!(
                "--imatrix has the SHA-256 {given}, but the file was made with {made_with}"
            ))),
            // Made by another program, whose files do not say.
            None if !self.ours => Ok(true),
            None => Err(Error::Argument("--imatrix: the file was made without an importance matrix".into())),
        }
    }

    /// The advice at the end of a problem, where the importances that might explain errors are not given.
    pub fn hint(&self, imatrix: Option<&Imatrix>) -> &'static str {
        match (&self.imatrix, imatrix) {
            (Some(_), None) => "; it was made with an importance matrix, and --imatrix with it tells more",
            _ => "",
        }
    }

    /// The model that the checkpoint becomes, with the choices that the file shows.
    ///
    /// # Errors
    /// Those of [`Model::plan`].
    pub fn model(&self, checkpoint: &Checkpoint) -> Result<Model> {
        let arch = self.arch.clone().filter(|arch| Model::can_be(checkpoint, arch));
        let options = |pre| Options {
            keep_mtp: self.keep_mtp,
            mtp_only: self.mtp_only,
            name: self.name.clone(),
            pre,
            arch: arch.clone(),
            allow_requantize: true,
        };
        match Model::plan(checkpoint, &options(None)) {
            // Perhaps only the splitting rules, which --pre named when the file was made.
            Err(Error::Unsupported(_)) => Model::plan(checkpoint, &options(self.pre.clone())),
            other => other,
        }
    }
}
