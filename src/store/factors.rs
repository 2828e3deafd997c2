//! The factors of whole matrices as a row of numbers: of each of some matrices what all of its weights are multiplied by,
//! beside what their blocks say. Which matrices is in the name.

use std::ops::Range;

use super::{Rows, Stored};
use crate::checkpoint::{Checkpoint, Tensor, Values};
use crate::error::Result;

/// What such names begin with, and what is between two matrices; no tensor of a checkpoint has either.
const MARK: &str = "factors of ";
const BETWEEN: char = '\n';

/// The row.
pub struct Factors<'a> {
    checkpoint: &'a Checkpoint,
    matrices: Vec<&'a Tensor>,
    stored: Stored,
}

impl<'a> Factors<'a> {
    /// The name of the factors of these matrices.
    pub fn name<'n>(matrices: impl IntoIterator<Item = &'n str>) -> String {
        let all: Vec<&str> = matrices.into_iter().collect();
        format!("{MARK}{}", all.join(&BETWEEN.to_string()))
    }

    /// The matrices that a name is of, if it is such a name.
    pub fn parse(name: &str) -> Option<impl Iterator<Item = &str>> {
        name.strip_prefix(MARK).map(|all| all.split(BETWEEN))
    }

    /// Opens it; `first` is what headers say of the first matrix.
    ///
    /// # Errors
    /// If a matrix is not there.
    pub fn new(checkpoint: &'a Checkpoint, names: &str, first: Stored) -> Result<Self> {
        let matrices = Self::parse(names).into_iter().flatten().map(|name| checkpoint.tensor(name));
        let matrices: Vec<&Tensor> = matrices.collect::<Result<_>>()?;
        let stored = Self::describe(first, matrices.len());
        Ok(Self { checkpoint, matrices, stored })
    }

    /// The row as headers describe it.
    pub fn describe(first: Stored, count: usize) -> Stored {
        let columns = count as u64;
        Stored { rows: 1, columns, row_bytes: 4 * columns, beside: None, ..first }
    }
}

impl Rows for Factors<'_> {
    fn stored(&self) -> &Stored {
        &self.stored
    }

    fn load(&self, _: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        raw.clear();
        for matrix in &self.matrices {
            raw.extend(self.checkpoint.factor(matrix)?.to_le_bytes());
        }
        Ok(())
    }

    fn decode(&self, _: Range<u64>, raw: &[u8], out: &mut [f32], _: Values) -> Result<()> {
        out.iter_mut().zip(raw.as_chunks().0).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_matrices() {
        let name = Factors::name(["a.weight", "b.weight"]);
        assert_eq!(Factors::parse(&name).map(Iterator::collect), Some(vec!["a.weight", "b.weight"]));
        assert!(Factors::parse("a.weight").is_none());
    }
}
