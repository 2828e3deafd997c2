//! Exhaustive definitions of what the small searches approximate, and random numbers to compare them on.

/// The least weighted squared error of a group at a scale among all entries. With `signed` values the weights keep
/// their signs; otherwise signs are free, but with `turned` exactly one has to be wrong.
pub(crate) fn least_error<const D: usize>(
    values: &[[f32; D]],
    signed: bool,
    turned: bool,
    x: &[f32; D],
    w: &[f32; D],
    scale: f32,
) -> f64 {
    let mut least = f64::INFINITY;
    for entry in values {
        for wrong in 0..if turned { D } else { 1 } {
            let mut error = 0.0;
            for t in 0..D {
                let x = if signed { x[t] } else { x[t].abs() };
                let y = if turned && t == wrong { -scale * entry[t] } else { scale * entry[t] };
                error += f64::from(w[t]) * (f64::from(x) - f64::from(y)).powi(2);
            }
            least = least.min(error);
        }
    }
    least
}

/// The error that P and Q stand for.
pub(crate) fn error<const D: usize>(x: &[f32; D], w: &[f32; D], scale: f32, p: f32, q: f32) -> f64 {
    let (p, q, scale) = (f64::from(p), f64::from(q), f64::from(scale));
    let energy: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(w) * f64::from(x).powi(2)).sum();
    energy - scale * (2.0 * p - scale * q)
}

/// Repeatable weights, about normal, and importances, about lognormal.
pub(crate) struct Numbers(pub u64);

impl Numbers {
    fn normal(&mut self) -> f32 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            sum += (self.0 >> 40) as f32 / (1 << 24) as f32;
        }
        sum
    }

    pub fn group<const D: usize>(&mut self) -> ([f32; D], [f32; D]) {
        (std::array::from_fn(|_| self.normal()), std::array::from_fn(|_| self.normal().exp()))
    }
}
