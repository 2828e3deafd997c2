//! How much text error feedback wants.

use crate::model::{Input, Role};
use crate::recipe::Plan;

/// A text should have so many tokens for each column of the widest input. A covariance of n columns has n (n + 1) / 2 numbers,
/// and with fewer tokens than columns it says nothing of most directions: errors are then fed into them for nothing. On the
/// test model a text of 2/3 of a token for each column makes the file worse than none, one of 10 makes it better.
const TOKENS_PER_COLUMN: usize = 4;

/// The same for each column of the hidden states, where experts that read them have less than two bits a weight: 14 make the
/// judge's ud-iq1_s worse than none, 60 better (docs/records/2026-11-tokens.md).
const COARSE_TOKENS_PER_COLUMN: usize = 30;

/// Bits a weight below which a type is coarse.
const COARSE: f64 = 2.0;

/// The tokens that a text should have: so many for each of so many columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enough {
    /// Tokens for each column.
    pub of_column: usize,
    /// Columns of an input.
    pub columns: usize,
}

impl Enough {
    /// The most that a matrix of the file wants.
    pub fn of(plan: &Plan) -> Self {
        let matrices = plan.model.tensors.iter().enumerate();
        let matrices = matrices.filter(|(_, tensor)| !tensor.is_fixed() && tensor.role != Role::Embedding);
        let wanted = matrices.map(|(place, tensor)| {
            let is_coarse =
                plan.format(place).bits_per_weight() < COARSE && tensor.part.input == Input::Stream;
            let of_column = if is_coarse { COARSE_TOKENS_PER_COLUMN } else { TOKENS_PER_COLUMN };
            Self { of_column, columns: tensor.columns() as usize }
        });
        wanted
            .max_by_key(|wanted| wanted.tokens())
            .unwrap_or(Self { of_column: TOKENS_PER_COLUMN, columns: 0 })
    }

    /// Tokens of all columns.
    pub fn tokens(self) -> usize {
        self.of_column * self.columns
    }
}
