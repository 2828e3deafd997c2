//! Some rows of a stored matrix that become one matrix of a model: the one place where transposed rows are read.

use std::ops::Range;
use std::sync::Arc;

use quant_kernels::Format;

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
    /// Which of the stored rows or columns are taken, and in which order.
    pub order: Order,
}

/// The order in which a slice takes what is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As it is stored.
    #[default]
    Stored,
    /// Stored rows are picked; those of no transposed slice.
    Rows(Pick),
    /// Stored columns are picked.
    Columns(Pick),
}

/// What is picked of a row of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Of each `n` things one of the first half, then one of the second, and so on.
    Alternating(u64),
    /// Every other one, beginning with this, 0 or 1.
    EveryOther(u64),
    /// Behind those that stay, of each group its first head, then of each its second, and so on.
    Tiled {
        /// Things that stay where they are.
        first: u64,
        /// Groups of heads.
        groups: u64,
        /// Heads of a group.
        each: u64,
        /// Things of a head.
        width: u64,
    },
}

impl Pick {
    /// The place of the thing that becomes the one at `index`.
    pub fn source(self, index: u64) -> u64 {
        match self {
            Self::Alternating(n) => {
                let (group, within) = (index / n, index % n);
                group * n + within % 2 * (n / 2) + within / 2
            }
            Self::EveryOther(first) => 2 * index + first,
            Self::Tiled { first, .. } if index < first => index,
            Self::Tiled { first, groups, each, width } => {
                let (head, within) = ((index - first) / width, (index - first) % width);
                first + (head % groups * each + head / groups) * width + within
            }
        }
    }

    /// The smallest range that has the sources of these.
    fn cover(self, range: &Range<u64>) -> Range<u64> {
        let sources = || range.clone().map(|index| self.source(index));
        let (first, last) = (sources().min().unwrap_or(0), sources().max().map_or(0, |last| last + 1));
        first..last
    }
}

/// Scratch memory for reading slices.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    /// Bytes as they are stored.
    pub raw: Vec<u8>,
    /// Decoded rows of a slice that is not as it is stored, in the store's order.
    pub stored: Vec<f32>,
}

impl Slice {
    /// The rows of the stored matrix that some rows of the slice are made of: all of them, if it is transposed.
    pub fn stored_rows(&self, rows: &Range<u64>) -> Range<u64> {
        let of = |rows: Range<u64>| self.rows.start + rows.start..self.rows.start + rows.end;
        match self.order {
            _ if self.transposed => self.rows.clone(),
            Order::Rows(pick) => of(pick.cover(rows)),
            _ => of(rows.clone()),
        }
    }

    /// Rows that are best read together where `step` of all `rows` are wanted: no stored row is then read twice.
    pub fn step(&self, step: u64, rows: u64) -> u64 {
        match self.order {
            _ if self.transposed => rows,
            Order::Rows(Pick::Alternating(n)) => (step / n * n).max(n).min(rows),
            // Neighbours come from far apart, unless they are of one head.
            Order::Rows(Pick::Tiled { width, .. }) if step < rows => {
                (1..=width.min(step)).rev().find(|step| width.is_multiple_of(*step)).unwrap_or(1)
            }
            _ => step,
        }
    }

    /// Whether its rows are those of the store, one after another.
    pub fn is_plain(&self) -> bool {
        !self.transposed && self.order == Order::Stored
    }

    /// Puts the codes of what was loaded of [`stored_rows`](Self::stored_rows) into blocks of `rows` of the slice, as
    /// [`Rows::regroup`] does; gives those rows, counted from the first of `rows`, that have no place there.
    ///
    /// # Panics
    /// If columns are not as they are stored: no block is then.
    pub fn regroup(
        &self,
        matrix: &dyn Rows,
        format: Format,
        rows: Range<u64>,
        raw: &[u8],
        blocks: &mut [u8],
    ) -> Vec<u64> {
        let from = self.stored_rows(&rows);
        let pick = match self.order {
            Order::Stored if !self.transposed => {
                let lost = matrix.regroup(format, from.clone(), raw, blocks);
                return lost.into_iter().map(|row| row - from.start).collect();
            }
            Order::Rows(pick) => pick,
            _ => panic!("{format}: the columns are in another order than in the store"),
        };
        let stored = matrix.stored().row_bytes as usize;
        let each = blocks.len() / (rows.end - rows.start) as usize;
        let lost = rows.clone().zip(blocks.chunks_exact_mut(each)).filter_map(|(row, blocks)| {
            let source = self.rows.start + pick.source(row);
            let raw = &raw[(source - from.start) as usize * stored..][..stored];
            (!matrix.regroup(format, source..source + 1, raw, blocks).is_empty()).then_some(row - rows.start)
        });
        lost.collect()
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
        let from = self.stored_rows(&rows);
        if self.is_plain() {
            return matrix.decode(from, raw, out, values);
        }
        let width = matrix.stored().columns as usize;
        stored.resize((from.end - from.start) as usize * width, 0.0);
        matrix.decode(from.clone(), raw, stored, values)?;
        if self.transposed {
            self.turn(rows, stored, out);
            return Ok(());
        }
        match self.order {
            Order::Rows(pick) => {
                for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                    let place = (self.rows.start + pick.source(row) - from.start) as usize * width;
                    out.copy_from_slice(&stored[place..place + width]);
                }
            }
            Order::Columns(pick) => {
                let columns = out.len() / (rows.end - rows.start).max(1) as usize;
                for (stored, out) in stored.chunks_exact(width).zip(out.chunks_exact_mut(columns)) {
                    (0..).zip(out).for_each(|(column, out)| *out = stored[pick.source(column) as usize]);
                }
            }
            Order::Stored => {}
        }
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
        work_trace::count(0, buffers.raw.len() as u64);
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
            work_trace::count(0, raw.len() as u64);
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
        let step = self.step((WEIGHTS / columns).clamp(1, rows), rows);
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
            let column = match self.order {
                Order::Columns(pick) => pick.source(row),
                _ => row,
            };
            for (weight, stored) in out.iter_mut().zip(stored.chunks_exact(across)) {
                *weight = stored[column as usize];
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
        let plain = Slice { tensor: "m".into(), rows: 1..4, transposed: false, order: Order::Stored };
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

    #[test]
    fn heads_of_groups_are_taken_in_turns() {
        // One that stays, then two groups of three heads of two.
        let pick = Pick::Tiled { first: 1, groups: 2, each: 3, width: 2 };
        let sources: Vec<u64> = (0..13).map(|index| pick.source(index)).collect();
        assert_eq!(sources, [0, 1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12]);
        let wide = Pick::Tiled { first: 12, groups: 2, each: 2, width: 6 };
        let slice =
            |pick| Slice { tensor: "m".into(), rows: 0..36, transposed: false, order: Order::Rows(pick) };
        // All at once, or parts of a head.
        assert_eq!([36, 20, 4, 1].map(|step| slice(wide).step(step, 36)), [36, 6, 3, 1]);
        assert_eq!(slice(wide).stored_rows(&(18..24)), 24..30);
    }

    #[test]
    fn rows_and_columns_are_picked() {
        let stored = Stored { file: "f".into(), offset: 0, rows: 10, columns: 3, row_bytes: 3, beside: None };
        let matrix = Numbers(stored);
        let slice = |rows, order, transposed| Slice { tensor: "m".into(), rows, transposed, order };
        let read = |slice: &Slice, rows: Range<u64>, columns: u64| {
            let mut out = vec![0.0; ((rows.end - rows.start) * columns) as usize];
            slice.read(&matrix, rows, Values::Any, &mut Buffers::default(), &mut out).expect("read");
            out
        };
        let firsts = |rows: Vec<f32>| rows.chunks(3).map(|row| row[0] / 3.0).collect::<Vec<_>>();
        // Two heads of four rows, behind two others.
        let heads = slice(2..10, Order::Rows(Pick::Alternating(4)), false);
        assert_eq!(firsts(read(&heads, 0..8, 3)), [2.0, 4.0, 3.0, 5.0, 6.0, 8.0, 7.0, 9.0]);
        assert_eq!(firsts(read(&heads, 1..6, 3)), [4.0, 3.0, 5.0, 6.0, 8.0]);
        assert_eq!(heads.stored_rows(&(5..6)), 8..9);
        assert_eq!(heads.stored_rows(&(4..8)), 6..10);
        assert_eq!([1, 4, 6, 9].map(|step| heads.step(step, 8)), [4, 4, 4, 8]);
        let mut several = [0.0; 6];
        heads.read_some(&matrix, &[1, 6], Values::Any, &mut Buffers::default(), &mut several).expect("read");
        assert_eq!(several, [12.0, 13.0, 14.0, 21.0, 22.0, 23.0]);
        let odd = slice(2..10, Order::Rows(Pick::EveryOther(1)), false);
        assert_eq!(firsts(read(&odd, 1..4, 3)), [5.0, 7.0, 9.0]);
        let columns = slice(2..4, Order::Columns(Pick::EveryOther(0)), false);
        assert_eq!(read(&columns, 0..2, 2), [6.0, 8.0, 9.0, 11.0]);
        let turned = slice(2..4, Order::Columns(Pick::EveryOther(0)), true);
        assert_eq!(read(&turned, 0..2, 2), [6.0, 9.0, 8.0, 11.0]);
    }
}
