//! Matrices in the order in which the kernel reads them.

use std::ops::Range;
use std::sync::Arc;

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use work_trace::fork;

use super::card::{Kept, keep};
use super::kernel::{LANES, ROWS};
use super::matrix::View;
use super::room::Room;

/// Panels that a thread packs at a time.
const PACKED: usize = 8;

/// The right side of a product: sixteen columns after sixteen columns, each panel's rows one after the other. The last
/// panel is filled up with zeros.
#[derive(Clone, Debug)]
pub struct Panels {
    rows: usize,
    columns: usize,
    values: Room,
    kept: Option<Arc<Kept>>,
}

impl Panels {
    /// The panels of a matrix, for many products: if a card is used, it keeps a large one.
    pub fn new(matrix: View<'_>) -> Self {
        Self { kept: keep(matrix), ..Self::packed(matrix) }
    }

    /// Of a matrix, for one product.
    pub(crate) fn packed(matrix: View<'_>) -> Self {
        let mut panels = Self::to_fill(matrix);
        if panels.rows > 0 {
            let each = panels.values.chunks_exact_mut(panels.rows * LANES).enumerate();
            each.for_each(|(panel, values)| pack_panel(matrix, panel, values));
        }
        panels
    }

    /// The same, on all threads of the pool.
    pub(crate) fn on_all_threads(matrix: View<'_>) -> Self {
        let mut panels = Self::to_fill(matrix);
        if panels.rows > 0 {
            let of_panel = panels.rows * LANES;
            let bands = panels.values.par_chunks_mut(of_panel * PACKED).enumerate();
            fork("panels", |fork| {
                bands.with_max_len(1).for_each(|(band, values)| {
                    fork.child(|| {
                        for (panel, values) in values.chunks_exact_mut(of_panel).enumerate() {
                            pack_panel(matrix, band * PACKED + panel, values);
                        }
                    });
                });
            });
        }
        panels
    }

    fn to_fill(matrix: View<'_>) -> Self {
        let (rows, columns) = (matrix.rows(), matrix.columns());
        Self { rows, columns, values: Room::to_fill(columns.div_ceil(LANES) * rows * LANES), kept: None }
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The same on the card.
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.as_deref()
    }

    /// Some rows of some panels.
    pub(crate) fn some(&self, panels: Range<usize>, rows: Range<usize>) -> Vec<&[[f32; LANES]]> {
        let (values, _) = self.values.as_chunks::<LANES>();
        panels.map(|panel| &values[panel * self.rows..][rows.clone()]).collect()
    }
}

/// One panel, all of its values.
fn pack_panel(matrix: View<'_>, panel: usize, values: &mut [f32]) {
    let columns = panel * LANES..matrix.columns().min((panel + 1) * LANES);
    if columns.len() < LANES {
        values.fill(0.0);
    }
    let (values, _) = values.as_chunks_mut::<LANES>();
    pack(matrix.some_columns(columns).transposed(), 0..matrix.rows(), values);
}

/// The left side, some of its columns: twelve rows after twelve rows, each strip's columns one after the other. Rows that
/// the last strip lacks stay what they are.
pub(crate) fn in_strips(matrix: View<'_>, columns: Range<usize>, strips: &mut [[f32; ROWS]]) {
    let rows = matrix.rows();
    if columns.is_empty() {
        return;
    }
    for (strip, values) in strips.chunks_exact_mut(columns.len()).enumerate() {
        let first = strip * ROWS;
        pack(matrix.some_rows(first..rows.min(first + ROWS)), columns.clone(), values);
    }
}

/// Turns at most N rows into columns of N: `columns` of them.
fn pack<const N: usize>(rows: View<'_>, columns: Range<usize>, out: &mut [[f32; N]]) {
    let turned = rows.transposed();
    if turned.line(0).is_some() {
        for (column, out) in columns.zip(out) {
            out[..rows.rows()].copy_from_slice(turned.row(column));
        }
    } else {
        for lane in 0..rows.rows() {
            for (&value, out) in rows.row(lane)[columns.clone()].iter().zip(&mut *out) {
                out[lane] = value;
            }
        }
    }
}
