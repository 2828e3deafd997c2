//! Quantizing tensors that are quantized already: an error, unless the user accepts the loss. Pure.

use quant_kernels::Format;

use super::Choice;
use crate::error::{Error, Result, Warning};
use crate::model::{Model, TensorPlan};

/// The tensors that are in fewer bits than Q8_0 and would get another type: refused, or if allowed a warning.
///
/// # Errors
/// Names the first of them.
pub fn check(model: &Model, choices: &[Choice], allowed: bool) -> Result<Option<Warning>> {
    let coarse =
        |format: &Format| !format.is_float() && format.bits_per_weight() < Format::Q8_0.bits_per_weight();
    let changed: Vec<(&TensorPlan, Format, Format)> = model
        .tensors
        .iter()
        .zip(choices)
        .filter_map(|(tensor, choice)| {
            let stored = tensor.stored.filter(coarse).filter(|stored| *stored != choice.format)?;
            Some((tensor, stored, choice.format))
        })
        .collect();
    let Some((first, stored, wanted)) = changed.first() else { return Ok(None) };
    let count = match changed.len() {
        1 => "it is the only such tensor".to_owned(),
        count => format!("and so are {} more tensors", count - 1),
    };
    let problem = format!(
        "{} is in {stored} already and would become {wanted}, {count}: the errors of both types add up. From the original, \
         or a file in BF16, F16 or Q8_0, the result would be better",
        first.name
    );
    match allowed {
        true => Ok(Some(Warning::new(Error::Argument(problem)))),
        false => Err(Error::Requantize(problem)),
    }
}
