//! What weights say of their inputs, before any text is read.
//!
//! Training adds to a matrix sums of g x^T, x being an input and g a gradient, so that its rows point where its inputs lie.
//! What two columns of the weights have in common, over all rows that read them, therefore says something of what the two
//! inputs have in common. How much differs from matrix to matrix; a text tells it, and needs few tokens for one number.

use std::ops::Range;

use dense_kernels::Dense;

use super::metric::{Covariance, Estimate, each_upper};
use crate::error::Result;
use crate::forward::Weights;
use crate::model::TensorPlan;
use crate::threads;

/// Rows for each column that are enough: chance gives correlations of a third then, and the share of them that is believed is
/// fitted.
const ENOUGH: usize = 8;

/// Weights that are read at a time.
const AT_ONCE: usize = 1 << 24;

/// Correlations of the columns of weights.
#[derive(Debug)]
pub struct Prior {
    /// Of the segments of the columns what is right of the diagonals.
    segments: Vec<Dense>,
}

impl Prior {
    /// Of slices that share their inputs; of many, some that lie evenly in the list.
    ///
    /// # Errors
    /// If they cannot be read.
    ///
    /// # Panics
    /// If there are none.
    pub fn read(weights: &Weights<'_>, readers: &[(&TensorPlan, usize)]) -> Result<Self> {
        let columns = readers[0].0.columns() as usize;
        let rows: usize = readers.iter().map(|(tensor, _)| tensor.rows() as usize).sum();
        let step = (rows / (ENOUGH * columns)).max(1);
        let mut sums = Covariance::new(columns);
        for &(tensor, slice) in readers.iter().step_by(step) {
            for rows in bands(tensor.rows() as usize, (AT_ONCE / columns).max(1)) {
                sums.add(weights.band(&tensor.name, slice, rows)?.view());
            }
        }
        Ok(Self::of(sums))
    }

    /// Of rows that were added up.
    pub fn of(sums: Covariance) -> Self {
        let mut segments = sums.mean();
        for segment in &mut segments {
            let over = roots(segment).into_iter().map(over).collect::<Vec<f32>>();
            each_upper(segment, |i, row| {
                row[1..].iter_mut().zip(&over[i + 1..]).for_each(|(x, other)| *x *= over[i] * other);
            });
        }
        Self { segments }
    }

    /// Draws what is right of the diagonal of a segment of a covariance towards what is here: of what was measured `known`
    /// stays, and the rest becomes a share of these correlations.
    pub fn draw(&self, segment: usize, covariance: &mut Dense, known: f32, share: f32) {
        let prior = &self.segments[segment];
        let share = share * (1.0 - known);
        let deviations = roots(covariance);
        each_upper(covariance, |i, row| {
            let unit = share * deviations[i];
            for ((x, prior), deviation) in
                row[1..].iter_mut().zip(&prior.row(i)[i + 1..]).zip(&deviations[i + 1..])
            {
                *x = known * *x + unit * deviation * prior;
            }
        });
    }

    /// What inputs of these mean squares are taken for, if this share of the correlations is believed.
    ///
    /// # Panics
    /// If there are not as many columns.
    pub fn estimate(&self, mean_squares: &[f32], share: f32) -> Estimate {
        let mut first = 0;
        let of_segment = |(place, prior): (usize, &Dense)| {
            let columns = prior.columns();
            let mut covariance = Dense::zeros(columns, columns);
            (0..columns).for_each(|i| covariance.row_mut(i)[i] = mean_squares[first + i]);
            first += columns;
            self.draw(place, &mut covariance, 0.0, share);
            covariance
        };
        let segments: Vec<Dense> = self.segments.iter().enumerate().map(of_segment).collect();
        assert_eq!(first, mean_squares.len(), "the columns of all segments");
        Estimate { segments, tokens: Some(0.0) }
    }

    /// The share of the correlations here that comes nearest to those of a covariance (least squares; none at the least, all at
    /// the most).
    pub fn share(&self, segment: usize, covariance: &Dense) -> f32 {
        let over = roots(covariance).into_iter().map(over).collect::<Vec<f32>>();
        let prior = &self.segments[segment];
        let of_row = |&i: &usize| {
            let (mut both, mut own) = (0.0, 0.0);
            let values = covariance.row(i)[i + 1..].iter().zip(&over[i + 1..]).zip(&prior.row(i)[i + 1..]);
            for ((x, other), prior) in values {
                let prior = f64::from(*prior);
                both += f64::from(x * over[i] * other) * prior;
                own += prior * prior;
            }
            [both, own]
        };
        let rows: Vec<usize> = (0..covariance.columns()).collect();
        // Added in the order of the rows, whatever threads there are.
        let sums = threads::map("correlations", &rows, of_row);
        let [both, own] = sums.into_iter().fold([0.0; 2], |sum, row| [sum[0] + row[0], sum[1] + row[1]]);
        let share = (both / own) as f32;
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// Ranges of at most so many rows.
fn bands(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(most).map(move |start| start..rows.min(start + most))
}

/// The roots of a square's diagonal.
fn roots(square: &Dense) -> Vec<f32> {
    (0..square.columns()).map(|i| square.row(i)[i].max(0.0).sqrt()).collect()
}

/// One over a number, and 0 for 0.
fn over(x: f32) -> f32 {
    if x > 0.0 { 1.0 / x } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of two columns with a correlation of `both` in the mean, and of a third that is by itself.
    fn rows(both: f32) -> Dense {
        let other = (1.0 - both * both).sqrt();
        let rows =
            [[1.0, both, 0.0], [0.0, other, 0.0], [-1.0, -both, 0.0], [0.0, -other, 0.0], [0.0, 0.0, 2.0]];
        Dense::new(3, rows.as_flattened().to_vec())
    }

    fn prior(both: f32) -> Prior {
        let mut sums = Covariance::new(3);
        sums.add(rows(both).view());
        Prior::of(sums)
    }

    fn covariance(both: f32) -> Dense {
        Dense::new(3, vec![4.0, both * 2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 9.0])
    }

    #[test]
    fn correlations_are_drawn_to_the_share_that_fits() {
        let right = |both, measured, known| {
            let mut drawn = covariance(measured);
            let prior = prior(both);
            let share = prior.share(0, &drawn);
            prior.draw(0, &mut drawn, known, share);
            assert_eq!([0, 1, 2].map(|i| drawn.row(i)[i]), [4.0, 1.0, 9.0], "mean squares stay");
            assert!(drawn.row(0)[2].abs() < 1e-6 && drawn.row(1)[2].abs() < 1e-6, "{drawn:?}");
            drawn.row(0)[1] / 2.0
        };
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-5, "{a} {b}");
        // One correlation is there, so that the best share of it is what was measured: nothing changes.
        near(right(0.8, 0.4, 0.25), 0.4);
        // More than all is not believed, and the opposite not at all.
        near(right(0.5, 0.8, 0.25), 0.25 * 0.8 + 0.75 * 0.5);
        near(right(0.5, -0.4, 0.25), 0.25 * -0.4);
        near(right(0.0, 0.4, 0.25), 0.25 * 0.4);
    }

    #[test]
    fn without_a_text_a_share_is_given() {
        let estimate = prior(0.5).estimate(&[4.0, 1.0, 0.0], 0.4);
        assert_eq!((estimate.tokens, estimate.segments.len()), (Some(0.0), 1));
        let segment = &estimate.segments[0];
        assert_eq!([0, 1, 2].map(|i| segment.row(i)[i]), [4.0, 1.0, 0.0]);
        assert!((segment.row(0)[1] - 0.4 * 0.5 * 2.0).abs() < 1e-6, "{segment:?}");
    }

    #[test]
    fn weights_of_nothing_say_nothing() {
        let mut sums = Covariance::new(3);
        sums.add(Dense::zeros(4, 3).view());
        let mut drawn = covariance(0.4);
        let prior = Prior::of(sums);
        let share = prior.share(0, &drawn);
        prior.draw(0, &mut drawn, 0.5, share);
        assert_eq!(drawn.row(0), [4.0, 0.4, 0.0]);
        assert_eq!(bands(5, 2).collect::<Vec<_>>(), [0..2, 2..4, 4..5]);
    }
}
