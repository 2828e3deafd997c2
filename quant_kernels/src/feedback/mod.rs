//! Error feedback inside of a block: what rounding one group of weights costs is taken up by the weights to its right.
//!
//! The scales of the block are given, by [`quantize`](crate::quantize); here the weights get their codes again, group
//! after group, each on weights that the groups before have moved. A group is what has one code: one weight where a
//! weight has a level of its own, four or eight where they share an entry of a codebook.

mod books;
mod levels;

use half::f16;

use crate::Format;

/// Whether [`feed`] knows the format. The others keep the codes that they have.
pub fn feeds(format: Format) -> bool {
    levels::top(format).is_some() || books::knows(format)
}

/// Encodes the weights of one block anew with the scales that `block` has, with feedback.
///
/// `upper` is the block's part of U, row after row: the upper factor of the inverse covariance of the inputs, H^-1 =
/// U^T U. On return `weights` are what was encoded, as moved by the feedback; `errors` are such that weights to the
/// right of the block are to be lessened by errors times their part of U's rows.
///
/// # Panics
/// If the lengths are not those of one block.
pub fn feed(format: Format, block: &mut [u8], weights: &mut [f32], upper: &[f32], errors: &mut [f32]) {
    let n = format.block_len();
    assert_eq!(block.len(), format.block_bytes(), "bytes of a block of {format}");
    assert_eq!(
        (weights.len(), errors.len(), upper.len()),
        (n, n, n * n),
        "a block of {format} has {n} weights"
    );
    if books::knows(format) {
        books::feed(format, block, weights, upper, errors);
    } else if let Some(top) = levels::top(format) {
        levels::feed(format, top, block, weights, upper, errors);
    } else {
        let mut decoded = vec![0.0; n];
        crate::dequantize(format, block, &mut decoded);
        settle(0, &decoded, weights, upper, errors);
    }
}

/// Multiplies the weights of whole blocks by a factor near 1: a row encoded with feedback comes out smaller than it was,
/// as after any search for the least error, and is brought back to its gain. Does nothing in formats without such scales.
///
/// # Panics
/// If `blocks` are no whole blocks.
pub fn rescale(format: Format, blocks: &mut [u8], factor: f32) {
    let places: &[usize] = match format {
        Format::Q8_0 | Format::Q4_0 | Format::Q5_0 | Format::IQ4_NL | Format::IQ4_XS => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
        _ => return crate::formats::rescale(format, blocks, factor),
    };
    for block in blocks.chunks_exact_mut(format.block_bytes()) {
        for &place in places {
            let scale = f16::from_le_bytes([block[place], block[place + 1]]).to_f32() * factor;
            let scale = f16::from_f32(scale);
            if scale.is_finite() {
                block[place..place + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
}

/// Takes the group of weights from `first` on for done, with these values: notes its errors and moves the weights right
/// of it.
#[inline(always)]
fn settle(first: usize, decoded: &[f32], weights: &mut [f32], upper: &[f32], errors: &mut [f32]) {
    let n = weights.len();
    let end = first + decoded.len();
    for j in first..end {
        let mut error = weights[j] - decoded[j - first];
        for k in first..j {
            error -= errors[k] * upper[k * n + j];
        }
        errors[j] = error / upper[j * n + j];
    }
    for k in first..end {
        let error = errors[k];
        for (weight, u) in weights[end..].iter_mut().zip(&upper[k * n + end..(k + 1) * n]) {
            *weight -= error * u;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dequantize, quantize};

    /// A covariance with strong neighbours, and U of its inverse.
    fn factor(n: usize) -> (Vec<f64>, Vec<f32>) {
        let h = |i: usize, j: usize| {
            0.9f64.powi(i.abs_diff(j) as i32)
                * (1.0 + 0.5 * ((i * 7) % 5) as f64).sqrt()
                * (1.0 + 0.5 * ((j * 7) % 5) as f64).sqrt()
        };
        let covariance: Vec<f64> = (0..n * n).map(|k| h(k / n, k % n)).collect();
        // H = R R^T with R upper, from the last column on; U = R^-1.
        let mut r = vec![0f64; n * n];
        for j in (0..n).rev() {
            let rest: f64 = (j + 1..n).map(|k| r[j * n + k] * r[j * n + k]).sum();
            r[j * n + j] = (covariance[j * n + j] - rest).sqrt();
            for i in 0..j {
                let rest: f64 = (j + 1..n).map(|k| r[i * n + k] * r[j * n + k]).sum();
                r[i * n + j] = (covariance[i * n + j] - rest) / r[j * n + j];
            }
        }
        let mut u = vec![0f64; n * n];
        for j in 0..n {
            u[j * n + j] = 1.0 / r[j * n + j];
            for i in (0..j).rev() {
                let rest: f64 = (i + 1..=j).map(|k| r[i * n + k] * u[k * n + j]).sum();
                u[i * n + j] = -rest / r[i * n + i];
            }
        }
        (covariance, u.into_iter().map(|x| x as f32).collect())
    }

    fn cost(covariance: &[f64], x: &[f32], y: &[f32]) -> f64 {
        let n = x.len();
        let e: Vec<f64> = x.iter().zip(y).map(|(x, y)| f64::from(x - y)).collect();
        (0..n).map(|i| (0..n).map(|j| e[i] * covariance[i * n + j] * e[j]).sum::<f64>()).sum()
    }

    #[test]
    fn every_known_format_loses_less_with_feedback() {
        for format in Format::all().filter(|&format| feeds(format)) {
            let n = format.block_len();
            let (covariance, upper) = factor(n);
            let importance: Vec<f32> = (0..n).map(|i| 1.0 / (upper[i * n + i] * upper[i * n + i])).collect();
            let diagonal: Vec<f32> = (0..n).map(|i| covariance[i * n + i] as f32).collect();
            let (mut before, mut after) = (0.0, 0.0);
            for seed in 0..20u32 {
                let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                let mut noise = || {
                    (0..6)
                        .map(|_| {
                            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            (state >> 8) as f32 / 16_777_216.0 - 0.5
                        })
                        .sum::<f32>()
                };
                let x: Vec<f32> = (0..n).map(|_| noise()).collect();
                let mut block = vec![0; format.block_bytes()];
                let mut y = vec![0.0; n];
                quantize(format, &x, n, Some(&diagonal), &mut block);
                dequantize(format, &block, &mut y);
                before += cost(&covariance, &x, &y);
                quantize(format, &x, n, Some(&importance), &mut block);
                let (mut moved, mut errors) = (x.clone(), vec![0.0; n]);
                feed(format, &mut block, &mut moved, &upper, &mut errors);
                dequantize(format, &block, &mut y);
                after += cost(&covariance, &x, &y);
                // The errors say what the cost is: e H e^T is the sum of their squares.
                let squares: f64 = errors.iter().map(|&e| f64::from(e) * f64::from(e)).sum();
                assert!((squares / cost(&covariance, &x, &y) - 1.0).abs() < 1e-3, "{format}: {squares}");
            }
            println!("{format}: {:.3}", after / before);
            assert!(after < 0.7 * before, "{format}: {after}, without feedback {before}");
        }
    }
}
