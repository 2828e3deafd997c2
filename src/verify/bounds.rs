//! What error is expected of each type: the encoder's ceiling on normal weights (without importances, where it is larger),
//! times a margin for weights that are not normal.

use quant_kernels::Format;

use super::deviation::Sums;

/// Weights of models have heavier tails than normal ones, and importances are less even. Of the fixture's slices in all
/// presets the worst has 1.8 times the ceiling, weighted by the importances that it was made with (docs/measurements.md).
const WEIGHTED_MARGIN: f64 = 4.0;

/// Where those are not known, the worst slice has 8.2 times the ceiling, since columns without inputs may have any
/// error.
const PLAIN_MARGIN: f64 = 32.0;

/// Of single rows the worst has 21 times the ceiling, and where rows take up the errors of others, by what these do to the answers,
/// 137 times. What belongs to other weights has a thousand times.
const ROW_MARGIN: f64 = 64.0;
const FED_ROW_MARGIN: f64 = 512.0;

/// How far the gain of a slice may be from 1, weighted and plain; the worst of the fixture are 0.01 and 0.41 away, but
/// for `IQ1_*` with even inputs, which are 0.03 away and meant to be.
const GAINS: [f64; 2] = [0.05, 0.6];

/// Where our encoder has more than this, a type cannot hold the weights: errors are then compared as they are too.
const HOPELESS: f64 = 1.0;

/// The bounds of a slice in a type: its error at unit gain, that of its rows without importances, and its gain.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Error at unit gain of the slice.
    pub error: f64,
    /// The same of a row, without importances.
    pub row_error: f64,
    /// How far the slice's gain may be from 1.
    pub gain: f64,
    margin: f64,
}

impl Bounds {
    /// For a type; `weighted` if errors are weighted by the importances that the file was made with, `fed` if errors were fed
    /// back.
    pub fn of(format: Format, weighted: bool, fed: bool) -> Self {
        let normal = format.error_ceilings().even;
        let [margin, gain] = if weighted { [WEIGHTED_MARGIN, GAINS[0]] } else { [PLAIN_MARGIN, GAINS[1]] };
        let of_row = if fed { FED_ROW_MARGIN } else { ROW_MARGIN };
        Self { error: margin * normal, row_error: of_row * normal, gain, margin }
    }

    /// Whether a slice is within them. NaN is within nothing.
    pub(super) fn hold(&self, found: &Sums, floor: f64) -> bool {
        found.unit(floor) <= self.error && (found.gain() - 1.0).abs() <= self.gain
    }

    /// Whether a slice is as near as our encoder comes on the same weights, with the margins that it has on normal
    /// ones.
    pub(super) fn hold_beside(&self, found: &Sums, reached: &Sums, floor: f64) -> bool {
        near(found, reached, floor, self.margin, self.error)
            && (found.gain() - reached.gain()).abs() <= self.gain
    }

    /// The same of a row.
    pub(super) fn hold_row_beside(&self, found: &Sums, reached: &Sums, floor: f64) -> bool {
        near(found, reached, floor, ROW_MARGIN, self.row_error)
    }

    /// The largest error at unit gain of a row on which our encoder comes so near.
    pub(super) fn row_allowed(&self, reached: &Sums, floor: f64) -> f64 {
        self.row_error.max(ROW_MARGIN * reached.unit(floor))
    }

    /// The same of a slice whose encoder's error is known.
    pub(super) fn allowed(&self, encoder_error: Option<f64>) -> f64 {
        encoder_error.map_or(self.error, |error| self.error.max(self.margin * error))
    }
}

/// Whether the error is that of the encoder times a margin, or within the bound.
fn near(found: &Sums, reached: &Sums, floor: f64, margin: f64, bound: f64) -> bool {
    let reachable = reached.unit(floor);
    let hopeless = reachable.is_nan() || reachable > HOPELESS;
    // The error at unit gain may then be anything, infinite too: nothing is left of the direction.
    found.unit(floor) <= bound.max(margin * reachable) && (!hopeless || found.dd <= margin * reached.dd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(xx: f64, gain: f64, dd: f64) -> Sums {
        Sums { xx, xd: (gain - 1.0) * xx, dd }
    }

    #[test]
    fn what_the_encoder_met_is_within_and_what_it_did_not_is_beyond() {
        let bounds = Bounds::of(Format::IQ2_XXS, true, false);
        // As of a sparse slice at unit gain: half of it is lost.
        let reached = sums(1.0, 1.0, 0.9);
        assert!(!bounds.hold(&reached, 0.0) && bounds.hold_beside(&reached, &reached, 0.0));
        assert!(!bounds.hold_beside(&sums(1.0, 0.5, 0.9), &reached, 0.0), "half the scale");
        assert!(!bounds.hold_beside(&sums(1.0, 0.02, 1.5), &reached, 0.0), "another slice");
        assert!(!bounds.hold_beside(&sums(1.0, 0.0, 1.0), &reached, 0.0), "zeros");
        // Too faint for any scale: zeros are all there is, and nothing large may be in their place.
        let nothing = sums(1.0, 0.0, 1.0);
        assert!(bounds.hold_beside(&nothing, &nothing, 0.0));
        assert!(!bounds.hold_beside(&sums(1.0, 0.0, 5.0), &nothing, 0.0));
        assert!(!bounds.hold_beside(&sums(f64::NAN, f64::NAN, f64::NAN), &reached, 0.0));
        assert!(!bounds.hold_row_beside(&sums(1.0, 0.1, 1.0), &sums(1.0, 1.0, 0.1), 0.0), "another row");
    }
}
