//! RMS normalisation, the softmax of attention and the gate of an FFN: what happens row by row.

use dense_kernels::Dense;

use super::exp::exp;
use crate::threads::{combine, each_rows};

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
    const LIMIT: f32 = 7.0;
    const ALPHA: f32 = 1.702;
    combine("gate", gate, up, |gate, up| {
        let (x, up) = (gate.min(LIMIT), up.clamp(-LIMIT, LIMIT));
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
