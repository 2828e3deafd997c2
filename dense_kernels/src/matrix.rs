//! Matrices, and parts of them to read and to write.

use std::ops::Range;

use super::room::Room;

/// A matrix of its own, row after row.
#[derive(Clone, Debug, Default)]
pub struct Dense {
    columns: usize,
    values: Room,
}

impl Dense {
    /// Zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { columns, values: Room::zeros(rows * columns) }
    }

    /// Values of no meaning, for one who replaces them all: quicker than zeros.
    pub fn to_fill(rows: usize, columns: usize) -> Self {
        Self { columns, values: Room::to_fill(rows * columns) }
    }

    /// These values, row after row.
    ///
    /// # Panics
    /// If they are no whole number of rows.
    pub fn new(columns: usize, values: Vec<f32>) -> Self {
        Self { columns, values: Room::of(values) }.in_rows_of(columns)
    }

    /// The same values in rows of another length.
    ///
    /// # Panics
    /// If they are no whole number of rows.
    #[must_use]
    pub fn in_rows_of(self, columns: usize) -> Self {
        let Self { values, .. } = self;
        assert!(values.len().is_multiple_of(columns), "{} values in rows of {columns}", values.len());
        Self { columns, values }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Values in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All of it, to read.
    pub fn view(&self) -> View<'_> {
        View::new(self.columns, &self.values)
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> Rows<'_> {
        self.part_mut(0..self.rows(), 0..self.columns)
    }

    /// Some rows and columns, to write.
    ///
    /// # Panics
    /// If they are not there.
    pub fn part_mut(&mut self, rows: Range<usize>, columns: Range<usize>) -> Rows<'_> {
        let width = self.columns;
        let rows = &mut self.values[rows.start * width..rows.end * width];
        Rows(rows.chunks_exact_mut(width).map(|row| &mut row[columns.clone()]).collect())
    }

    /// All values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The same, to write.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// The same, to write.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.columns..(row + 1) * self.columns]
    }
}

/// Part of a matrix, or that part transposed, to read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    /// From a value to the one below, and to the one on the right.
    steps: [usize; 2],
}

impl<'a> View<'a> {
    /// Rows of so many columns, one after the other.
    ///
    /// # Panics
    /// If the values are no whole number of rows.
    pub fn new(columns: usize, values: &'a [f32]) -> Self {
        assert!(values.len().is_multiple_of(columns), "{} values in rows of {columns}", values.len());
        Self { values, rows: values.len() / columns, columns, steps: [columns, 1] }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows as columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        let Self { values, rows, columns, steps: [down, right] } = self;
        Self { values, rows: columns, columns: rows, steps: [right, down] }
    }

    /// Some rows and columns.
    ///
    /// # Panics
    /// If they are not there.
    #[must_use]
    pub fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && columns.end <= self.columns, "{rows:?} x {columns:?} of {self:?}");
        let first = rows.start * self.steps[0] + columns.start * self.steps[1];
        Self {
            values: self.values.get(first..).unwrap_or_default(),
            rows: rows.len(),
            columns: columns.len(),
            steps: self.steps,
        }
    }

    /// Some rows.
    #[must_use]
    pub fn some_rows(self, rows: Range<usize>) -> Self {
        self.part(rows, 0..self.columns)
    }

    /// Some columns.
    #[must_use]
    pub fn some_columns(self, columns: Range<usize>) -> Self {
        self.part(0..self.rows, columns)
    }

    /// One row.
    ///
    /// # Panics
    /// If its values do not lie next to each other, as in a transposed matrix.
    pub fn row(&self, row: usize) -> &'a [f32] {
        self.line(row).expect("rows whose values are neighbours")
    }

    /// One row, if its values are neighbours.
    pub(crate) fn line(&self, row: usize) -> Option<&'a [f32]> {
        let first = row * self.steps[0];
        (self.steps[1] == 1).then(|| &self.values[first..first + self.columns])
    }

    /// The values from the first one on, and how far rows lie apart, if a row's values are neighbours.
    pub(crate) fn lines(&self) -> Option<(&'a [f32], usize)> {
        (self.steps[1] == 1).then_some((self.values, self.steps[0]))
    }

    /// One value.
    pub fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.steps[0] + column * self.steps[1]]
    }
}

/// Rows of a matrix, or of some of its columns, to write.
#[derive(Debug)]
pub struct Rows<'a>(pub(crate) Vec<&'a mut [f32]>);

impl Rows<'_> {
    /// Takes the values of a view of as many rows and columns.
    ///
    /// # Panics
    /// If it is of another shape.
    pub fn copy_from(&mut self, view: View<'_>) {
        assert_eq!(self.0.len(), view.rows(), "rows");
        for (row, to) in self.0.iter_mut().enumerate() {
            to.copy_from_slice(view.row(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_transposed_are_transposed_parts() {
        let matrix = Dense::new(4, (0u8..12).map(f32::from).collect());
        let part = matrix.view().part(1..3, 1..4);
        assert_eq!((part.row(1), part.at(0, 2)), (&[9.0, 10.0, 11.0][..], 7.0));
        let turned = matrix.view().transposed().part(1..4, 1..3);
        assert_eq!((turned.rows(), turned.columns(), turned.at(2, 0)), (3, 2, 7.0));
        assert_eq!(turned.transposed().row(0), [5.0, 6.0, 7.0]);
        assert_eq!(matrix.view().part(3..3, 0..4).rows(), 0);
    }

    #[test]
    fn parts_are_written_in_place() {
        let mut matrix = Dense::zeros(3, 3);
        matrix.part_mut(1..3, 0..2).copy_from(View::new(2, &[1.0, 2.0, 3.0, 4.0]));
        assert_eq!(matrix.values(), [0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 0.0]);
    }
}
