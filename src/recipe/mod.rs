//! Stage 3, choose: a type for every tensor, with the reason, and the importances to quantize by.

mod allocate;
mod dead;
mod fallback;
mod format;
mod hull;
pub mod imatrix;
mod importance;
mod layers;
mod overrides;
mod pattern;
mod plan;
mod presets;
mod requantize;
mod resolved;
mod rule;

use quant_kernels::Format;

pub use allocate::allocate;
pub use fallback::fitting;
pub use format::format;
pub use hull::{Candidate, Impossible, curve, range};
pub use imatrix::Imatrix;
pub use importance::{Importances, Measured, Origin};
pub use layers::{Layers, Share};
pub use overrides::Override;
pub use pattern::pattern;
pub use plan::{Fed, Plan, Tradeoff, Wishes};
pub use presets::{
    AUTO as AUTO_PRESET, DEFAULT as DEFAULT_PRESET, DENSE as DENSE_PRESET, file_types, is_of_fixed_types,
    names as preset_names,
};
pub use resolved::resolved;
pub use rule::{Presence, Recipe, Rule, Wanted};

use crate::error::{Error, Result};
use crate::llama_quantize::{Chooser, Facts};
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

impl Choice {
    /// The type of the numbers that a whole matrix is multiplied by, beside its blocks.
    fn of_factors() -> Self {
        let reason = "what the matrix beside it is multiplied by".to_owned();
        Self { format: Format::F32, wanted: None, reason }
    }
}

/// A recipe's decision about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It gets this type.
    Fixed(Choice),
    /// A size decides, between these bounds.
    Open {
        /// No type of fewer bits per weight.
        min: Option<Format>,
        /// The same where what types cost is not measured by gradients.
        min_unmeasured: Option<Format>,
        /// No type of more bits per weight.
        max: Option<Format>,
        /// Why these bounds.
        reason: String,
    },
}

/// What the recipe says of every tensor of the model, in the model's order. Pure: the same model and rules give the
/// same decisions.
///
/// # Errors
/// If no rule matches a tensor, or an override matches none.
pub fn decide(
    model: &Model,
    recipe: &Recipe,
    overrides: &[Override],
    imatrix: Presence,
) -> Result<Vec<Decision>> {
    if recipe.for_experts && model.experts[0] == 0 {
        let problem = format!(
            "is for models with routed experts, and this one has none; llama-quantize's types, as {DENSE_PRESET}, and \
             {AUTO_PRESET} with a size are for it"
        );
        return Err(Error::Recipe { recipe: recipe.name.clone(), problem });
    }
    let facts = Facts::of(&model.metadata);
    let names = || model.tensors.iter().map(|tensor| &*tensor.name);
    // llama-quantize refuses IQ3_XXS without importances, so its rule for that case shows in dry runs alone. What is made of
    // a checkpoint has the types that it always had here.
    let never = recipe.llama.is_some_and(|file_type| file_type.name == "IQ3_XXS") && !model.is_of_gguf();
    let present = imatrix == Presence::Present || never;
    let mut llama = recipe.llama.map(|file_type| Chooser::new(file_type, &facts, present, names()));
    let mut used = vec![0; recipe.rules.len()];
    let mut overridden = vec![false; overrides.len()];
    let mut decisions = Vec::with_capacity(model.tensors.len());
    for tensor in &model.tensors {
        let reason = "llama.cpp computes it in F32";
        decisions.push(if let Some(why) = tensor.kept {
            Decision::Fixed(as_stored(tensor, why.into())?)
        } else if tensor.is_fixed() {
            Decision::Fixed(Choice { format: Format::F32, wanted: None, reason: reason.into() })
        } else if let Some(index) = overrides.iter().position(|o| o.pattern.is_match(&tensor.name)) {
            overridden[index] = true;
            let reason = overrides[index].option();
            match overrides[index].wanted {
                Wanted::Fixed(format) => Decision::Fixed(fitted(tensor, format, reason)),
                Wanted::Source => Decision::Fixed(as_source(tensor, reason)),
                Wanted::Copy | Wanted::Auto => Decision::Fixed(as_stored(tensor, reason)?),
            }
        } else if let Some(llama) = &mut llama {
            let (format, reason) = llama.next(&tensor.name, &tensor.shape, tensor.layer);
            Decision::Fixed(fitted(tensor, format, reason))
        } else {
            let (index, rule) = first_rule(tensor, model, recipe, imatrix, &used)?;
            used[index] += 1;
            let reason = rule.reason.clone();
            match rule.wanted {
                Wanted::Fixed(format) => Decision::Fixed(fitted(tensor, format, reason)),
                Wanted::Source => Decision::Fixed(as_source(tensor, reason)),
                Wanted::Copy => Decision::Fixed(as_stored(tensor, reason)?),
                Wanted::Auto => {
                    let Rule { min, min_unmeasured, max, .. } = *rule;
                    Decision::Open { min, min_unmeasured, max, reason }
                }
            }
        });
    }
    match overridden.iter().position(|used| !used) {
        Some(index) => Err(Error::Argument(format!(
            "{}: matches no tensor whose type can be chosen, or only such as an earlier one takes",
            overrides[index].option()
        ))),
        None => Ok(decisions),
    }
}

/// A type for every tensor of the model, in the model's order. Pure, as [`decide`].
///
/// # Errors
/// As [`decide`], and if the recipe leaves a type open.
pub fn choose(
    model: &Model,
    recipe: &Recipe,
    overrides: &[Override],
    imatrix: Presence,
) -> Result<Vec<Choice>> {
    let decisions = decide(model, recipe, overrides, imatrix)?;
    let choice = |(decision, tensor): (Decision, &TensorPlan)| match decision {
        Decision::Fixed(choice) => Ok(choice),
        Decision::Open { .. } => Err(Error::Recipe {
            recipe: recipe.name.clone(),
            problem: format!("leaves the type of {} to a budget, and none is given", tensor.name),
        }),
    };
    decisions.into_iter().zip(&model.tensors).map(choice).collect()
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

/// The type that the tensor has in the source.
fn as_stored(tensor: &TensorPlan, reason: String) -> Result<Choice> {
    match tensor.stored {
        Some(format) => Ok(Choice { format, wanted: None, reason }),
        None => Err(Error::Argument(format!(
            "{}: \"copy\" is for tensors that a GGUF file holds, or that a checkpoint holds alike in F32, F16 or BF16",
            tensor.name
        ))),
    }
}

/// The type in which nothing is lost of what the source has, as far as GGUF has one.
fn as_source(tensor: &TensorPlan, reason: String) -> Choice {
    match tensor.stored.or(tensor.regrouped) {
        Some(format) => Choice { format, wanted: None, reason },
        None => Choice { format: Format::BF16, wanted: None, reason },
    }
}

fn fitted(tensor: &TensorPlan, wanted: Format, reason: String) -> Choice {
    let format = fitting(wanted, tensor.columns());
    Choice { format, wanted: (format != wanted).then_some(wanted), reason }
}
