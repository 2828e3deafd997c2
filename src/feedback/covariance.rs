//! The covariance of a matrix's inputs, and the factor of its inverse that feedback goes by.

use faer::{Accum, Mat, MatRef, Par, Side};

use crate::error::{Error, Result};
use crate::forward::{Dense, product};

/// What is added to the diagonal, relative to its mean: inputs that never vary would else be free to go anywhere.
const DAMPING: f32 = 0.01;

/// Columns whose covariance is known together, at most: what memory and time are spent on grows with its square and cube.
/// Errors are not fed back from one segment to the next.
const SEGMENT: usize = 8192;

/// Segments begin where blocks do.
const BLOCK: usize = 256;

/// Sums of x^T x over rows of inputs, for segments of their columns.
#[derive(Clone, Debug)]
pub struct Covariance {
    sums: Vec<Dense>,
    count: usize,
}

/// The widths of the segments that columns are divided into: as few as can be, as equal as can be.
fn segments(columns: usize) -> Vec<usize> {
    let width = columns.div_ceil(columns.div_ceil(SEGMENT)).next_multiple_of(BLOCK);
    (0..columns).step_by(width).map(|start| width.min(columns - start)).collect()
}

impl Covariance {
    /// Of no rows yet.
    pub fn new(columns: usize) -> Self {
        Self {
            sums: segments(columns).into_iter().map(|width| Dense::zeros(width, width)).collect(),
            count: 0,
        }
    }

    /// Adds rows.
    pub fn add(&mut self, rows: MatRef<'_, f32>) {
        let mut start = 0;
        for sums in &mut self.sums {
            let segment = rows.subcols(start, sums.columns());
            start += sums.columns();
            product(sums.view_mut(), Accum::Add, segment.transpose(), segment);
        }
        self.count += rows.nrows();
    }

    /// Bytes of the sums.
    pub fn bytes(&self) -> u64 {
        self.sums.iter().map(|sums| sums.values().len() as u64 * 4).sum()
    }

    /// Rows that were added.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean over the rows, segment after segment; zeros if there were none.
    pub fn mean(mut self) -> Vec<Dense> {
        let share = 1.0 / self.count.max(1) as f32;
        self.sums.iter_mut().flat_map(|sums| sums.values_mut()).for_each(|x| *x *= share);
        self.sums
    }

    /// The mean, drawn towards what all experts of the layer see (or, if that is not known, towards its own diagonal)
    /// as if that had been seen in `strength` rows.
    pub fn shrunk(self, layer: Option<&Self>, strength: f32) -> Vec<Dense> {
        let own = self.count as f32 / (self.count as f32 + strength);
        let mut mean = self.mean();
        for (segment, mean) in mean.iter_mut().enumerate() {
            let n = mean.columns();
            match layer {
                Some(layer) => {
                    let share = (1.0 - own) / layer.count.max(1) as f32;
                    for (x, y) in mean.values_mut().iter_mut().zip(layer.sums[segment].values()) {
                        *x = own * *x + share * y;
                    }
                }
                None => {
                    for (place, x) in mean.values_mut().iter_mut().enumerate() {
                        if place / n != place % n {
                            *x *= own;
                        }
                    }
                }
            }
        }
        mean
    }
}

/// U, upper triangular, with H^-1 = U^T U, of H = `covariance` with its damped diagonal.
///
/// From the last column to the first, H = R R^T with R upper, and U is R's inverse: one factorisation, and H is never
/// inverted.
///
/// # Errors
/// If H is not positive definite, which damping rules out unless inputs are not finite.
pub fn upper_factor(covariance: &Dense) -> Result<Dense> {
    let n = covariance.columns();
    let h = covariance.values();
    let mean = (0..n).map(|i| f64::from(h[i * n + i])).sum::<f64>() / n as f64;
    let damping = if mean > 0.0 { mean as f32 * DAMPING } else { 1.0 };
    let turned = Mat::from_fn(n, n, |i, j| {
        let (i, j) = (n - 1 - i, n - 1 - j);
        h[i * n + j] + if i == j { damping } else { 0.0 }
    });
    let factor = turned
        .llt(Side::Lower)
        .map_err(|e| Error::Unsupported(format!("the covariance of {n} inputs has no factor: {e:?}")))?;
    drop(turned);
    let mut inverse = Mat::zeros(n, n);
    faer::linalg::triangular_inverse::invert_lower_triangular(inverse.as_mut(), factor.L(), Par::Seq);
    drop(factor);
    let mut upper = Dense::zeros(n, n);
    let mut view = upper.view_mut();
    for j in 0..n {
        for i in 0..=j {
            view[(i, j)] = inverse[(n - 1 - i, n - 1 - j)];
        }
    }
    Ok(upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_of_the_inverse() {
        let n = 40;
        let rows = Dense::new(n, (0..n * 90).map(|i| ((i * 7919) % 1013) as f32 / 1013.0 - 0.4).collect());
        let mut covariance = Covariance::new(n);
        covariance.add(rows.view());
        let mut h = covariance.mean().remove(0);
        let u = upper_factor(&h).expect("positive");
        let mean = (0..n).map(|i| h.values()[i * n + i]).sum::<f32>() / n as f32;
        (0..n).for_each(|i| h.values_mut()[i * n + i] += 0.01 * mean);
        // U H U^T is the identity, and nothing is below the diagonal.
        let at = |m: &Dense, i: usize, j: usize| f64::from(m.values()[i * n + j]);
        for i in 0..n {
            for j in 0..n {
                let mut sum = 0.0;
                for a in i..n {
                    for b in j..n {
                        sum += at(&u, i, a) * at(&h, a, b) * at(&u, j, b);
                    }
                }
                assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-3, "{i}, {j}: {sum}");
                assert!(i <= j || at(&u, i, j) == 0.0);
            }
        }
    }

    #[test]
    fn few_tokens_count_little() {
        let mut layer = Covariance::new(1);
        layer.add(Dense::new(1, vec![2.0; 50]).view());
        let mut expert = Covariance::new(1);
        assert_eq!(expert.clone().shrunk(Some(&layer), 128.0)[0].values(), [4.0]);
        expert.add(Dense::new(1, vec![1.0; 128]).view());
        assert_eq!(expert.shrunk(Some(&layer), 128.0)[0].values(), [2.5]);
    }

    #[test]
    fn wide_rows_have_segments() {
        assert_eq!(segments(7168), [7168]);
        assert_eq!(segments(16384), [8192, 8192]);
        assert_eq!(segments(18432), [6144, 6144, 6144]);
        assert_eq!(segments(48), [48]);
        assert_eq!(segments(8200), [4352, 3848]);
        let mut covariance = Covariance::new(8200);
        let row: Vec<f32> = (0..8200).map(|i| i as f32).collect();
        covariance.add(Dense::new(8200, row).view());
        let mean = covariance.mean();
        assert_eq!(mean[1].values()[1], 4352.0 * 4353.0);
    }
}
