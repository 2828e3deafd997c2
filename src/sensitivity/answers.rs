//! Expected damage from what `calibrate --gradients` measured: how the model's answers change with each output.

use super::Measured;
use super::damage::Entry;
use crate::model::{Description, Role, TensorPlan};

/// Expected damage as a divergence, to second order.
///
/// Errors of outputs that are independent of one another, each with the variance v, cost half of the sum of v g^2 over the
/// outputs, g being the gradients of the surprise at a token that is drawn from the model's answer (half of the diagonal of
/// Fisher's information). A relative error r of a tensor is an energy r E of all its outputs together.
pub struct Answers {
    /// What the energy of an expert's output has as a factor, and the energies of gate and up as well, although the weight that
    /// the router gives an expert comes after them.
    of_router: f64,
}

impl Answers {
    /// For the tensors of a table; None if gradients, or energies, were not measured of all.
    pub fn new(model: Option<&Description>, entries: &[Entry<'_>]) -> Option<Self> {
        let is_known = |(_, entry): &Entry<'_>| entry.gradient.is_some() && entry.energy.is_some();
        let router = model.and_then(|model| model.experts.as_ref()).map(|experts| experts.router);
        let of_router =
            router.map_or(1.0, |router| (f64::from(router.scale) / f64::from(router.used)).powi(2));
        (!entries.is_empty() && entries.iter().all(is_known)).then_some(Self { of_router })
    }

    /// The factor from a tensor's relative error to its expected damage.
    pub fn coefficient(&self, tensor: &TensorPlan, entry: &Measured) -> f64 {
        let is_inner = tensor.role == Role::Experts && !tensor.part.writes_stream;
        let energy = entry.energy.unwrap_or(0.0) / if is_inner { self.of_router } else { 1.0 };
        entry.gradient.unwrap_or(0.0) * energy / 2.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Half, Input, Part};

    #[test]
    fn damage_is_half_of_gradient_squared_times_energy() {
        let tensor = |name: &str, role: Role, writes_stream: bool| {
            let part = Part { half: Some(Half::Ffn), input: Input::Stream, writes_stream, ..Part::default() };
            TensorPlan::of_file(format!("blk.0.{name}"), Some(0), role, part, vec![8, 8])
        };
        let entry = |name: &str, gradient| Measured {
            name: format!("blk.0.{name}"),
            energy: Some(3.0),
            alignment: Some(5.0),
            gradient,
            errors: BTreeMap::new(),
            with_feedback: BTreeMap::new(),
        };
        let tensors = [
            tensor("ffn_up_exps.weight", Role::Experts, false),
            tensor("ffn_down_exps.weight", Role::Experts, true),
            tensor("ffn_up_shexp.weight", Role::SharedExperts, false),
        ];
        let known: Vec<Measured> = tensors.iter().map(|tensor| entry(&tensor.name, Some(0.5))).collect();
        let entries: Vec<Entry> = tensors.iter().zip(&known).collect();
        // Two experts a token, whose outputs are multiplied by 2.5 all together.
        let answers = Answers { of_router: 1.25f64.powi(2) };
        let found: Vec<f64> =
            entries.iter().map(|(tensor, entry)| answers.coefficient(tensor, entry)).collect();
        assert_eq!(found, [0.75 / 1.5625, 0.75, 0.75]);
        assert!(Answers::new(None, &entries).is_some());
        let unknown = entry("ffn_up_shexp.weight", None);
        assert!(Answers::new(None, &[entries[0], (&tensors[2], &unknown)]).is_none(), "one is not known");
    }
}
