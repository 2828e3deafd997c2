//! NVFP4: four-bit floats (E2M1) with a scale of eight bits for each 16. 4.5 bits per weight. Only decoded: what makes
//! such weights gives a matrix one factor more, which has no place in a block and is a tensor of its own in the file.
//!
//! ```text
//! byte   0           4..36
//!        s: 4 x u8   qs: 4 x 8 x (low nibble: weight i of its sixteen, high nibble: weight i + 8)
//!
//! s is E4M3 without its sign: sixteen e = s >> 3, m = s & 7 give 2^(e - 7) * (1 + m / 8), or 2^-9 * m where e is 0
//! weight[16 s + i] = scale * F4[nibble] / 2
//! ```

use crate::formats::mxfp4::F4;

/// Bytes of the scales, and of the codes of sixteen weights.
const SCALES: usize = 4;
const CODES: usize = 8;

/// Half of the number that a scale's byte says. 0x7f would be NaN; ggml reads 0.
fn half_scale(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    match (byte, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa / 1024.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 8),
    }
}

/// The weights of whole blocks, equal to ggml's to the bit.
pub fn dequantize(blocks: &[u8], weights: &mut [f32]) {
    for (block, weights) in
        blocks.as_chunks::<{ SCALES * (1 + CODES) }>().0.iter().zip(weights.chunks_exact_mut(64))
    {
        let (scales, codes) = block.split_at(SCALES);
        for ((&scale, codes), weights) in
            scales.iter().zip(codes.chunks_exact(CODES)).zip(weights.chunks_exact_mut(16))
        {
            let scale = half_scale(scale);
            for (i, &code) in codes.iter().enumerate() {
                weights[i] = scale * f32::from(F4[usize::from(code & 15)]);
                weights[i + CODES] = scale * f32::from(F4[usize::from(code >> 4)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_for_sixteen_weights() {
        let mut block = [0; 36];
        // 1, 448, the smallest, and NaN's.
        block[..4].copy_from_slice(&[0x38, 0x7e, 0x01, 0x7f]);
        // 6 and -6 are codes 7 and 15; 0.5 is 1.
        block[4] = 0xf7;
        block[12 + 7] = 0x17;
        block[20] = 0x02;
        block[28] = 0x77;
        let mut weights = [f32::NAN; 64];
        dequantize(&block, &mut weights);
        let mut expected = [0.0; 64];
        (expected[0], expected[8]) = (6.0, -6.0);
        (expected[16 + 7], expected[16 + 15]) = (6.0 * 448.0, 0.5 * 448.0);
        expected[32] = 1.0 / 512.0;
        assert_eq!(weights, expected);
    }
}
