//! The covariance of a matrix's inputs, and the factor of its inverse that feedback goes by.

use faer::{Accum, Mat, MatRef, Par, Side};

use crate::error::{Error, Result};
use crate::forward::{Dense, product};

/// What is added to the diagonal, relative to its mean: inputs that never vary would else be free to go anywhere.
const DAMPING: f32 = 0.01;

/// Sum of x^T x over rows of inputs.
#[derive(Clone, Debug)]
pub struct Covariance {
    sums: Dense,
    count: usize,
}

impl Covariance {
    /// Of no rows yet.
    pub fn new(columns: usize) -> Self {
        Self { sums: Dense::zeros(columns, columns), count: 0 }
    }

    /// Adds rows.
    pub fn add(&mut self, rows: MatRef<'_, f32>) {
        product(self.sums.view_mut(), Accum::Add, rows.transpose(), rows);
        self.count += rows.nrows();
    }

    /// Rows that were added.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean over the rows; zeros if there were none.
    pub fn mean(&self) -> Dense {
        let mut mean = self.sums.clone();
        let share = 1.0 / self.count.max(1) as f32;
        mean.values_mut().iter_mut().for_each(|x| *x *= share);
        mean
    }

    /// The mean, drawn towards what all experts of the layer see (or, if that is not known, towards its own diagonal)
    /// as if that had been seen in `strength` rows.
    pub fn shrunk(&self, layer: Option<&Self>, strength: f32) -> Dense {
        let mut mean = self.mean();
        let n = mean.columns();
        let own = self.count as f32 / (self.count as f32 + strength);
        match layer {
            Some(layer) => {
                let share = (1.0 - own) / layer.count.max(1) as f32;
                for (x, y) in mean.values_mut().iter_mut().zip(layer.sums.values()) {
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
    let mut inverse = Mat::zeros(n, n);
    faer::linalg::triangular_inverse::invert_lower_triangular(inverse.as_mut(), factor.L(), Par::Seq);
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
        let mut h = covariance.mean();
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
        assert_eq!(expert.shrunk(Some(&layer), 128.0).values(), [4.0]);
        expert.add(Dense::new(1, vec![1.0; 128]).view());
        assert_eq!(expert.shrunk(Some(&layer), 128.0).values(), [2.5]);
    }
}
