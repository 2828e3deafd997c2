//! A matrix of whole numbers, of which a file has those of 32 bits whatever a checkpoint has. They are carried, never
//! decoded: which rows are such is in the name.

use std::ops::Range;

use super::{Rows, Stored};
use crate::checkpoint::{Checkpoint, Dtype, Tensor, Values};
use crate::error::{Error, Result};

/// What such names begin with; no tensor of a checkpoint does.
const MARK: &str = "i32 ";

/// Bytes of a number in the file.
const BYTES: u64 = 4;

/// The matrix.
pub struct Integers<'a> {
    checkpoint: &'a Checkpoint,
    tensor: &'a Tensor,
    stored: Stored,
}

impl Integers<'_> {
    /// The name of a matrix as whole numbers.
    pub fn name(matrix: &str) -> String {
        format!("{MARK}{matrix}")
    }

    /// The matrix that a name is of, if it is such a name.
    pub fn parse(name: &str) -> Option<&str> {
        name.strip_prefix(MARK)
    }
}

impl<'a> Integers<'a> {
    /// Opens it; `stored` is what headers say of it.
    pub fn new(checkpoint: &'a Checkpoint, tensor: &'a Tensor, stored: Stored) -> Self {
        let stored = Stored { row_bytes: BYTES * stored.columns, ..stored };
        Self { checkpoint, tensor, stored }
    }
}

impl Rows for Integers<'_> {
    fn stored(&self) -> &Stored {
        &self.stored
    }

    fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        let columns = self.stored.columns;
        let each = if self.tensor.dtype == Dtype::I64 { 8 } else { BYTES };
        let mut bytes = vec![0; ((rows.end - rows.start) * columns * each) as usize];
        self.checkpoint.read_at(self.tensor, rows.start * columns * each, &mut bytes)?;
        raw.clear();
        if each == BYTES {
            raw.extend(bytes);
            return Ok(());
        }
        for (index, bytes) in (0..).zip(bytes.as_chunks().0) {
            let number = i64::from_le_bytes(*bytes);
            let Ok(number) = i32::try_from(number) else {
                let (row, column) = (rows.start + index / columns, index % columns);
                let problem = format!("holds {number} at row {row}, column {column}; 32 bits do not hold it");
                return Err(Error::tensor(&self.tensor.shard, &self.tensor.name, problem));
            };
            raw.extend(number.to_le_bytes());
        }
        Ok(())
    }

    fn decode(&self, _: Range<u64>, _: &[u8], _: &mut [f32], _: Values) -> Result<()> {
        let problem = "has whole numbers, which are carried over as they are and not decoded";
        Err(Error::tensor(&self.tensor.shard, &self.tensor.name, problem))
    }
}
