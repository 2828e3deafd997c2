//! Some rows of a stored matrix that become one matrix of a model: the one place where transposed rows are read.

use std::ops::Range;
use std::sync::Arc;

use super::Rows;
use crate::checkpoint::Values;
use crate::error::Result;

/// Weights read at a time by [`Slice::each`], unless a single row (or a transposed slice, which needs all of its rows)
/// has more.
const WEIGHTS: u64 = 1 << 20;

/// Rows of one stored matrix, which become one matrix (expert, head, or the only one) of a tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Name in the store.
    pub tensor: Arc<str>,
    /// Rows of the stored matrix.
    pub rows: Range<u64>,
    /// Whether the columns of these rows become the slice's rows.
    pub transposed: bool,
}

/// Scratch memory for reading slices.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    /// Bytes as they are stored.
    pub raw: Vec<u8>,
    /// Decoded rows of a transposed slice, in the store's order.
    pub stored: Vec<f32>,
}

impl Slice {
    /// The rows of the stored matrix that some rows of the slice are made of: all of them, if it is transposed.
    pub fn stored_rows(&self, rows: &Range<u64>) -> Range<u64> {
        match self.transposed {
            true => self.rows.clone(),
            false => self.rows.start + rows.start..self.rows.start + rows.end,
        }
    }

    /// Decodes what was loaded of [`stored_rows`](Self::stored_rows) into `rows` of the slice; `stored` is scratch.
    ///
    /// # Errors
    /// If they hold a value that `values` does not allow.
    ///
    /// # Panics
    /// If `raw` or `out` has another length than these rows.
    pub fn decode(
        &self,
        matrix: &dyn Rows,
        rows: Range<u64>,
        raw: &[u8],
        values: Values,
        stored: &mut Vec<f32>,
        out: &mut [f32],
    ) -> Result<()> {
        if !self.transposed {
            return matrix.decode(self.stored_rows(&rows), raw, out, values);
        }
        self.decode_all(matrix, raw, values, stored)?;
        self.turn(rows, stored, out);
        Ok(())
    }

    /// Reads `rows` of the slice into `out`, row after row.
    ///
    /// # Errors
    /// If they cannot be read, or hold a value that `values` does not allow.
    ///
    /// # Panics
    /// If `out` is not exactly that many rows.
    pub fn read(
        &self,
        matrix: &dyn Rows,
        rows: Range<u64>,
        values: Values,
        buffers: &mut Buffers,
        out: &mut [f32],
    ) -> Result<()> {
        matrix.load(self.stored_rows(&rows), &mut buffers.raw)?;
        self.decode(matrix, rows, &buffers.raw, values, &mut buffers.stored, out)
    }

    /// Reads single rows of the slice into `out`, in the order of the list, and gives the bytes that were read for
    /// them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If `out` is not exactly that many rows.
    pub fn read_some(
        &self,
        matrix: &dyn Rows,
        rows: &[u64],
        values: Values,
        buffers: &mut Buffers,
        out: &mut [f32],
    ) -> Result<u64> {
        let columns = out.len() / rows.len().max(1);
        let each = rows.iter().zip(out.chunks_exact_mut(columns));
        if self.transposed {
            let Buffers { raw, stored } = buffers;
            matrix.load(self.rows.clone(), raw)?;
            self.decode_all(matrix, raw, values, stored)?;
            each.for_each(|(&row, out)| self.turn(row..row + 1, stored, out));
            return Ok(raw.len() as u64);
        }
        for (&row, out) in each {
            self.read(matrix, row..row + 1, values, buffers, out)?;
        }
        Ok(rows.len() as u64 * matrix.stored().row_bytes)
    }

    /// Calls `each` with rows of the slice and their weights, from the first row to the last, about a million weights
    /// at a time. `rows` and `columns` are the slice's.
    ///
    /// # Errors
    /// As [`read`](Self::read), and those of `each`.
    pub fn each(
        &self,
        matrix: &dyn Rows,
        [rows, columns]: [u64; 2],
        values: Values,
        mut each: impl FnMut(Range<u64>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let step = if self.transposed { rows } else { (WEIGHTS / columns).clamp(1, rows) };
        let (mut buffers, mut weights) = (Buffers::default(), Vec::new());
        for start in (0..rows).step_by(step as usize) {
            let piece = start..rows.min(start + step);
            weights.resize(((piece.end - piece.start) * columns) as usize, 0.0);
            self.read(matrix, piece.clone(), values, &mut buffers, &mut weights)?;
            each(piece, &weights)?;
        }
        Ok(())
    }

    /// Decodes all stored rows of a transposed slice.
    fn decode_all(&self, matrix: &dyn Rows, raw: &[u8], values: Values, stored: &mut Vec<f32>) -> Result<()> {
        stored.resize(((self.rows.end - self.rows.start) * matrix.stored().columns) as usize, 0.0);
        matrix.decode(self.rows.clone(), raw, stored, values)
    }

    /// Puts columns of the stored rows into `out` as rows.
    fn turn(&self, rows: Range<u64>, stored: &[f32], out: &mut [f32]) {
        let columns = (self.rows.end - self.rows.start) as usize;
        let across = stored.len() / columns;
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            for (weight, stored) in out.iter_mut().zip(stored.chunks_exact(across)) {
                *weight = stored[row as usize];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Stored;

    /// A matrix of whole numbers, one byte each.
    struct Numbers(Stored);

    impl Rows for Numbers {
        fn stored(&self) -> &Stored {
            &self.0
        }

        fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
            *raw = (rows.start * 3..rows.end * 3).map(|number| number as u8).collect();
            Ok(())
        }

        fn decode(&self, _: Range<u64>, raw: &[u8], out: &mut [f32], _: Values) -> Result<()> {
            assert_eq!(raw.len(), out.len());
            out.iter_mut().zip(raw).for_each(|(out, &raw)| *out = raw.into());
            Ok(())
        }
    }

    #[test]
    fn rows_and_columns_of_a_window_are_read() {
        // 0 1 2 / 3 4 5 / 6 7 8 / 9 10 11
        let stored = Stored { file: "f".into(), offset: 0, rows: 4, columns: 3, row_bytes: 3, beside: None };
        let matrix = Numbers(stored);
        let plain = Slice { tensor: "m".into(), rows: 1..4, transposed: false };
        let turned = Slice { transposed: true, ..plain.clone() };
        let read = |slice: &Slice, rows: Range<u64>, columns: u64| {
            let mut out = vec![0.0; ((rows.end - rows.start) * columns) as usize];
            slice.read(&matrix, rows, Values::Any, &mut Buffers::default(), &mut out).expect("read");
            out
        };
        assert_eq!(read(&plain, 1..3, 3), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert_eq!(read(&turned, 1..3, 3), [4.0, 7.0, 10.0, 5.0, 8.0, 11.0]);
        let some = |slice: &Slice| {
            let (mut out, mut buffers) = ([0.0; 6], Buffers::default());
            let bytes = slice.read_some(&matrix, &[2, 0], Values::Any, &mut buffers, &mut out).expect("read");
            (out, bytes)
        };
        assert_eq!(some(&plain), ([9.0, 10.0, 11.0, 3.0, 4.0, 5.0], 6));
        assert_eq!(some(&turned), ([5.0, 8.0, 11.0, 3.0, 6.0, 9.0], 9));
        let mut all = Vec::new();
        let each = |rows: Range<u64>, weights: &[f32]| {
            all.push((rows, weights.to_vec()));
            Ok(())
        };
        turned.each(&matrix, [3, 3], Values::Any, each).expect("read");
        assert_eq!(all, [(0..3, vec![3.0, 6.0, 9.0, 4.0, 7.0, 10.0, 5.0, 8.0, 11.0])]);
    }
}
