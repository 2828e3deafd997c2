//! Stage 3, choose: a type for every tensor, with the reason, and the importances to quantize by.

mod fallback;
pub mod imatrix;
mod importance;
mod layers;
mod overrides;
mod plan;
mod presets;
mod rule;

use quant_kernels::Format;

pub use imatrix::Imatrix;
pub use importance::{Importances, Origin};
pub use layers::{Layers, Share};
pub use overrides::Override;
pub use plan::{Plan, Wishes};
pub use presets::{DEFAULT as DEFAULT_PRESET, names as preset_names};
pub use rule::{Presence, Recipe, Rule};

use crate::error::{Error, Result};
use crate::model::{Model, TensorPlan};

/// The type of one tensor, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type that is written.
    pub format: Format,
    /// The rule's type, where the tensor's rows do not fit its blocks.
    pub wanted: Option<Format>,
    /// Why.
    pub reason: String,
}

/// A type for every tensor of the model, in the model's order. Pure: the same model and rules give the same choice.
///
/// # Errors
/// If no rule matches a tensor, or an override matches none.
pub fn choose(
    model: &Model,
    recipe: &Recipe,
    overrides: &[Override],
    imatrix: Presence,
) -> Result<Vec<Choice>> {
    let mut used = vec![0; recipe.rules.len()];
    let mut overridden = vec![false; overrides.len()];
    let mut choices = Vec::with_capacity(model.tensors.len());
    for tensor in &model.tensors {
        choices.push(if tensor.role.is_f32() {
            Choice { format: Format::F32, wanted: None, reason: "llama.cpp computes it in F32".into() }
        } else if let Some(index) = overrides.iter().position(|o| o.pattern.is_match(&tensor.name)) {
            overridden[index] = true;
            fitted(tensor, overrides[index].format, format!("--override {}", overrides[index]))
        } else {
            let (index, rule) = first_rule(tensor, model, recipe, imatrix, &used)?;
            used[index] += 1;
            fitted(tensor, rule.format, rule.reason.clone())
        });
    }
    match overridden.iter().position(|used| !used) {
        Some(index) => Err(Error::Argument(format!(
            "--override {}: matches no tensor whose type can be chosen, or only such as an earlier one takes",
            overrides[index]
        ))),
        None => Ok(choices),
    }
}

fn first_rule<'a>(
    tensor: &TensorPlan,
    model: &Model,
    recipe: &'a Recipe,
    imatrix: Presence,
    used: &[u32],
) -> Result<(usize, &'a Rule)> {
    let open = |(index, rule): &(usize, &Rule)| {
        rule.matches(tensor, model, imatrix)
            && rule.first.is_none_or(|share| used[*index] < share.floor(model.layers))
    };
    recipe.rules.iter().enumerate().find(open).ok_or_else(|| Error::Recipe {
        recipe: recipe.name.clone(),
        problem: format!(
            "no rule matches {} (role {}); end with one that matches all",
            tensor.name, tensor.role
        ),
    })
}

fn fitted(tensor: &TensorPlan, wanted: Format, reason: String) -> Choice {
    let format = fallback::fitting(wanted, tensor.columns());
    Choice { format, wanted: (format != wanted).then_some(wanted), reason }
}
