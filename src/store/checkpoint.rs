//! The store of a checkpoint: safetensors, or a GGUF file.

use std::ops::Range;
use std::sync::Arc;

use quant_kernels::Format;

use super::{Computed, Derivation, Derived, Factors, Integers, Rows, Store, Stored};
use crate::checkpoint::{Checkpoint, Matrix, Tensor, Values};
use crate::error::{Error, Result};

impl Store for Checkpoint {
    fn find(&self, matrix: &str) -> Option<Stored> {
        let matrix = plain(matrix);
        if let Some(matrices) = Factors::parse(matrix) {
            let mut matrices = matrices.peekable();
            let first = self.get(matrices.peek()?)?;
            return Some(Factors::describe(describe(self, first), matrices.count()));
        }
        match self.get(matrix) {
            Some(tensor) => Some(describe(self, tensor)),
            None => Computed::parse(matrix).map(|row| row.stored().clone()),
        }
    }

    fn open(&self, matrix: &str) -> Result<Box<dyn Rows + '_>> {
        if let Some(row) = Computed::parse(matrix) {
            return Ok(Box::new(row));
        }
        if Factors::parse(matrix).is_some() {
            return Ok(Box::new(Factors::new(self, matrix, self.stored(matrix)?)?));
        }
        if let Some(of) = Integers::parse(matrix) {
            let tensor = self.tensor(of)?;
            return Ok(Box::new(Integers::new(self, tensor, describe(self, tensor))));
        }
        if let Some((derivation, of)) = Derivation::parse(matrix) {
            return Ok(Box::new(Derived { rows: self.open(of)?, derivation, name: of.to_owned() }));
        }
        let matrix = Matrix::open(self, matrix)?;
        let stored = describe(self, matrix.tensor());
        Ok(Box::new(Opened { matrix, stored }))
    }

    fn fault(&self, matrix: &str, problem: String) -> Error {
        let matrix = plain(matrix);
        let shard = self.get(matrix).map_or(self.listing(), |tensor| &tensor.shard);
        Error::tensor(shard, matrix, problem)
    }

    fn stored(&self, matrix: &str) -> Result<Stored> {
        let matrix = plain(matrix);
        if let Some(row) = Computed::parse(matrix) {
            return Ok(row.stored().clone());
        }
        if let Some(mut matrices) = Factors::parse(matrix) {
            let first = self.tensor(matrices.next().unwrap_or_default())?;
            return Ok(Factors::describe(describe(self, first), matrices.count() + 1));
        }
        // Names the nearest one that is there.
        self.tensor(matrix).map(|tensor| describe(self, tensor))
    }
}

/// The name of the matrix that is read, whatever becomes of its numbers.
fn plain(matrix: &str) -> &str {
    Derivation::parse(matrix).map(|(_, of)| of).or(Integers::parse(matrix)).unwrap_or(matrix)
}

fn describe(checkpoint: &Checkpoint, tensor: &Tensor) -> Stored {
    let place = |tensor: &Tensor| (Arc::clone(&tensor.shard), tensor.offset);
    Stored {
        file: Arc::clone(&tensor.shard),
        offset: tensor.offset,
        rows: tensor.rows(),
        columns: tensor.columns(),
        row_bytes: checkpoint.row_bytes(tensor),
        beside: checkpoint.scales(tensor).map(place),
    }
}

/// A matrix with its scales.
struct Opened<'a> {
    matrix: Matrix<'a>,
    stored: Stored,
}

impl Rows for Opened<'_> {
    fn stored(&self) -> &Stored {
        &self.stored
    }

    fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        self.matrix.load(rows, raw)
    }

    fn decode(&self, rows: Range<u64>, raw: &[u8], out: &mut [f32], values: Values) -> Result<()> {
        self.matrix.decode(rows, raw, out, values)
    }

    fn regroup(&self, format: Format, rows: Range<u64>, raw: &[u8], blocks: &mut [u8]) -> Vec<u64> {
        self.matrix.regroup(format, rows, raw, blocks)
    }

    fn forget(&self, rows: Range<u64>) {
        self.matrix.forget(rows);
    }
}
