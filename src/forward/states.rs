//! Hidden states of all tokens of the text: in memory, or in a temporary file when they outgrow what is allowed.

use std::fs::File;
use std::ops::Range;

use dense_kernels::Dense;
use rayon::iter::IndexedParallelIterator;
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use crate::disk;
use crate::error::{Error, Result};
use crate::threads::{self, each_rows};

/// Tokens that are copied together.
const COPIED: usize = 256;

/// Rows that a thread gathers at a time.
const GATHERED: usize = 32;

/// One row of `columns` numbers for each token.
#[derive(Debug)]
pub struct States {
    columns: usize,
    rows: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<f32>),
    /// Nameless, so that nothing is left behind.
    Disk(File),
}

impl States {
    /// Zeros, in memory if they take at most `memory` bytes.
    ///
    /// # Errors
    /// If there is no room for the temporary file.
    pub fn new(rows: usize, columns: usize, memory: u64) -> Result<Self> {
        let bytes = rows as u64 * columns as u64 * 4;
        let place = if bytes <= memory {
            Place::Memory(vec![0.0; rows * columns])
        } else {
            let io = |e| Error::io("create a file for hidden states in", std::env::temp_dir(), e);
            let file = tempfile::tempfile().map_err(io)?;
            file.set_len(bytes).map_err(io)?;
            Place::Disk(file)
        };
        Ok(Self { columns, rows, place })
    }

    /// The same once more; as [`new`](Self::new).
    ///
    /// # Errors
    /// If there is no room for it, or the temporary file cannot be read.
    pub fn copy(&self, memory: u64) -> Result<Self> {
        let mut copy = Self::new(self.rows, self.columns, memory)?;
        if let Place::Memory(all) = &self.place {
            copy.write(0, all)?;
            return Ok(copy);
        }
        for start in (0..self.rows).step_by(COPIED) {
            let rows = self.read(start..self.rows.min(start + COPIED))?;
            copy.write(start, rows.values())?;
        }
        Ok(copy)
    }

    /// Number of tokens.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers for each token.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether they are on disk.
    pub fn is_spilled(&self) -> bool {
        matches!(self.place, Place::Disk(_))
    }

    /// The rows of a range.
    ///
    /// # Errors
    /// If the temporary file cannot be read.
    pub fn read(&self, rows: Range<usize>) -> Result<Dense> {
        let mut out = Dense::to_fill(rows.len(), self.columns);
        self.read_into(rows.start, out.values_mut())?;
        Ok(out)
    }

    /// Some of all values, row after row, on the calling thread.
    ///
    /// # Errors
    /// If the temporary file cannot be read.
    pub fn values(&self, some: Range<usize>) -> Result<Dense> {
        let mut out = Dense::to_fill(1, some.len());
        match &self.place {
            Place::Memory(all) => out.values_mut().copy_from_slice(&all[some]),
            Place::Disk(file) => {
                let bytes = bytemuck::cast_slice_mut(out.values_mut());
                disk::read_exact_at(file, some.start as u64 * 4, bytes).map_err(io("read"))?;
            }
        }
        Ok(out)
    }

    /// The rows of a list, in its order.
    ///
    /// # Errors
    /// If the temporary file cannot be read.
    pub fn gather(&self, rows: &[usize]) -> Result<Dense> {
        let columns = self.columns;
        let mut out = Dense::to_fill(rows.len(), columns);
        let bands = out.values_mut().par_chunks_mut(GATHERED * columns).zip(rows.par_chunks(GATHERED));
        threads::try_map("gather", bands, |(out, rows)| {
            let mut each = rows.iter().zip(out.chunks_exact_mut(columns));
            each.try_for_each(|(&row, out)| self.read_into(row, out))
        })?;
        Ok(out)
    }

    /// Replaces rows from `first` on.
    ///
    /// # Errors
    /// If the temporary file cannot be written.
    pub fn write(&mut self, first: usize, values: &[f32]) -> Result<()> {
        let start = first * self.columns;
        match &mut self.place {
            Place::Memory(all) => copy(&mut all[start..start + values.len()], values, self.columns),
            Place::Disk(file) => {
                let bytes: &[u8] = bytemuck::cast_slice(values);
                disk::write_all_at(file, start as u64 * 4, bytes).map_err(io("write"))?;
            }
        }
        Ok(())
    }

    /// Adds to the rows of each list, list after list, multiples of the rows of its values.
    ///
    /// # Errors
    /// If the temporary file cannot be read or written.
    pub fn add(&mut self, all: &[Sum]) -> Result<()> {
        let columns = self.columns;
        match &mut self.place {
            Place::Memory(rows) => each_rows("add", rows, columns, |first, rows| {
                let range = first..first + rows.len() / columns;
                for sum in all {
                    let of = |row| sum.rows.partition_point(|&other| other < row);
                    for at in of(range.start)..of(range.end) {
                        let row = (sum.rows[at] - first) * columns;
                        add(&mut rows[row..row + columns], sum.factors[at], sum.values.row(at));
                    }
                }
            }),
            Place::Disk(_) => {
                let mut row = vec![0.0; columns];
                for sum in all {
                    for (at, &place) in sum.rows.iter().enumerate() {
                        self.read_into(place, &mut row)?;
                        add(&mut row, sum.factors[at], sum.values.row(at));
                        self.write(place, &row)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn read_into(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let start = first * self.columns;
        match &self.place {
            Place::Memory(all) => {
                let values = &all[start..start + out.len()];
                copy(out, values, self.columns);
            }
            Place::Disk(file) => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(out);
                disk::read_exact_at(file, start as u64 * 4, bytes).map_err(io("read"))?;
            }
        }
        Ok(())
    }
}

/// Copies rows of so many columns, on all threads of the pool if there are enough of them: memory that is touched for the
/// first time costs more than the copy.
pub fn copy(to: &mut [f32], from: &[f32], columns: usize) {
    each_rows("copy", to, columns, |first, to| {
        to.copy_from_slice(&from[first * columns..][..to.len()]);
    });
}

/// What is added to some rows of [`States`].
#[derive(Debug)]
pub struct Sum {
    /// Which ones, in ascending order.
    pub rows: Vec<usize>,
    /// By what each row of `values` is multiplied.
    pub factors: Vec<f32>,
    /// A row for each.
    pub values: Dense,
}

fn add(sum: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

fn io(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::io(action, std::env::temp_dir().join("(hidden states)"), e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_and_memory_hold_the_same() {
        for memory in [0, 1 << 20] {
            let mut states = States::new(5, 3, memory).expect("room");
            assert_eq!(states.is_spilled(), memory == 0);
            let values: Vec<f32> = (0..9).map(|x| x as f32).collect();
            states.write(1, &values).expect("written");
            let sum = |rows: &[usize], factors: &[f32]| {
                let values = Dense::new(3, vec![1.0; 3 * rows.len()]);
                Sum { rows: rows.to_vec(), factors: factors.to_vec(), values }
            };
            states.add(&[sum(&[1, 3], &[1.0, 1.0]), sum(&[3], &[1.0])]).expect("added");
            assert_eq!(
                states.gather(&[3, 0, 1]).expect("read").values(),
                [8.0, 9.0, 10.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]
            );
            assert_eq!(states.read(2..4).expect("read").values(), [3.0, 4.0, 5.0, 8.0, 9.0, 10.0]);
        }
    }
}
