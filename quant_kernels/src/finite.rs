//! Whether blocks decode to finite numbers: a scale that is NaN or infinite makes all of its weights so.

use crate::{Format, dequantize};

/// Weights decoded at a time; they stay in the cache.
const WEIGHTS: usize = 1 << 14;

/// MXFP4's scale of a block that is no number; decoders give large weights for it instead.
const E8M0_NAN: u8 = 0xff;

/// The index of the first weight that is not finite, or that belongs to a block whose scale is not. In F32, which has
/// no scales, -inf is allowed: a router's bias excludes an expert by it.
///
/// Every decoder multiplies each weight by the scales above it, and NaN and infinity survive that, times zero too. So
/// this finds scales at any place in any layout. For formats that are only carried over the answer is None.
///
/// # Panics
/// If `blocks` are not whole blocks.
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
        let nan = match format {
            Format::MXFP4 => {
                let marked = blocks.chunks_exact(format.block_bytes()).position(|block| block[0] == E8M0_NAN);
                marked.map(|block| block * format.block_len())
            }
            _ => None,
        };
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
