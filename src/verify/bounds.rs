//! What error is expected of each type: measured ceilings, times a margin for weights that are not normal.

use quant_kernels::Format;

/// The largest error at unit gain that the encoders have on normally distributed weights, importances all alike: the
/// ceilings of quant_kernels/tests/formats/error.rs (which are larger than with importances).
const NORMAL: [(Format, f64); 25] = [
    (Format::F32, 0.0),
    (Format::F16, 4.358e-8),
    (Format::BF16, 2.754e-6),
    (Format::Q8_0, 2.787e-5),
    (Format::Q4_0, 6.492e-3),
    (Format::Q4_1, 4.787e-3),
    (Format::Q5_0, 1.576e-3),
    (Format::Q5_1, 1.140e-3),
    (Format::Q2_K, 7.383e-2),
    (Format::Q3_K, 2.115e-2),
    (Format::Q4_K, 4.891e-3),
    (Format::Q5_K, 1.183e-3),
    (Format::Q6_K, 2.749e-4),
    (Format::IQ1_S, 2.503e-1),
    (Format::IQ1_M, 2.092e-1),
    (Format::IQ2_XXS, 1.206e-1),
    (Format::IQ2_XS, 8.894e-2),
    (Format::IQ2_S, 6.057e-2),
    (Format::IQ3_XXS, 3.195e-2),
    (Format::IQ3_S, 1.692e-2),
    (Format::IQ4_NL, 5.401e-3),
    (Format::IQ4_XS, 5.522e-3),
    (Format::TQ1_0, 2.270e-1),
    (Format::TQ2_0, 2.270e-1),
    (Format::MXFP4, 1.250e-2),
];

/// Weights of models have heavier tails than normal ones, and importances are less even. Of the fixture's slices in all
/// presets the worst has 1.8 times the ceiling, weighted by the importances that it was made with (docs/measurements.md).
const WEIGHTED_MARGIN: f64 = 4.0;

/// Where those are not known, the worst slice has 8.2 times the ceiling: what no input reaches is free to be wrong.
const PLAIN_MARGIN: f64 = 32.0;

/// Of single rows the worst has 21 times the ceiling. What belongs to other weights has a thousand times.
const ROW_MARGIN: f64 = 64.0;

/// How far the gain of a slice may be from 1, weighted and plain; the worst of the fixture are 0.01 and 0.41 away.
const GAINS: [f64; 2] = [0.05, 0.6];

/// What a slice of a type may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Error at unit gain of the slice.
    pub error: f64,
    /// The same of a row, without importances.
    pub row_error: f64,
    /// How far the slice's gain may be from 1.
    pub gain: f64,
}

impl Bounds {
    /// For a type; `weighted` if errors are weighted by the importances that the file was made with.
    pub fn of(format: Format, weighted: bool) -> Self {
        let normal = NORMAL.iter().find(|row| row.0 == format).map_or(0.0, |row| row.1);
        let [margin, gain] = if weighted { [WEIGHTED_MARGIN, GAINS[0]] } else { [PLAIN_MARGIN, GAINS[1]] };
        Self { error: margin * normal, row_error: ROW_MARGIN * normal, gain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_a_ceiling_in_the_order_of_the_enum() {
        assert!(NORMAL.iter().map(|row| row.0).eq(Format::all()));
    }
}
