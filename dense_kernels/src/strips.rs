//! Left sides of products in the order in which the kernel reads them.

use std::ops::Range;

use super::card::{KeptLeft, keep_left, on_kept};
use super::kernel::ROWS;
use super::matrix::{Rows, View};
use super::panels::{Panels, in_strips};
use super::product::{Accum, DEPTH, left_in_strips};
use super::room::Room;

/// A left side whose columns become known from left to right, for a product after each: twelve rows after twelve rows,
/// a few columns of all rows together.
///
/// ```text
///              columns 0..256     256..512     ...
///   rows 0..12   strip 0           strip 0            one strip: of each column twelve values
///   rows 12..24  strip 1           strip 1
/// ```
#[derive(Debug)]
pub struct Strips {
    rows: usize,
    columns: usize,
    values: Room,
    kept: Option<KeptLeft>,
}

impl Strips {
    /// Columns that are put in at once.
    pub const COLUMNS: usize = DEPTH;

    /// Of so many rows and at most so many columns, none of which is known yet. If a card is used it has them too.
    pub fn new(rows: usize, columns: usize) -> Self {
        let values = Room::zeros(rows.div_ceil(ROWS) * columns * ROWS);
        Self { rows, columns, values, kept: keep_left(rows, columns) }
    }

    /// Takes the columns from `first` on.
    ///
    /// # Panics
    /// If `first` is no multiple of [`Strips::COLUMNS`], the columns are more than these or fewer without being the
    /// last, or the rows are of another number.
    pub fn put(&mut self, first: usize, columns: View<'_>) {
        let end = first + columns.columns();
        assert_eq!((columns.rows(), first % DEPTH), (self.rows, 0), "rows, and the first column");
        assert_eq!(end, self.columns.min(first + DEPTH), "the end of the columns");
        let height = self.rows.div_ceil(ROWS);
        let (strips, _) = self.values.as_chunks_mut::<ROWS>();
        in_strips(columns, 0..end - first, &mut strips[height * first..height * end]);
        if let Some(kept) = &mut self.kept {
            kept.put(first, columns);
        }
    }

    /// `out` = a b, or with [`Accum::Add`] + a b, of as many of the first columns a as b has rows, on the calling thread or on
    /// the card that is used.
    ///
    /// # Panics
    /// If the shapes do not fit, or b ends inside of what was put in at once.
    pub fn times(&self, mut out: Rows<'_>, accum: Accum, b: &Panels) {
        let steps = b.rows();
        assert!(steps <= self.columns, "{steps} of {} columns", self.columns);
        assert!(steps.is_multiple_of(DEPTH) || steps == self.columns, "{steps} columns");
        if on_kept(self.kept.as_ref(), b, self.rows, &mut out, accum) {
            return;
        }
        left_in_strips(out, accum, self, b);
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Some rows, from a multiple of twelve on, of the columns that were put in at once.
    pub(crate) fn some(&self, rows: Range<usize>, columns: Range<usize>) -> &[[f32; ROWS]] {
        let height = self.rows.div_ceil(ROWS);
        let strips = rows.start / ROWS..rows.end.div_ceil(ROWS);
        let first = height * columns.start;
        let (all, _) = self.values.as_chunks::<ROWS>();
        &all[first + strips.start * columns.len()..first + strips.end * columns.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dense, with_panels};

    #[test]
    fn products_are_those_of_the_matrix() {
        let numbers = |rows: usize, columns: usize, seed: usize| {
            let number = |i: usize| ((i * 7919 + seed * 131) % 1009) as f32 / 1009.0 - 0.5;
            Dense::new(columns, (0..rows * columns).map(number).collect())
        };
        // More rows than a tile, no multiple of twelve; three times columns, the last ones fewer.
        let (rows, columns) = (250, 2 * DEPTH + 40);
        let a = numbers(rows, columns, 1);
        let mut strips = Strips::new(rows, columns);
        for steps in [0, DEPTH, 2 * DEPTH, columns] {
            let b = Panels::new(numbers(steps.max(1), 70, 2).view().some_rows(0..steps));
            let (mut expected, mut found) = (numbers(rows, 70, 3), numbers(rows, 70, 3));
            with_panels(expected.view_mut(), Accum::Add, a.view().some_columns(0..steps), &b);
            strips.times(found.view_mut(), Accum::Add, &b);
            assert_eq!(found.values(), expected.values(), "{steps} steps");
            if steps < columns {
                strips.put(steps, a.view().some_columns(steps..columns.min(steps + DEPTH)));
            }
        }
    }
}
