//! What one group of weights should be while all others are as they are: the steps of coordinate descent.
//!
//! Errors e of a row cost e H e^T. While the errors e_k of all other groups stay, the cost of a group g is least at
//!
//! ```text
//! x_g + (sum over the other groups k of e_k H_kg) H_gg^-1  =  y_g + (e H)_g H_gg^-1
//! ```
//!
//! with x the weights and y what they are decoded to now. Feedback from left to right (GPTQ) knows nothing of the errors
//! to the right; this does, and so mends what it leaves (QuantEase, Behdin et al. 2023).

use std::sync::OnceLock;

use dense_kernels::{Accum, Dense, Panels, View, one_thread};

/// The columns of a step in H.
#[derive(Debug)]
pub struct Around {
    /// All rows of them.
    pub columns: Panels,
    /// Of each column what is on the diagonal: the cost of an error there by itself.
    pub importance: Vec<f32>,
    /// The step's own rows of them.
    pub corner: Dense,
    /// For groups of one weight and for larger ones.
    groups: [OnceLock<Groups>; 2],
}

/// Groups of neighbouring columns of a step.
#[derive(Debug)]
pub struct Groups {
    /// Of each group its part of H, inverted: as many rows as columns, as many columns as a group has.
    pub inverses: Dense,
    /// How the groups to the right of one are moved by the difference that new codes make in it: by minus H_kg H_gg^-1; zeros
    /// for the group itself and what is left of it.
    pub moving: Dense,
}

impl Around {
    /// Of the columns of H, all rows of them, of which the step's own begin at `start`.
    pub fn new(columns: &Dense, start: usize) -> Self {
        let width = columns.columns();
        let mut corner = Dense::zeros(width, width);
        corner.view_mut().copy_from(columns.view().some_rows(start..start + width));
        let importance = (0..width).map(|j| corner.row(j)[j]).collect();
        Self { columns: Panels::new(columns.view()), importance, corner, groups: Default::default() }
    }

    /// The groups of so many weights; always the same number, or one.
    ///
    /// # Panics
    /// If the columns are no whole groups.
    pub fn groups(&self, size: usize) -> &Groups {
        self.groups[usize::from(size > 1)].get_or_init(|| Groups::new(&self.corner, size))
    }
}

impl Groups {
    fn new(corner: &Dense, size: usize) -> Self {
        let width = corner.columns();
        assert!(width.is_multiple_of(size), "{width} columns in groups of {size}");
        let [mut inverses, mut moving] = [Dense::zeros(width, size), Dense::zeros(width, width)];
        for group in (0..width).step_by(size).map(|start| start..start + size) {
            let inverse = inverse(corner.view().part(group.clone(), group.clone()));
            inverses.part_mut(group.clone(), 0..size).copy_from(inverse.view());
            let left = 0..group.start;
            let above = corner.view().part(left.clone(), group.clone());
            one_thread(moving.part_mut(left, group), Accum::Replace, above, inverse.view());
        }
        moving.values_mut().iter_mut().for_each(|x| *x = -*x);
        Self { inverses, moving }
    }
}

/// The inverse of a small square that is positive definite, in f64 but for the result.
pub fn inverse(matrix: View<'_>) -> Dense {
    let size = matrix.rows();
    // Gauss and Jordan's elimination; pivots on the diagonal will do.
    let mut rows: Vec<Vec<f64>> = (0..size)
        .map(|i| {
            let unit = (0..size).map(|j| if i == j { 1.0 } else { 0.0 });
            matrix.row(i).iter().map(|&x| f64::from(x)).chain(unit).collect()
        })
        .collect();
    for pivot in 0..size {
        let divisor = rows[pivot][pivot];
        rows[pivot].iter_mut().for_each(|x| *x /= divisor);
        let own = rows[pivot].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
            let factor = row[pivot];
            row.iter_mut().zip(&own).for_each(|(x, own)| *x -= factor * own);
        }
    }
    Dense::new(size, rows.iter().flat_map(|row| row[size..].iter().map(|&x| x as f32)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_at_its_place_costs_the_least() {
        let n = 16;
        let h = |i: usize, j: usize| 0.8f32.powi(i.abs_diff(j) as i32) + if i == j { 0.3 } else { 0.0 };
        let columns = Dense::new(n, (0..n * n).map(|k| h(k / n, k % n)).collect());
        let around = Around::new(&columns, 0);
        assert_eq!(around.importance, vec![1.3; n]);
        let cost = |e: &[f32]| -> f32 { (0..n * n).map(|k| e[k / n] * h(k / n, k % n) * e[k % n]).sum() };
        for size in [1, 8] {
            let Groups { inverses, moving } = around.groups(size);
            let mut e: Vec<f32> = (0..n).map(|i| ((i * 7) % 5) as f32 - 2.0).collect();
            let group = size..2 * size;
            // The group's step: e - (e H)_g H_gg^-1.
            let gradient = |e: &[f32], j: usize| -> f32 { (0..n).map(|k| e[k] * h(k, j)).sum() };
            let to = |e: &[f32], j: usize| -> f32 {
                let first = j / size * size;
                (first..first + size).map(|k| gradient(e, k) * inverses.row(k)[j - first]).sum()
            };
            let step: Vec<f32> = group.clone().map(|j| to(&e, j)).collect();
            let last = n - 1;
            let before = to(&e, last) - e[last];
            group.clone().zip(&step).for_each(|(j, step)| e[j] -= step);
            let least = cost(&e);
            for j in group.clone() {
                for change in [-0.01, 0.01] {
                    let mut other = e.clone();
                    other[j] += change;
                    assert!(cost(&other) > least, "{size}: column {j}");
                }
            }
            // What a change there moves a later group by.
            let moved: f32 = group.zip(&step).map(|(k, step)| -step * moving.row(k)[last]).sum();
            let after = to(&e, last) - e[last];
            assert!((after - before - (-moved)).abs() < 1e-5, "{size}: {before} {after} {moved}");
        }
    }
}
