//! The triangular factor of a covariance.

use super::card::{on_card, worth};
use super::matrix::{Dense, View};
use super::product::{Accum, product};

/// Columns that are factored together.
const BLOCK: usize = 128;

/// The matrix is not positive definite: the pivot of this column is no positive number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPositive(pub usize);

/// R, upper triangular, with H = R R^T, in the place of H. Only what is on and above the diagonal is read or written.
///
/// Cholesky's factorisation from the last column to the first, so that R's columns weigh what comes before them.
/// Blocks of columns are solved by the inverse of their corner, so that all of the work is products. On all threads of
/// the pool, or on the card that is used.
///
/// # Errors
/// If H is not positive definite, or not by more than its rounding; H is lost.
///
/// # Panics
/// If H is not square.
pub fn upper_factor(h: &mut Dense) -> Result<(), NotPositive> {
    let n = h.columns();
    assert_eq!(h.rows(), n, "rows and columns");
    let mut factored = Ok(());
    let faster = || worth((n as f64).powi(3) / 3.0, n * n * 3 / 2, rayon::current_num_threads());
    if on_card(faster, |card| card.upper_factor(h).map(|found| factored = found)) {
        return factored;
    }
    for start in (0..n).step_by(BLOCK).rev() {
        let end = n.min(start + BLOCK);
        let width = end - start;
        // This block less the products of the columns to its right.
        let mut later = Dense::zeros(end, width);
        let right = h.view().some_columns(end..n);
        product(
            later.view_mut(),
            Accum::Replace,
            right.some_rows(0..end),
            right.some_rows(start..end).transposed(),
        );
        for (row, later) in later.values_mut().chunks_exact_mut(width).enumerate() {
            let own = &h.row(row)[start..end];
            later.iter_mut().zip(own).for_each(|(later, own)| *later = own - *later);
        }
        let (corner, inverse) =
            corner(later.view().some_rows(start..end)).map_err(|at| NotPositive(start + at))?;
        let mut above = Dense::zeros(start, width);
        product(
            above.view_mut(),
            Accum::Replace,
            later.view().some_rows(0..start),
            inverse.view().transposed(),
        );
        h.part_mut(0..start, start..end).copy_from(above.view());
        for i in 0..width {
            h.row_mut(start + i)[start + i..end].copy_from_slice(&corner.row(i)[i..]);
        }
    }
    Ok(())
}

/// The factor of a small matrix, and the factor's inverse. In f64, element by element.
fn corner(s: View<'_>) -> Result<(Dense, Dense), usize> {
    let n = s.rows();
    let mut r = vec![vec![0f64; n]; n];
    for j in (0..n).rev() {
        for i in (0..=j).rev() {
            let rest: f64 = r[i][j + 1..].iter().zip(&r[j][j + 1..]).map(|(a, b)| a * b).sum();
            let left = f64::from(s.at(i, j)) - rest;
            if i == j && !(left > 0.0 && left.is_finite()) {
                return Err(j);
            }
            r[i][j] = if i == j { left.sqrt() } else { left / r[j][j] };
        }
    }
    let inverse = inverse(&r);
    Ok((Dense::new(n, r.concat().into_iter().map(|x| x as f32).collect()), inverse))
}

/// The inverse of a small upper triangular matrix, in f64 but for the result. Elements left of the diagonal are not
/// read.
///
/// # Panics
/// If the matrix is not square.
pub fn upper_inverse(matrix: View<'_>) -> Dense {
    let n = matrix.rows();
    assert_eq!(n, matrix.columns(), "rows and columns");
    let mut inverted = Dense::default();
    if on_card(|| n >= BLOCK, |card| card.upper_inverse(matrix).map(|found| inverted = found)) {
        return inverted;
    }
    let row = |i: usize| matrix.row(i).iter().map(|&x| f64::from(x)).collect();
    inverse(&(0..n).map(row).collect::<Vec<Vec<f64>>>())
}

fn inverse(r: &[Vec<f64>]) -> Dense {
    let n = r.len();
    let mut inverse = Dense::zeros(n, n);
    let mut column = vec![0f64; n];
    for j in 0..n {
        column[j] = 1.0 / r[j][j];
        for i in (0..j).rev() {
            let rest: f64 = r[i][i + 1..=j].iter().zip(&column[i + 1..=j]).map(|(a, b)| a * b).sum();
            column[i] = -rest / r[i][i];
        }
        (0..=j).for_each(|i| inverse.row_mut(i)[j] = column[i] as f32);
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gram;

    #[test]
    fn the_factor_times_itself_is_the_matrix() {
        // Two blocks and a bit.
        let n = 300;
        let number = |i: usize| ((i * 7919) % 1013) as f32 / 1013.0 - 0.4;
        let rows = Dense::new(n, (0..n * 450).map(number).collect());
        let mut h = Dense::zeros(n, n);
        gram(h.view_mut(), rows.view());
        (0..n).for_each(|i| h.row_mut(i)[i] += 0.5);
        let mut r = h.clone();
        upper_factor(&mut r).expect("positive");
        let largest = (0..n).map(|i| h.row(i)[i]).fold(0f32, f32::max);
        for i in 0..n {
            for j in i..n {
                let sum: f64 = (j..n).map(|k| f64::from(r.row(i)[k]) * f64::from(r.row(j)[k])).sum();
                let off = (sum - f64::from(h.row(i)[j])).abs() / f64::from(largest);
                assert!(off < 2e-6, "{i}, {j}: {off}");
            }
        }
    }

    #[test]
    fn a_triangle_times_its_inverse_is_one() {
        let n = 40;
        let mut triangle = Dense::new(n, (0..n * n).map(|i| ((i * 7919) % 1013) as f32 / 9000.0).collect());
        (0..n).for_each(|i| triangle.row_mut(i)[i] = 1.0 + i as f32 / 10.0);
        let inverse = upper_inverse(triangle.view());
        for i in 0..n {
            for j in 0..n {
                let sum: f32 = (i..=j).map(|k| triangle.row(i)[k] * inverse.row(k)[j]).sum();
                assert!((sum - f32::from(u8::from(i == j))).abs() < 1e-5, "{i}, {j}: {sum}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_is_an_error_with_its_column() {
        let mut h = Dense::zeros(200, 200);
        (0..200).for_each(|i| h.row_mut(i)[i] = 1.0);
        h.row_mut(150)[150] = -1.0;
        assert_eq!(upper_factor(&mut h), Err(NotPositive(150)));
        h.row_mut(199)[199] = f32::NAN;
        assert_eq!(upper_factor(&mut h), Err(NotPositive(199)));
    }
}
