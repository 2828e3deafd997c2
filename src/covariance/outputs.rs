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

use super::around::inverse;
use super::encode::difference;
use super::metric::{Covariance, Damped, damped_factor};
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
    segments: Vec<Segment>,
}

/// Rows of which each takes up the errors of others: of row i on the left, of row j above.
#[derive(Debug)]
struct Segment {
    /// From the rows before: sums of V_ij as they are between groups, above and on the right of the groups' corners.
    first: Dense,
    /// From all rows of other groups, once they have codes: G_ig G_gg^-1, zeros for the group itself.
    again: Dense,
    /// Of each group its part of G.
    corners: Vec<Dense>,
}

/// Sums for gradients at so many outputs.
pub fn moments(outputs: usize) -> Covariance {
    Covariance::in_segments(outputs, SEGMENT, GROUP)
}

/// Bytes to factor those of so many outputs in, and what is kept of it.
pub fn working_bytes(outputs: usize) -> u64 {
    let width = outputs.min(SEGMENT) as u64;
    outputs as u64 * width * 18
}

impl Coupling {
    /// Of the gradients that were added up; what is added to the diagonal is `damping` times its mean.
    ///
    /// # Errors
    /// If gradients are not finite.
    pub fn new(gradients: Covariance, damping: f32) -> Result<Self> {
        let of_segment = |moments: Dense| {
            let Damped { r: mut v, h: moments } = damped_factor(moments, damping)?;
            let n = v.columns();
            let diagonal: Vec<f32> = (0..n).map(|j| v.row(j)[j]).collect();
            for i in 0..n {
                let (left, right) = v.row_mut(i).split_at_mut(i);
                // What is left of the factor's diagonal is of no meaning.
                left.fill(0.0);
                right.iter_mut().zip(&diagonal[i..]).for_each(|(r, d)| *r /= d);
            }
            let [mut first, mut again] = [(); 2].map(|()| Dense::zeros(n, n));
            let mut corners = Vec::new();
            for group in (0..n).step_by(GROUP).map(|start| start..n.min(start + GROUP)) {
                if group.start > 0 {
                    let above = v.view().part(0..group.start, group.clone());
                    let inverse = upper_inverse(v.view().part(group.clone(), group.clone()));
                    let first = first.part_mut(0..group.start, group.clone());
                    product(first, Accum::Replace, above, inverse.view());
                }
                let columns = moments.columns(group.clone());
                let mut corner = Dense::zeros(group.len(), group.len());
                corner.view_mut().copy_from(columns.view().some_rows(group.clone()));
                let inverse = inverse(corner.view());
                corners.push(corner);
                let of_group = again.part_mut(0..n, group.clone());
                product(of_group, Accum::Replace, columns.view(), inverse.view());
                group.clone().for_each(|row| again.row_mut(row)[group.clone()].fill(0.0));
            }
            Ok(Segment { first, again, corners })
        };
        let moments = gradients.shrunk(STRENGTH);
        Ok(Self { segments: threads::try_map("couplings", moments, of_segment)? })
    }

    /// The rows of each segment.
    pub fn segments(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        self.segments.iter().map(move |segment| {
            let rows = start..start + segment.first.columns();
            start = rows.end;
            rows
        })
    }

    /// Has rows of weights of one segment encoded group after group, each moved by the errors of the rows before it, and then
    /// again, `sweeps` times, moved by those of all others. `encode` takes the first row of a group, its targets, G of the
    /// group if it has codes already, and gives the decoded rows.
    ///
    /// # Panics
    /// If there are not as many rows as the segment has.
    pub fn each_group(
        &self,
        segment: usize,
        weights: View<'_>,
        sweeps: usize,
        mut encode: impl FnMut(usize, &Dense, Option<&Dense>) -> Dense,
    ) {
        let Segment { first, again, corners } = &self.segments[segment];
        let (rows, columns) = (weights.rows(), weights.columns());
        assert_eq!(rows, first.rows(), "the rows of a segment");
        let mut errors = Dense::zeros(rows, columns);
        let passes = std::iter::once((first, false)).chain((0..sweeps).map(|_| (again, true)));
        for (coupling, is_again) in passes {
            for panel in (0..rows).step_by(PANEL) {
                let panel = panel..rows.min(panel + PANEL);
                let after = if is_again { panel.end..rows } else { rows..rows };
                let others = [0..panel.start, after];
                let targets =
                    moved(weights.some_rows(panel.clone()), coupling, &errors, panel.clone(), others);
                for start in panel.clone().step_by(GROUP) {
                    let group = start..panel.end.min(start + GROUP);
                    let others = if is_again { panel.clone() } else { panel.start..start };
                    let of_panel = start - panel.start..group.end - panel.start;
                    let target =
                        moved(targets.view().some_rows(of_panel), coupling, &errors, group.clone(), [others]);
                    let decoded = encode(start, &target, is_again.then(|| &corners[start / GROUP]));
                    for row in group {
                        difference(errors.row_mut(row), weights.row(row), decoded.row(row - start));
                    }
                }
            }
        }
    }
}

/// Rows moved by what the errors of others come to there.
fn moved<const N: usize>(
    rows: View<'_>,
    coupling: &Dense,
    errors: &Dense,
    own: Range<usize>,
    others: [Range<usize>; N],
) -> Dense {
    let mut moved = Dense::zeros(rows.rows(), rows.columns());
    moved.view_mut().copy_from(rows);
    for others in others.into_iter().filter(|others| !others.is_empty()) {
        let left = coupling.view().part(others.clone(), own.clone()).transposed();
        product(moved.view_mut(), Accum::Add, left, errors.view().some_rows(others));
    }
    moved
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
        let cost_of = |g: &Dense, x: &Dense, y: &Dense| -> f64 {
            let mut e = x.clone();
            e.values_mut().iter_mut().zip(y.values()).for_each(|(x, y)| *x -= y);
            let product = |i: usize, j: usize| e.row(i).iter().zip(e.row(j)).map(|(a, b)| a * b).sum::<f32>();
            let rows = || (0..e.rows()).flat_map(|i| (0..e.rows()).map(move |j| (i, j)));
            rows().map(|(i, j)| f64::from(g.row(i)[j] * product(i, j))).sum()
        };
        let mut coupled = Dense::zeros(rows, columns);
        let mut once = None;
        coupling.each_group(0, weights.view(), 1, |start, target, g| {
            let mut decoded = rounded(target);
            if let Some(g) = g {
                once.get_or_insert_with(|| coupled.clone());
                let before = Dense::new(
                    columns,
                    coupled.values()[start * columns..][..target.values().len()].to_vec(),
                );
                if cost_of(g, target, &before) <= cost_of(g, target, &decoded) {
                    decoded = before;
                }
            }
            coupled.part_mut(start..start + decoded.rows(), 0..columns).copy_from(decoded.view());
            decoded
        });
        let once = cost(&once.expect("a second time"));
        let [plain, coupled] = [cost(&rounded(&weights)), cost(&coupled)];
        assert!(once < 0.65 * plain && coupled < 0.99 * once, "{coupled} {once} {plain}");
    }

    #[test]
    fn wide_outputs_have_segments() {
        let coupling = Coupling::new(moments(2100), 0.1);
        // Nothing was added: all zeros, which damping makes a unit.
        let rows: Vec<Range<usize>> = coupling.expect("damped").segments().collect();
        assert_eq!(rows, [0..1056, 1056..2100]);
    }
}
