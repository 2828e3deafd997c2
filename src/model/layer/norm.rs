//! RMS normalisation, the softmax of attention and the gate of an FFN: what happens row by row.

use dense_kernels::Dense;

use super::exp::exp;
use crate::threads::{combine, each_rows};

/// Where gpt-oss's gate is clamped.
pub const CLAMP: f32 = 7.0;

/// What its gate is multiplied by in the sigmoid.
pub const ALPHA: f32 = 1.702;

/// Divides each row by its root mean square and multiplies it by the gains.
///
/// # Panics
/// If there is not one gain for each column.
pub fn normalise(x: &mut Dense, gains: &[f32], eps: f32) {
    assert_eq!(x.columns(), gains.len(), "gains for rows of {}", x.columns());
    let columns = x.columns();
    each_rows("normalise", x.values_mut(), columns, |_, rows| {
        for row in rows.chunks_exact_mut(columns) {
            let sum: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let scale = 1.0 / ((sum / columns as f64) as f32 + eps).sqrt();
            for (x, gain) in row.iter_mut().zip(gains) {
                *x = *x * scale * gain;
            }
        }
    });
}

/// From gradients at what [`normalise`] gives to those at its rows `x`, in place.
///
/// With s = 1 / sqrt(mean x^2 + eps) and d the gradients times the gains, they are s d - x s^3 (x d) / n.
///
/// # Panics
/// If there is not one gain for each column, or not one row of gradients for each of `x`.
pub fn normalise_back(gradients: &mut Dense, x: &Dense, gains: &[f32], eps: f32) {
    assert_eq!([x.columns(), x.rows()], [gains.len(), gradients.rows()], "gains, and rows of gradients");
    let columns = x.columns();
    each_rows("normalise back", gradients.values_mut(), columns, |first, rows| {
        for (row, gradients) in (first..).zip(rows.chunks_exact_mut(columns)) {
            let x = x.row(row);
            let sum: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let scale = 1.0 / ((sum / columns as f64) as f32 + eps).sqrt();
            gradients.iter_mut().zip(gains).for_each(|(d, gain)| *d *= gain);
            let along: f64 = x.iter().zip(&*gradients).map(|(&x, &d)| f64::from(x) * f64::from(d)).sum();
            let share = (along / columns as f64) as f32 * scale * scale;
            gradients.iter_mut().zip(x).for_each(|(d, x)| *d = scale * (*d - share * x));
        }
    });
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// ln(1 + e^x).
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { libm::log1pf(exp(x)) }
}

/// silu(gate) times up, in place of the gate.
pub fn gate(gate: &mut Dense, up: &Dense) {
    combine("gate", gate, up, |gate, up| gate / (1.0 + exp(-gate)) * up);
}

/// gpt-oss's gate, in place of the gate: both are clamped, the gate from above only.
pub fn gate_clamped(gate: &mut Dense, up: &Dense) {
    combine("gate", gate, up, |gate, up| {
        let (x, up) = (gate.min(CLAMP), up.clamp(-CLAMP, CLAMP));
        x / (1.0 + exp(-ALPHA * x)) * (up + 1.0)
    });
}

/// DeepSeek V4's gate, in place of the gate: both are limited, the gate from above only, then as [`gate`].
pub fn gate_limited(gate: &mut Dense, up: &Dense, limit: f32) {
    for (gate, up) in gate.values_mut().iter_mut().zip(up.values()) {
        let (x, up) = (gate.min(limit), up.clamp(-limit, limit));
        *gate = x * sigmoid(x) * up;
    }
}

/// The softmax of scores times `scale`, in their place. A sink takes part as one more score, unscaled and without a
/// value.
pub fn softmax(scores: &mut [f32], scale: f32, sink: Option<f32>) {
    let largest = scores.iter().copied().fold(sink.map_or(f32::NEG_INFINITY, |sink| sink / scale), f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = exp((*score - largest) * scale);
        sum += *score;
    }
    if let Some(sink) = sink {
        sum += exp(sink - largest * scale);
    }
    let share = 1.0 / sum;
    for score in scores {
        *score *= share;
    }
}

/// From gradients at what [`softmax`] gives, in place, to those at its scores. A sink changes nothing: it has no value.
pub fn softmax_back(gradients: &mut [f32], shares: &[f32], scale: f32) {
    let mean: f32 = gradients.iter().zip(shares).map(|(d, share)| d * share).sum();
    gradients.iter_mut().zip(shares).for_each(|(d, share)| *d = share * (*d - mean) * scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_mean_square_of_their_gains() {
        let mut x = Dense::new(2, vec![3.0, 4.0, 0.0, 0.0]);
        normalise(&mut x, &[1.0, 2.0], 0.0001);
        let scale = 1.0 / 12.5001f32.sqrt();
        assert_eq!(x.values(), [3.0 * scale, 8.0 * scale, 0.0, 0.0]);
    }

    #[test]
    fn gradients_before_a_norm_are_the_slopes() {
        let (gains, eps) = ([0.5, -1.0, 2.0], 0.01);
        let loss = |x: &[f32; 3]| -> f64 {
            let mut y = Dense::new(3, x.to_vec());
            normalise(&mut y, &gains, eps);
            y.values().iter().zip([1.0, 2.0, -0.5]).map(|(y, d)| f64::from(*y) * d).sum()
        };
        let x = [0.3, -1.2, 0.8];
        let mut found = Dense::new(3, vec![1.0, 2.0, -0.5]);
        normalise_back(&mut found, &Dense::new(3, x.to_vec()), &gains, eps);
        for i in 0..3 {
            let [mut up, mut down] = [x; 2];
            up[i] += 1e-2;
            down[i] -= 1e-2;
            let slope = (loss(&up) - loss(&down)) / f64::from(up[i] - down[i]);
            assert!((f64::from(found.values()[i]) - slope).abs() < 1e-3, "{i}: {found:?} {slope}");
        }
    }

    #[test]
    fn the_clamped_gate_is_the_formula() {
        let mut gated = Dense::new(4, vec![1.0, 9.0, -9.0, 0.5]);
        gate_clamped(&mut gated, &Dense::new(4, vec![2.0, 9.0, -9.0, -0.25]));
        let of = |gate: f64, up: f64| gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0);
        let expected = [of(1.0, 2.0), of(7.0, 7.0), of(-9.0, -7.0), of(0.5, -0.25)];
        for (found, expected) in gated.values().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn the_limited_gate_is_the_formula() {
        let mut gated = Dense::new(3, vec![1.0, 9.0, -9.0]);
        gate_limited(&mut gated, &Dense::new(3, vec![2.0, 9.0, -9.0]), 4.0);
        let of = |gate: f64, up: f64| gate / (1.0 + (-gate).exp()) * up;
        for (found, expected) in gated.values().iter().zip([of(1.0, 2.0), of(4.0, 4.0), of(-9.0, -4.0)]) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn a_sink_takes_its_share() {
        let (mut plain, mut with_sink) = ([1.0, 3.0], [1.0, 3.0]);
        softmax(&mut plain, 0.5, None);
        softmax(&mut with_sink, 0.5, Some(2.0));
        let all = 0.5f32.exp() + 1.5f32.exp() + 2f32.exp();
        assert!((plain.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(
            (with_sink[0] - 0.5f32.exp() / all).abs() < 1e-6
                && (with_sink[1] - 1.5f32.exp() / all).abs() < 1e-6
        );
    }
}
