//! A store in memory, for tests of what reads from one.

use std::collections::HashMap;
use std::ops::Range;

use super::{Rows, Store, Stored};
use crate::checkpoint::Values;
use crate::error::{Error, Result};

/// Matrices of f32 by name.
#[derive(Debug, Default)]
pub struct InMemory(HashMap<String, (u64, Vec<f32>)>);

impl InMemory {
    /// Adds a matrix with rows of so many columns.
    pub fn add(&mut self, name: &str, columns: u64, values: Vec<f32>) {
        self.0.insert(name.to_owned(), (columns, values));
    }

    /// The values of a matrix.
    pub fn values(&self, name: &str) -> &[f32] {
        &self.0[name].1
    }
}

impl Store for InMemory {
    fn find(&self, matrix: &str) -> Option<Stored> {
        let (columns, values) = self.0.get(matrix)?;
        let rows = values.len() as u64 / columns;
        let row_bytes = columns * 4;
        Some(Stored { file: "memory".into(), offset: 0, rows, columns: *columns, row_bytes, beside: None })
    }

    fn open(&self, matrix: &str) -> Result<Box<dyn Rows + '_>> {
        let stored = self.stored(matrix)?;
        Ok(Box::new(Opened { values: self.values(matrix), stored }))
    }

    fn fault(&self, matrix: &str, problem: String) -> Error {
        Error::Unsupported(format!("{matrix} {problem}"))
    }
}

struct Opened<'a> {
    values: &'a [f32],
    stored: Stored,
}

impl Rows for Opened<'_> {
    fn stored(&self) -> &Stored {
        &self.stored
    }

    fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        let columns = self.stored.columns;
        let values = &self.values[(rows.start * columns) as usize..(rows.end * columns) as usize];
        *raw = bytemuck::cast_slice(values).to_vec();
        Ok(())
    }

    fn decode(&self, _: Range<u64>, raw: &[u8], out: &mut [f32], _: Values) -> Result<()> {
        let (numbers, _) = raw.as_chunks();
        out.iter_mut().zip(numbers).for_each(|(out, &bytes)| *out = f32::from_le_bytes(bytes));
        Ok(())
    }
}
