//! Two distributions over the vocabulary, given some logits at a time: negative log-likelihood of the next token, and
//! the Kullback-Leibler divergence. Pure.

use serde::{Deserialize, Serialize};

/// One distribution so far.
#[derive(Clone, Copy, Debug)]
struct Distribution {
    /// Largest logit and its token.
    top: (f32, usize),
    /// Sum of exp(logit - top).
    sum: f64,
    /// The logit of the token that came.
    actual: f32,
}

impl Distribution {
    const EMPTY: Self = Self { top: (f32::NEG_INFINITY, 0), sum: 0.0, actual: f32::NAN };

    /// Takes in a logit, and gives what sums relative to the old top must be multiplied by.
    fn add(&mut self, token: usize, logit: f32) -> f64 {
        let mut factor = 1.0;
        if logit > self.top.0 {
            factor = f64::from(self.top.0 - logit).exp();
            self.sum *= factor;
            self.top = (logit, token);
        }
        self.sum += f64::from(logit - self.top.0).exp();
        factor
    }

    /// Logarithm of the sum of all powers.
    fn log_sum(&self) -> f64 {
        f64::from(self.top.0) + self.sum.ln()
    }

    /// Negative log-probability of the token that came.
    fn surprise(&self) -> f64 {
        self.log_sum() - f64::from(self.actual)
    }
}

/// The two distributions of one place in the text.
#[derive(Clone, Copy, Debug)]
pub struct Divergence {
    reference: Distribution,
    file: Distribution,
    /// Sum of exp(reference's logit - its top) times the difference of the logits.
    difference: f64,
}

/// The finished comparison of one place.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Scored {
    /// Negative log-probabilities that reference and file give to the token that came.
    pub surprise: [f64; 2],
    /// Divergence of the file's distribution from the reference's.
    pub divergence: f64,
    /// Whether both hold the same token for the likeliest.
    pub same_top: bool,
}

impl Divergence {
    /// Before any logit.
    pub const EMPTY: Self =
        Self { reference: Distribution::EMPTY, file: Distribution::EMPTY, difference: 0.0 };

    /// Takes in the logits of the tokens from `first` on; `actual` is the token that came.
    pub fn add(&mut self, first: usize, reference: &[f32], file: &[f32], actual: usize) {
        for (token, (&r, &f)) in (first..).zip(reference.iter().zip(file)) {
            self.difference *= self.reference.add(token, r);
            self.difference += f64::from(r - self.reference.top.0).exp() * (f64::from(r) - f64::from(f));
            self.file.add(token, f);
            if token == actual {
                (self.reference.actual, self.file.actual) = (r, f);
            }
        }
    }

    /// Whether the checkpoint and the file hold this token for the likeliest, when all logits are in.
    pub fn top_is(&self, token: usize) -> [bool; 2] {
        [self.reference.top.1 == token, self.file.top.1 == token]
    }

    /// When all logits are in.
    pub fn scored(&self) -> Scored {
        let mean = self.difference / self.reference.sum;
        Scored {
            surprise: [self.reference.surprise(), self.file.surprise()],
            divergence: mean - self.reference.log_sum() + self.file.log_sum(),
            same_top: self.reference.top.1 == self.file.top.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_give_the_definition() {
        let reference = [0.5f32, -1.0, 3.0, 2.0, -4.0, 3.5];
        let file = [0.0f32, -1.5, 3.25, 2.5, 1.0, 3.0];
        let probabilities = |logits: &[f32]| {
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            logits.iter().map(|&x| f64::from(x).exp() / sum).collect::<Vec<f64>>()
        };
        let (p, q) = (probabilities(&reference), probabilities(&file));
        let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let mut divergence = Divergence::EMPTY;
        divergence.add(0, &reference[..4], &file[..4], 4);
        divergence.add(4, &reference[4..], &file[4..], 4);
        let scored = divergence.scored();
        assert!((scored.divergence - expected).abs() < 1e-12);
        assert!((scored.surprise[0] + p[4].ln()).abs() < 1e-12);
        assert!((scored.surprise[1] + q[4].ln()).abs() < 1e-12);
        assert!(!scored.same_top);
    }
}
