//! Warnings about a plan or a file: types of few bits without importances, experts that no token reached.

use quant_kernels::Format;

use crate::model::Role;
use crate::recipe::Origin;

/// Types of fewer bits are poor without importances; llama-quantize refuses most of them.
const LOW_BITS: f64 = 3.1;

/// The facts of one tensor that warnings depend on.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The tensor's type.
    pub format: Format,
    /// The tensor's role.
    pub role: Role,
    /// Where its importances come from.
    pub origin: Origin,
}

/// The warnings for these tensors.
pub fn warnings(has_imatrix: bool, tensors: impl Iterator<Item = Look>) -> Vec<String> {
    let mut warnings = Vec::new();
    let (mut blind, mut unseen, mut without) = ([0usize; 2], [0usize; 2], 0usize);
    for Look { format, role, origin } in tensors {
        let low = format.bits_per_weight() < LOW_BITS;
        let measured = matches!(origin, Origin::Imatrix { .. });
        let exempt = format.is_float() || matches!(role, Role::Embedding | Role::Output);
        without += usize::from(!measured && !exempt);
        match origin {
            Origin::Imatrix { unseen: 0 } => {}
            Origin::Imatrix { unseen: slices } => unseen = [unseen[0] + 1, unseen[1].saturating_add(slices)],
            Origin::Norm if low => blind[0] += 1,
            Origin::Even if low && !role.is_f32() => blind[1] += 1,
            _ => {}
        }
    }
    if has_imatrix && without > 0 {
        warnings.push(format!(
            "{without} tensors have no data in the importance matrix, or none of their experts has"
        ));
    }
    if unseen[0] > 0 {
        warnings.push(format!(
            "{} experts in {} tensors have no data in the importance matrix: the mean of their layer stands in",
            unseen[1], unseen[0]
        ));
    }
    if blind[0] + blind[1] > 0 {
        warnings.push(format!(
            "{} tensors below {LOW_BITS} bits have no measured importances: {} take them from the norm before, {} \
             weigh all columns alike; files of these types come out clearly better with --imatrix \
             (docs/measurements.md has the figures)",
            blind[0] + blind[1],
            blind[0],
            blind[1]
        ));
    }
    warnings
}
