//! From errors of tensors to expected damage of the model, comparable across tensors. Pure; docs/damage.md derives
//! the formulas.

use super::answers::Answers;
use super::estimated::Estimated;
use super::seen::Seen;
use super::{Measured, Table};
use crate::model::{Half, Model, TensorPlan};

/// The factors from relative errors of tensors to expected damage.
#[derive(Debug)]
pub struct Coefficients {
    /// In the model's order; 0 for tensors that the table does not have.
    pub of_tensors: Vec<f64>,
    /// Whether they are measured, by gradients, and not estimated.
    pub are_measured: bool,
}

/// The factors for a model, as well as the table allows.
pub fn coefficients(model: &Model, table: &Table) -> Coefficients {
    let entries: Vec<Entry> =
        model.tensors.iter().filter_map(|tensor| Some((tensor, table.get(&tensor.name)?))).collect();
    let answers = Answers::new(model.description.as_ref(), &entries);
    let (seen, estimated) = (Seen::new(table, &entries), Estimated::new(&entries));
    let mut entries = entries.iter().peekable();
    let coefficient = |tensor: &TensorPlan| {
        let Some((_, entry)) = entries.next_if(|(known, _)| known.name == tensor.name) else { return 0.0 };
        match (&answers, &seen) {
            (Some(answers), _) => answers.coefficient(tensor, entry),
            (None, Some(seen)) => seen.coefficient(tensor, entry),
            (None, None) => estimated.coefficient(tensor, entry),
        }
    };
    Coefficients {
        of_tensors: model.tensors.iter().map(coefficient).collect(),
        are_measured: answers.is_some(),
    }
}

/// A tensor and what was measured of it.
pub type Entry<'a> = (&'a TensorPlan, &'a Measured);

/// A layer and a half of it: what is added to the residual stream at once.
pub type Block = (u32, Half);

/// The block that a tensor is in; None for embedding, head and what is outside of blocks.
pub fn block(tensor: &TensorPlan) -> Option<Block> {
    Some((tensor.layer?, tensor.part.half?))
}
