//! Compares one expert, head or matrix with its source: its error and, where that is more than its type explains, the
//! error that our encoder has on the same weights.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use quant_kernels::Format;

use super::deviation::{Deviation, Sums};
use super::{Bounds, Row, Slice};
use crate::checkpoint::Values;
use crate::error::{Error, Result};
use crate::gguf::{Entry, Part};
use crate::model::TensorPlan;
use crate::store::Store;

/// Rows with less energy than this share of their slice's mean row are measured against that.
const FAINT: f64 = 0.01;

/// So is what has less energy a weight than this: half-precision scales end at 6e-8.
const FAINTEST: f64 = 1e-12;

/// Bytes that are compared at a time where nothing can be decoded.
const CARRIED: u64 = 1 << 20;

/// The most rows that are reported of a slice.
pub const WORST: usize = 3;

/// A slice with its source, and how it is encoded.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    pub store: &'a dyn Store,
    pub plan: &'a TensorPlan,
    pub slice: usize,
    pub part: &'a Part,
    pub entry: &'a Entry,
    /// As the encoder takes them; None where all columns are alike or it is not known what the file was made with.
    pub importance: Option<&'a [f32]>,
    pub bounds: Bounds,
    /// What the decoded blocks are multiplied by, where the file has factors beside them and the source has not.
    pub factor: f32,
    pub stop: &'a AtomicBool,
}

/// The findings about a slice.
pub struct Judged {
    pub sum: Deviation,
    /// The energy below which its errors are not taken relative to it.
    pub floor: f64,
    pub slice: Slice,
    /// The rows with the largest errors, the worst first.
    pub worst: Vec<Row>,
    /// Whether the slice as a whole is within the bounds.
    pub within: bool,
    /// The worst row that is not, with the error that it may have.
    pub beyond: Option<(Row, f64)>,
}

/// Sums over a slice and over each of its rows, these without importances.
struct Measured {
    sum: Deviation,
    rows: Vec<Sums>,
}

impl Beside<'_> {
    /// Measures the slice and holds it against the bounds.
    ///
    /// # Errors
    /// If the system cannot read, the source holds what is no weight, or the user wants to stop.
    pub fn judge(&self) -> Result<Judged> {
        let (entry, columns) = (self.entry, self.plan.columns());
        if !entry.format.is_known() {
            return self.carried();
        }
        let row_bytes = entry.format.row_bytes(columns);
        let first = self.slice as u64 * self.plan.rows();
        let found = self.measure(self.factor, |rows, _, blocks| {
            self.part.read_at(entry.offset + (first + rows.start) * row_bytes, blocks)
        })?;
        let floor = self.floor(&found.sum);
        let row_floor = (FAINT * found.sum.plain.xx / found.rows.len() as f64).max(FAINTEST * columns as f64);
        let row =
            |(row, sums): (u64, &Sums)| Row { slice: self.slice, row, unit_gain_error: sums.unit(row_floor) };
        let mut rows: Vec<Row> = (0..).zip(&found.rows).map(row).collect();
        sort_worst(&mut rows);
        let bounds = self.bounds;
        // The worst come first, and of them NaN, which is within nothing.
        let is_beyond = |row: &Row| row.unit_gain_error.is_nan() || row.unit_gain_error > bounds.row_error;
        let mut beyond: Vec<Row> = rows.iter().copied().take_while(is_beyond).collect();
        rows.truncate(WORST);
        let mut within = bounds.hold(&found.sum.weighted, floor);
        let mut slice = Slice {
            unit_gain_error: found.sum.weighted.unit(floor),
            gain: found.sum.weighted.gain(),
            encoder_error: None,
        };
        let mut allowed = bounds.row_error;
        if !within || !beyond.is_empty() {
            // These weights may be such that the type cannot hold them better: sparse, faint, or with a giant among
            // them.
            let reached = self.measure(1.0, |_, weights, blocks| {
                quant_kernels::quantize(entry.format, weights, columns as usize, self.importance, blocks);
                Ok(())
            })?;
            within = within || bounds.hold_beside(&found.sum.weighted, &reached.sum.weighted, floor);
            let row_of = |rows: &[Sums], row: &Row| rows[row.row as usize];
            beyond.retain(|row| {
                let [found, reached] = [&found.rows, &reached.rows].map(|rows| row_of(rows, row));
                !bounds.hold_row_beside(&found, &reached, row_floor)
            });
            if let Some(row) = beyond.first() {
                allowed = bounds.row_allowed(&row_of(&reached.rows, row), row_floor);
            }
            slice.encoder_error = Some(reached.sum.weighted.unit(floor));
        }
        let beyond = beyond.first().map(|row| (*row, allowed));
        Ok(Judged { sum: found.sum, floor, slice, worst: rows, within, beyond })
    }

    /// A type that is not encoded must have the source's bytes, or its codes.
    fn carried(&self) -> Result<Judged> {
        let (slice, format) = (&self.plan.slices[self.slice], self.entry.format);
        let matrix = self.store.open(&slice.tensor)?;
        let rows = self.plan.rows();
        let row_bytes = format.row_bytes(self.plan.columns());
        let first = self.slice as u64 * rows;
        let step = slice.step((CARRIED / row_bytes).clamp(1, rows), rows);
        let (mut source, mut regrouped, mut found, mut within) = (Vec::new(), Vec::new(), Vec::new(), true);
        for start in (0..rows).step_by(step as usize) {
            let piece = start..rows.min(start + step);
            matrix.load(slice.stored_rows(&piece), &mut source)?;
            found.resize(((piece.end - piece.start) * row_bytes) as usize, 0);
            self.part.read_at(self.entry.offset + (first + piece.start) * row_bytes, &mut found)?;
            within &= if self.plan.regrouped == Some(format) {
                regrouped.resize(found.len(), 0);
                slice.regroup(&*matrix, format, piece, &source, &mut regrouped).is_empty()
                    && regrouped == found
            } else {
                source == found
            };
        }
        let slice =
            Slice { unit_gain_error: if within { 0.0 } else { f64::NAN }, gain: 1.0, encoder_error: None };
        Ok(Judged { sum: Deviation::default(), floor: 1.0, slice, worst: Vec::new(), within, beyond: None })
    }

    /// Sums over the decoded blocks that `fill` gives for rows of the source.
    fn measure(
        &self,
        factor: f32,
        mut fill: impl FnMut(Range<u64>, &[f32], &mut [u8]) -> Result<()>,
    ) -> Result<Measured> {
        let (plan, format): (_, Format) = (self.plan, self.entry.format);
        let columns = plan.columns() as usize;
        let row_bytes = format.row_bytes(plan.columns());
        let importance = self.importance.and_then(relative);
        let (mut blocks, mut decoded) = (Vec::new(), vec![0.0; columns]);
        let mut measured = Measured { sum: Deviation::default(), rows: Vec::new() };
        let source = &plan.slices[self.slice];
        let matrix = self.store.open(&source.tensor)?;
        source.each(&*matrix, [plan.rows(), plan.columns()], Values::Any, |rows, weights| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            blocks.resize(((rows.end - rows.start) * row_bytes) as usize, 0);
            fill(rows, weights, &mut blocks)?;
            for (row, blocks) in weights.chunks_exact(columns).zip(blocks.chunks_exact(row_bytes as usize)) {
                quant_kernels::dequantize(format, blocks, &mut decoded);
                if factor != 1.0 {
                    decoded.iter_mut().for_each(|weight| *weight *= factor);
                }
                let row = Deviation::of_row(row, &decoded, importance.as_deref());
                measured.sum += row;
                measured.rows.push(row.plain);
            }
            Ok(())
        })?;
        Ok(measured)
    }

    fn floor(&self, Deviation { weighted, plain }: &Deviation) -> f64 {
        let mean_importance = if plain.xx > 0.0 { weighted.xx / plain.xx } else { 1.0 };
        FAINTEST * (self.plan.rows() * self.plan.columns()) as f64 * mean_importance
    }
}

/// Importances relative to the largest, so that no sum overflows; None if they are all zeros, which count alike.
fn relative(importance: &[f32]) -> Option<Vec<f32>> {
    let largest = importance.iter().copied().fold(0.0, f32::max);
    (largest > 0.0).then(|| importance.iter().map(|w| w / largest).collect())
}

/// The worst first, the first of equals first; NaN is worst of all.
pub fn sort_worst(rows: &mut [Row]) {
    rows.sort_by(|a, b| b.unit_gain_error.total_cmp(&a.unit_gain_error));
}
