//! One tensor of a plan or a manifest, with the bounds that keep a page drawable.

use quant_kernels::Format;
use serde::Deserialize;

use crate::model::{Role, layer_and_class};
use crate::recipe::Origin;

/// More layers, experts or weights than any model has; what is beyond is no manifest of ours.
const MAX_LAYERS: u32 = 1024;
const MAX_EXPERTS: usize = 4096;
const MAX_WEIGHTS: u64 = 1 << 50;

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name in the GGUF file.
    pub name: String,
    /// Layer, None outside of them.
    pub layer: Option<u32>,
    /// The name without layer.
    pub class: String,
    /// What it does; older manifests do not say.
    pub role: Option<Role>,
    /// Type of its weights.
    pub format: Format,
    /// GGUF's shape, row length first.
    pub shape: Vec<u64>,
    /// Number of weights, at least 1.
    pub weights: u64,
    /// Bytes of data.
    pub bytes: u64,
    /// Why this type.
    pub reason: String,
    /// Squared error relative to the squared weights, if it was measured.
    pub error: Option<f64>,
    /// The same weighted by importances.
    pub weighted_error: Option<f64>,
    /// The relative error of each expert.
    pub expert_errors: Vec<f64>,
    /// The type that did not fit.
    pub wanted: Option<Format>,
    /// Where its importances come from, if the file says.
    pub origin: Option<Origin>,
}

/// As a plan or a manifest lists it.
#[derive(Debug, Deserialize)]
pub struct Listed {
    name: String,
    role: Option<Role>,
    #[serde(rename = "type")]
    format: String,
    shape: Vec<u64>,
    bytes: u64,
    #[serde(default)]
    reason: String,
    relative_error: Option<f64>,
    weighted_error: Option<f64>,
    #[serde(default)]
    expert_errors: Vec<f64>,
    wanted: Option<String>,
    importances: Option<String>,
    #[serde(default)]
    unseen_experts: usize,
}

impl Tensor {
    /// Bits per weight.
    pub fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights as f64
    }

    /// Whether its type was chosen: llama.cpp computes norms and routers in F32.
    pub fn is_chosen(&self) -> bool {
        match self.role {
            Some(role) => !role.is_f32(),
            None => self.format != Format::F32,
        }
    }
}

impl TryFrom<Listed> for Tensor {
    /// What is wrong with it.
    type Error = String;

    fn try_from(listed: Listed) -> Result<Self, String> {
        let fault = |problem: String| format!("tensor {:?}: {problem}", listed.name);
        let type_of =
            |name: &str| Format::of_name(name).ok_or_else(|| fault(format!("has the unknown type {name:?}")));
        let weights = listed.shape.iter().try_fold(1u64, |weights, ne| weights.checked_mul(*ne));
        let weights =
            weights.filter(|weights| (1..=MAX_WEIGHTS).contains(weights) && !listed.shape.is_empty());
        let weights = weights.ok_or_else(|| fault(format!("has the impossible shape {:?}", listed.shape)))?;
        let format = type_of(&listed.format)?;
        let expected = format
            .fits(listed.shape[0])
            .then(|| format.row_bytes(listed.shape[0]) * (weights / listed.shape[0]));
        if expected != Some(listed.bytes) {
            let Listed { shape, bytes, .. } = &listed;
            return Err(fault(format!("{shape:?} in {format} cannot have {bytes} bytes")));
        }
        let (layer, class) = layer_and_class(&listed.name);
        if layer.is_some_and(|layer| layer >= MAX_LAYERS) {
            return Err(fault(format!("is of no layer below {MAX_LAYERS}")));
        }
        if listed.expert_errors.len() > MAX_EXPERTS {
            let found = listed.expert_errors.len();
            return Err(fault(format!("has errors of {found} experts; expected up to {MAX_EXPERTS}")));
        }
        let errors = listed.expert_errors.iter().chain(&listed.relative_error).chain(&listed.weighted_error);
        if let Some(error) = errors.copied().find(|error| !(error.is_finite() && *error >= 0.0)) {
            return Err(fault(format!("has the impossible error {error}")));
        }
        let origin = match listed.importances.as_deref() {
            Some("imatrix") => Some(Origin::Imatrix { unseen: listed.unseen_experts }),
            Some("norm") => Some(Origin::Norm),
            Some("even") => Some(Origin::Even),
            Some(other) => {
                return Err(fault(format!("has importances {other:?}; expected imatrix, norm or even")));
            }
            None => None,
        };
        Ok(Self {
            layer,
            class: class.to_owned(),
            role: listed.role,
            format,
            weights,
            bytes: listed.bytes,
            error: listed.relative_error,
            weighted_error: listed.weighted_error,
            wanted: listed.wanted.as_deref().map(type_of).transpose()?,
            origin,
            name: listed.name,
            shape: listed.shape,
            reason: listed.reason,
            expert_errors: listed.expert_errors,
        })
    }
}
