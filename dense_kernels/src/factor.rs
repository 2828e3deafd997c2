//! The triangular factor of a covariance.

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use work_trace::fork;

use super::card::{on_card, worth};
use super::matrix::{Dense, View};
use super::product::{Accum, product};

/// Columns from which what is right of them is taken at once, in products at the kernel's full rate.
pub(crate) const PANEL: usize = 512;

/// Columns of a panel that are solved together.
pub(crate) const BLOCK: usize = 128;

/// Sums of a corner that run beside each other.
const LANES: usize = 8;

/// Rows that a thread takes at a time for one operation each.
const BAND: usize = 256;

/// The matrix is not positive definite: the pivot of this column is no positive number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPositive(pub usize);

/// R, upper triangular, with H = R R^T, in the place of H. Only what is on and above the diagonal is read or written.
///
/// Cholesky's factorisation from the last column to the first, so that R's columns weigh what comes before them: panel after
/// panel, and in a panel block after block.
///
/// ```text
///         block   panel   right
///     +-----+-------+---------+   a panel loses the products of what is right of it, at once;
///     |     |       |         |   then each of its blocks, the last first, those of the blocks
///     +-----+       |         |   right of it, and is solved by the inverse of its corner
///     |  \  |       |         |
/// ```
///
/// So that all of the work is products. On all threads of the pool, or on the card that is used.
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
    for start in (0..n).step_by(PANEL).rev() {
        let end = n.min(start + PANEL);
        let width = end - start;
        let right = h.view().some_columns(end..n);
        let mut panel = Dense::zeros(end, width);
        product(
            panel.view_mut(),
            Accum::Replace,
            right.some_rows(0..end),
            right.some_rows(start..end).transposed(),
        );
        rest(&mut panel, h.view().part(0..end, start..end));
        for first in (start..end).step_by(BLOCK).rev() {
            let until = end.min(first + BLOCK);
            let columns = first - start..until - start;
            let later = panel.view().some_columns(columns.end..width);
            let mut block = Dense::zeros(until, columns.len());
            product(
                block.view_mut(),
                Accum::Replace,
                later.some_rows(0..until),
                later.some_rows(first..until).transposed(),
            );
            rest(&mut block, panel.view().part(0..until, columns.clone()));
            let (corner, inverse) =
                corner(block.view().some_rows(first..until)).map_err(|at| NotPositive(first + at))?;
            product(
                panel.part_mut(0..first, columns.clone()),
                Accum::Replace,
                block.view().some_rows(0..first),
                inverse.view().transposed(),
            );
            panel.part_mut(first..until, columns).copy_from(corner.view());
        }
        let bands = h.values_mut()[..end * n].par_chunks_mut(BAND * n).enumerate();
        fork("panel", |fork| {
            bands.for_each(|(band, h)| {
                fork.child(|| {
                    for (row, h) in h.chunks_exact_mut(n).enumerate() {
                        let row = band * BAND + row;
                        let from = row.max(start);
                        h[from..end].copy_from_slice(&panel.row(row)[from - start..]);
                    }
                });
            });
        });
    }
    Ok(())
}

/// What is left of a matrix after a product was taken from it, in the place of the product.
fn rest(product: &mut Dense, own: View<'_>) {
    let width = product.columns();
    let bands = product.values_mut().par_chunks_mut(BAND * width).enumerate();
    fork("rest", |fork| {
        bands.for_each(|(band, product)| {
            fork.child(|| {
                for (row, product) in product.chunks_exact_mut(width).enumerate() {
                    let own = own.row(band * BAND + row);
                    product.iter_mut().zip(own).for_each(|(product, own)| *product = own - *product);
                }
            });
        });
    });
}

/// The factor of a small matrix, and the factor's inverse. In f64, each element's sum a chain from left to right.
fn corner(s: View<'_>) -> Result<(Dense, Dense), usize> {
    let n = s.rows();
    // Element (i, j) at [j][i], so that the sums of a column run beside each other.
    let mut columns = vec![vec![0f64; n.next_multiple_of(LANES)]; n];
    for j in (0..n).rev() {
        let (now, later) = columns.split_at_mut(j + 1);
        let now = &mut now[j];
        for first in (0..=j).step_by(LANES) {
            let mut sums = [-0.0; LANES];
            for column in &*later {
                let other = column[j];
                let own = &column[first..first + LANES];
                sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own * other);
            }
            for (i, sum) in (first..=j).zip(sums) {
                now[i] = f64::from(s.at(i, j)) - sum;
            }
        }
        if !(now[j] > 0.0 && now[j].is_finite()) {
            return Err(j);
        }
        now[j] = now[j].sqrt();
        let (above, pivot) = now.split_at_mut(j);
        above.iter_mut().for_each(|x| *x /= pivot[0]);
    }
    let rows: Vec<Vec<f64>> = (0..n).map(|i| columns.iter().map(|column| column[i]).collect()).collect();
    let inverse = inverse(&rows);
    Ok((Dense::new(n, rows.concat().into_iter().map(|x| x as f32).collect()), inverse))
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

/// Eight columns of it run beside each other, each a chain of its own.
fn inverse(r: &[Vec<f64>]) -> Dense {
    let n = r.len();
    let mut inverse = Dense::zeros(n, n);
    let mut columns = vec![[0f64; LANES]; n];
    for first in (0..n).step_by(LANES) {
        let end = n.min(first + LANES);
        for i in (0..end).rev() {
            let mut sums = [-0.0; LANES];
            // What all of them have, and what only the later ones do.
            let all = i + 1..(first + 1).max(i + 1);
            for (r, columns) in r[i][all.clone()].iter().zip(&columns[all.clone()]) {
                sums.iter_mut().zip(columns).for_each(|(sum, column)| *sum += r * column);
            }
            for k in all.end..end {
                for lane in k - first..LANES {
                    sums[lane] += r[i][k] * columns[k][lane];
                }
            }
            for lane in 0..LANES {
                columns[i][lane] = if first + lane > i { -sums[lane] / r[i][i] } else { 1.0 / r[i][i] };
            }
        }
        for (i, column) in columns[..end].iter().enumerate() {
            for j in first.max(i)..end {
                inverse.row_mut(i)[j] = column[j - first] as f32;
            }
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gram;

    #[test]
    fn the_factor_times_itself_is_the_matrix() {
        // A panel, and two blocks and a bit.
        let n = 800;
        let number = |i: usize| ((i * 7919) % 1013) as f32 / 1013.0 - 0.4;
        let rows = Dense::new(n, (0..n * 1200).map(number).collect());
        let mut h = Dense::zeros(n, n);
        gram(h.view_mut(), Accum::Add, rows.view());
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
