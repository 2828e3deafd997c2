//! The figures of a comparison, from the places that were scored. Pure.

use serde::{Deserialize, Serialize};

use super::divergence::Scored;

/// Means and quantiles over all scored tokens.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Statistics {
    /// Tokens that were scored.
    pub tokens: usize,
    /// Perplexity of the checkpoint.
    pub perplexity_reference: f64,
    /// Perplexity of the file.
    pub perplexity: f64,
    /// Kullback-Leibler divergence of the file from the checkpoint, in nats: mean.
    pub kl_mean: f64,
    /// Standard error of that mean, from the means of the chunks: what other chunks of the same kind would make of it. None of a
    /// single chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_mean_error: Option<f64>,
    /// Median of the divergence.
    pub kl_median: f64,
    /// 99th percentile of the divergence.
    pub kl_p99: f64,
    /// Share of tokens where both hold the same one for the likeliest.
    pub same_top: f64,
}

impl Statistics {
    /// The figures of at least one token; as many are scored in each chunk.
    pub(super) fn new(scored: &[Scored], of_chunk: usize) -> Self {
        let mean =
            |value: &dyn Fn(&Scored) -> f64| scored.iter().map(value).sum::<f64>() / scored.len() as f64;
        let mut divergences: Vec<f64> = scored.iter().map(|s| s.divergence).collect();
        let chunks: Vec<f64> = divergences
            .chunks(of_chunk)
            .map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64)
            .collect();
        divergences.sort_by(f64::total_cmp);
        Self {
            tokens: scored.len(),
            perplexity_reference: perplexity(mean(&|s| s.surprise[0])),
            perplexity: perplexity(mean(&|s| s.surprise[1])),
            kl_mean: mean(&|s| s.divergence),
            kl_mean_error: standard_error(&chunks),
            kl_median: quantile(&divergences, 0.5),
            kl_p99: quantile(&divergences, 0.99),
            same_top: mean(&|s| f64::from(u8::from(s.same_top))),
        }
    }

    /// Whether all figures are numbers: of logits that are none, they are not.
    pub(super) fn is_finite(&self) -> bool {
        [self.perplexity_reference, self.perplexity, self.kl_mean, self.kl_median, self.kl_p99]
            .iter()
            .all(|figure| figure.is_finite())
    }
}

/// The exponential of a mean surprise; where it has no number, the largest there is, since JSON has no infinity.
fn perplexity(surprise: f64) -> f64 {
    // Not min(), which would make a number of NaN.
    surprise.clamp(f64::MIN, f64::MAX.ln()).exp()
}

/// How far the mean of so many values is off, from how they differ.
fn standard_error(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt())
}

/// The quantile of sorted values, linear between neighbours.
///
/// # Panics
/// If there are none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perplexity_beyond_all_numbers_is_the_largest_and_that_of_none_is_none() {
        assert!(perplexity(1e6).is_finite() && perplexity(1e6) > 1e308);
        assert_eq!(perplexity(0.0), 1.0);
        assert!(perplexity(f64::NAN).is_nan());
    }

    #[test]
    fn the_error_of_a_mean_is_that_of_few_values() {
        assert_eq!(standard_error(&[3.0]), None);
        // Off by 1 each, of two.
        assert_eq!(standard_error(&[1.0, 3.0]), Some(1.0));
        assert_eq!(standard_error(&[5.0; 4]), Some(0.0));
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0, 5.0], 0.5), 3.0);
        assert!((quantile(&[0.0, 100.0], 0.99) - 99.0).abs() < 1e-12);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }
}
