//! Alignment: how many times more energy a matrix gives its real inputs than inputs of the same importances with
//! independent columns would get. Pure.
//!
//! Trained matrices amplify the inputs that they are trained for, and errors of quantization are not amplified so: an
//! error that is large relative to the energy of independent columns may be small relative to the real output. For
//! gate and up the importances of the down projection say what came out: the mean square of silu(gate) * up.

/// A row of gate and up of one expert.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// How much the expert counts.
    pub share: f64,
    /// Mean square of the gate's output with independent columns.
    pub gate: f64,
    /// The same of up.
    pub up: f64,
    /// Mean square of silu(gate) * up, as measured.
    pub product: f64,
}

/// Bounds of what is believed.
const LEAST: f64 = 1.0;
const MOST: f64 = 1000.0;

/// The one factor on gate and up with which the measured products are expected, gate and up being normal and
/// independent; between 1 and 1000. None without rows.
pub fn alignment(rows: &[Inner]) -> Option<f64> {
    let measured: f64 = rows.iter().map(|row| row.share * row.product).sum();
    if rows.is_empty() || measured <= 0.0 {
        return None;
    }
    let expected = |factor: f64| {
        let product = |row: &Inner| row.share * silu_squared(factor * row.gate) * factor * row.up;
        rows.iter().map(product).sum::<f64>()
    };
    let (mut low, mut high) = (LEAST, MOST);
    // It rises with the factor; after 40 halvings of the exponent's range the rest is negligible.
    for _ in 0..40 {
        let middle = (low * high).sqrt();
        if expected(middle) > measured { high = middle } else { low = middle }
    }
    Some((low * high).sqrt())
}

/// Mean of silu(g)^2 for normal g of this variance, to 6 %: v / 2 less the mean of g^2 s (1 - s) with the sigmoid s,
/// which goes from v / 4 for small v to pi^2 / 3 / sqrt(2 pi v) for large. Only in exactly rounded operations, so
/// that it is the same on every machine.
fn silu_squared(variance: f64) -> f64 {
    let wide = 1.0 + 0.331 * variance;
    variance / 2.0 - variance / 4.0 / (wide * wide.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_square_of_silu_is_close() {
        for variance in [0.01f64, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0] {
            // The integral, by sums.
            let density = |z: f64| (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let silu = |g: f64| g / (1.0 + (-g).exp());
            let step = 0.001;
            let at = |i: i32| f64::from(i) * step;
            let sum: f64 =
                (-9000..9000).map(|i| density(at(i)) * silu(variance.sqrt() * at(i)).powi(2)).sum();
            let ratio = silu_squared(variance) / (sum * step);
            assert!((0.94..1.01).contains(&ratio), "{variance}: {ratio}");
        }
    }

    #[test]
    fn a_known_factor_is_found() {
        let row =
            |gate: f64, up: f64| Inner { share: 0.5, gate, up, product: silu_squared(7.0 * gate) * 7.0 * up };
        let rows = [row(0.3, 0.2), row(1.0, 2.0), row(0.01, 5.0)];
        assert!((alignment(&rows).expect("rows") - 7.0).abs() < 1e-6);
        assert_eq!(alignment(&[]), None);
    }
}
