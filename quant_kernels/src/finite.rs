//! Whether blocks decode to finite numbers: a scale that is NaN or infinite makes all of its weights so.

use crate::{Format, dequantize, formats};

/// Weights decoded at a time; they stay in the cache.
const WEIGHTS: usize = 1 << 14;

/// The index of the first weight that is no finite number, or that belongs to a block whose scale is none. In F32,
/// which has no scales, -inf is a number: a router's bias shuts an expert out by it.
///
/// Every decoder multiplies each weight by the scales above it, and NaN and infinity survive that, times zero too. So
/// this finds scales at any place in any layout. For formats that are only carried over the answer is None.
///
/// # Panics
/// If `blocks` are not whole blocks.
#[must_use]
pub fn first_not_finite(format: Format, blocks: &[u8]) -> Option<usize> {
    let count = blocks.len() / format.block_bytes();
    assert_eq!(blocks.len(), count * format.block_bytes(), "bytes of whole blocks of {format}");
    if !format.is_known() {
        return None;
    }
    let open = format == Format::F32;
    let at_once = WEIGHTS / format.block_len();
    let mut weights = vec![0.0; WEIGHTS];
    for (number, blocks) in blocks.chunks(at_once * format.block_bytes()).enumerate() {
        let first = number * WEIGHTS;
        let weights = &mut weights[..blocks.len() / format.block_bytes() * format.block_len()];
        dequantize(format, blocks, weights);
        let nan = formats::first_nan(format, blocks).map(|block| block * format.block_len());
        // Exponents order as integers do, which takes a pass of maxima and no branch for each weight.
        let exponent = |x: &f32| x.to_bits() & 0x7f80_0000;
        let infinite = match weights.iter().map(exponent).max() {
            Some(0x7f80_0000) => {
                weights.iter().position(|&x| !(x.is_finite() || open && x == f32::NEG_INFINITY))
            }
            _ => None,
        };
        if let Some(index) = nan.into_iter().chain(infinite).min() {
            return Some(first + index);
        }
    }
    None
}
