//! How much text error feedback wants.

use crate::model::{Model, Role};

/// A text should have so many tokens for each column of the widest input. A covariance of n columns has n (n + 1) / 2 numbers,
/// and with fewer tokens than columns it says nothing of most directions: errors are then fed into them for nothing. With an
/// importance matrix a text of 2/3 of a token for each column brings a third of what one of 10 does; without one the judge's
/// ud-iq1_s is a little worse with 2,048 tokens than with none (docs/records/2026-11-tokens.md).
pub const TOKENS_PER_COLUMN: usize = 4;

/// Columns of the widest input of a matrix.
pub fn widest_input(model: &Model) -> usize {
    let matrices = model.tensors.iter().filter(|tensor| !tensor.is_fixed() && tensor.role != Role::Embedding);
    matrices.map(|tensor| tensor.columns() as usize).max().unwrap_or(0)
}
