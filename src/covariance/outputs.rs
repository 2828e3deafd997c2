//! The second moments G of gradients at a matrix's outputs, and how the errors of its rows are weighed against one
//! another by them.
//!
//! To second order, errors E of a matrix (a row for each output) cost tr(G E H E^T) of the model's divergence, if inputs and
//! gradients vary independently of one another (the Kronecker-factored Fisher information of Martens and Grosse 2015; for
//! rounding: YAQA, Tseng, Sun, De Sa 2025). H is fed back along a row; G from row to row in the same way: with G = R R^T, R
//! upper triangular, and V = R over its diagonal, the cost is a sum over rows of D_j |(E_j + sum over i < j of V_ij E_i)|_H^2.
//! So a row's target is its weights and what the errors of the rows before it leave there: W_j + sum of V_ij E_i. Rows are taken
//! in groups, and those of a group know nothing of one another.

use std::ops::Range;

use dense_kernels::{Accum, Dense, View, product, upper_inverse};

use super::metric::{Covariance, damped_factor};
use crate::error::Result;
use crate::threads;

/// Rows that have their targets at the same time.
const GROUP: usize = 16;

/// Rows whose targets are computed together from the errors of all rows before them.
const PANEL: usize = 256;

/// The most rows that are weighed against one another: memory grows with the square of it and time with its cube.
const SEGMENT: usize = 2048;

/// The tokens at which what they say of two outputs together counts half.
const STRENGTH: f32 = 128.0;

/// How errors move from row to row, for segments of the rows.
#[derive(Debug)]
pub struct Coupling {
    /// Of each segment, the sums of V_ij as they are between groups: above and on the right of the groups' corners.
    segments: Vec<Dense>,
}

/// Sums for gradients at so many outputs.
pub fn moments(outputs: usize) -> Covariance {
    Covariance::in_segments(outputs, SEGMENT, GROUP)
}

/// Bytes to factor those of so many outputs in.
pub fn working_bytes(outputs: usize) -> u64 {
    let width = outputs.min(SEGMENT) as u64;
    outputs as u64 * width * 12
}

impl Coupling {
    /// Of the gradients that were added up; what is added to the diagonal is `damping` times its mean.
    ///
    /// # Errors
    /// If gradients are not finite.
    pub fn new(gradients: Covariance, damping: f32) -> Result<Self> {
        let of_segment = |moments: Dense| {
            let (mut v, _) = damped_factor(moments, damping)?;
            let n = v.columns();
            let diagonal: Vec<f32> = (0..n).map(|j| v.row(j)[j]).collect();
            for i in 0..n {
                let (left, right) = v.row_mut(i).split_at_mut(i);
                // What is left of the factor's diagonal is of no meaning.
                left.fill(0.0);
                right.iter_mut().zip(&diagonal[i..]).for_each(|(r, d)| *r /= d);
            }
            let mut coupling = Dense::zeros(n, n);
            for start in (GROUP..n).step_by(GROUP) {
                let group = start..n.min(start + GROUP);
                let above = v.view().part(0..start, group.clone());
                let inverse = upper_inverse(v.view().part(group.clone(), group.clone()));
                product(coupling.part_mut(0..start, group), Accum::Replace, above, inverse.view());
            }
            Ok(coupling)
        };
        let moments = gradients.shrunk(None, STRENGTH);
        Ok(Self { segments: threads::try_map("couplings", moments, of_segment)? })
    }

    /// The rows of each segment.
    pub fn segments(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        self.segments.iter().map(move |segment| {
            let rows = start..start + segment.columns();
            start = rows.end;
            rows
        })
    }

    /// Has rows of weights of one segment encoded group after group, each moved by the errors of the rows before it.
    /// `encode` takes the first row of a group and its targets, and gives the decoded rows.
    ///
    /// # Panics
    /// If there are not as many rows as the segment has.
    pub fn each_group(
        &self,
        segment: usize,
        weights: View<'_>,
        mut encode: impl FnMut(usize, &Dense) -> Dense,
    ) {
        let coupling = self.segments[segment].view();
        let (rows, columns) = (weights.rows(), weights.columns());
        assert_eq!(rows, coupling.rows(), "the rows of a segment");
        let mut errors = Dense::zeros(rows, columns);
        for panel in (0..rows).step_by(PANEL) {
            let of_panel = panel..rows.min(panel + PANEL);
            let mut targets = Dense::zeros(of_panel.len(), columns);
            targets.view_mut().copy_from(weights.some_rows(of_panel.clone()));
            if panel > 0 {
                let left = coupling.part(0..panel, of_panel.clone()).transposed();
                product(targets.view_mut(), Accum::Add, left, errors.view().some_rows(0..panel));
            }
            for start in of_panel.clone().step_by(GROUP) {
                let group = start..of_panel.end.min(start + GROUP);
                let mut target = Dense::zeros(group.len(), columns);
                target.view_mut().copy_from(targets.view().some_rows(start - panel..group.end - panel));
                if start > panel {
                    let left = coupling.part(panel..start, group.clone()).transposed();
                    product(target.view_mut(), Accum::Add, left, errors.view().some_rows(panel..start));
                }
                let decoded = encode(start, &target);
                for row in group {
                    let both = weights.row(row).iter().zip(decoded.row(row - start));
                    errors.row_mut(row).iter_mut().zip(both).for_each(|(e, (x, y))| *e = x - y);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_with_coupled_rows_costs_less() {
        // Outputs whose gradients resemble their neighbours', weights rounded to whole numbers.
        let (rows, columns) = (600, 8);
        let mut moments = Covariance::in_segments(rows, SEGMENT, GROUP);
        let mut seed = 1u64;
        let mut next = move || {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut gradients = Dense::zeros(4000, rows);
        for token in 0..4000 {
            let mut last = 0.0;
            for x in gradients.row_mut(token) {
                last = 0.95 * last + next();
                *x = last;
            }
        }
        moments.add(gradients.view());
        let coupling = Coupling::new(moments, 0.01).expect("finite");
        assert_eq!(coupling.segments().next(), Some(0..600));
        let weights = Dense::new(columns, (0..rows * columns).map(|_| 3.0 * next()).collect());
        let cost = |decoded: &Dense| -> f64 {
            let mut errors = weights.clone();
            errors.values_mut().iter_mut().zip(decoded.values()).for_each(|(x, y)| *x -= y);
            let mut along = Dense::zeros(4000, columns);
            product(along.view_mut(), Accum::Replace, gradients.view(), errors.view());
            along.values().iter().map(|x| f64::from(x * x)).sum()
        };
        let rounded = |x: &Dense| Dense::new(columns, x.values().iter().map(|x| x.round()).collect());
        let mut coupled = Dense::zeros(rows, columns);
        coupling.each_group(0, weights.view(), |start, target| {
            let decoded = rounded(target);
            coupled.part_mut(start..start + decoded.rows(), 0..columns).copy_from(decoded.view());
            decoded
        });
        let [plain, coupled] = [cost(&rounded(&weights)), cost(&coupled)];
        assert!(coupled < 0.65 * plain, "{coupled} {plain}");
    }

    #[test]
    fn wide_outputs_have_segments() {
        let coupling = Coupling::new(moments(2100), 0.1);
        // Nothing was added: all zeros, which damping makes a unit.
        let rows: Vec<Range<usize>> = coupling.expect("damped").segments().collect();
        assert_eq!(rows, [0..1056, 1056..2100]);
    }
}
