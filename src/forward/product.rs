//! Products of matrices in tiles of fixed size, each by one thread: the same bits for any number of threads.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// Rows and columns of a tile of the result. Smaller ones waste time packing, larger ones leave threads idle.
const TILE: usize = 256;

/// A matrix of its own, row after row.
#[derive(Clone, Debug, Default)]
pub struct Dense {
    columns: usize,
    values: Vec<f32>,
}

impl Dense {
    /// Zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { columns, values: vec![0.0; rows * columns] }
    }

    /// These values, row after row.
    ///
    /// # Panics
    /// If they are no whole number of rows.
    pub fn new(columns: usize, values: Vec<f32>) -> Self {
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

    /// As a view of the library that multiplies.
    pub fn view(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.values, self.rows(), self.columns)
    }

    /// The same, to be written.
    pub fn view_mut(&mut self) -> MatMut<'_, f32> {
        let rows = self.rows();
        MatMut::from_row_major_slice_mut(&mut self.values, rows, self.columns)
    }

    /// All values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The same, to be written.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// x times the transposed of this: what a layer with these weights makes of the rows of x.
    pub fn apply(&self, x: MatRef<'_, f32>) -> Self {
        let mut out = Self::zeros(x.nrows(), self.rows());
        product(out.view_mut(), Accum::Replace, x, self.view().transpose());
        out
    }
}

/// `out` = a b, or with `Accum::Add` + a b, on all threads of the pool.
pub fn product(out: MatMut<'_, f32>, accum: Accum, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let mut tiles = Vec::new();
    let mut rest = out;
    let mut row = 0;
    while rest.nrows() > 0 {
        let height = rest.nrows().min(TILE);
        let (mut band, below) = rest.split_at_row_mut(height);
        let mut column = 0;
        while band.ncols() > 0 {
            let width = band.ncols().min(TILE);
            let (tile, right) = band.split_at_col_mut(width);
            tiles.push((row, column, tile));
            band = right;
            column += width;
        }
        rest = below;
        row += height;
    }
    tiles.into_par_iter().for_each(|(row, column, tile)| {
        let (height, width) = (tile.nrows(), tile.ncols());
        one_thread(tile, accum, a.subrows(row, height), b.subcols(column, width));
    });
}

/// [`product`] on the calling thread.
pub fn one_thread(out: MatMut<'_, f32>, accum: Accum, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    matmul(out, accum, a, b, 1.0, Par::Seq);
}

#[cfg(test)]
mod tests {
    use rayon::ThreadPoolBuilder;

    use super::*;

    #[test]
    fn the_product_is_its_definition_and_the_same_on_any_number_of_threads() {
        let number = |i: usize| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5;
        let x = Dense::new(70, (0..300 * 70).map(number).collect());
        let w = Dense::new(70, (0..290 * 70).map(|i| number(i + 5)).collect());
        let run = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| w.apply(x.view()))
        };
        let out = run(1);
        assert_eq!(out.values(), run(3).values());
        for (row, column) in [(0, 0), (255, 256), (299, 289), (256, 12)] {
            let sum = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
            let exact: f64 = x.row(row).iter().zip(w.row(column)).map(sum).sum();
            assert!((f64::from(out.row(row)[column]) - exact).abs() < 1e-5);
        }
    }
}
