//! Stored numbers to f32: F32, F16, BF16, and FP8 E4M3 and E5M2.

use fearless_simd::{Level, dispatch};
use half::{bf16, f16};

use super::Dtype;

/// Decodes little-endian `bytes` of one of the five dtypes into `out`; other dtypes give false.
///
/// FP8 codes are decoded without their block scale; codes of NaN and infinity give those.
///
/// # Panics
/// If `bytes` does not hold exactly `out.len()` numbers.
pub fn decode(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> bool {
    dispatch!(Level::new(), _simd => by_dtype(dtype, bytes, out))
}

#[inline(always)]
fn by_dtype(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> bool {
    match dtype {
        Dtype::F32 => each(bytes, out, f32::from_le_bytes),
        Dtype::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F8_E4M3 => each(bytes, out, |[b]| e4m3(b)),
        // The upper half of an f16.
        Dtype::F8_E5M2 => each(bytes, out, |[b]| f16::from_bits(u16::from(b) << 8).to_f32()),
        _ => return false,
    }
    true
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    let (numbers, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty() && numbers.len() == out.len(), "{} bytes for {} numbers", bytes.len(), out.len());
    for (out, &bytes) in out.iter_mut().zip(numbers) {
        *out = number(bytes);
    }
}

/// E4M3FN: sign, four bits of exponent (bias 7), three of mantissa; no infinities, 0x7F and 0xFF are NaN.
#[inline(always)]
fn e4m3(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    // The code's exponent and mantissa, placed as f32's, give 2^-120 times the value, subnormals included.
    let value = f32::from_bits(magnitude << 20) * f32::from_bits((127 + 120) << 23);
    let value = if magnitude == 0x7f { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | u32::from(code & 0x80) << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_e4m3_code_is_its_formula() {
        for code in 0..=255u8 {
            let (sign, e, m) = (code >> 7, i32::from(code >> 3 & 15), f32::from(code & 7));
            let magnitude = if e > 0 { 2f32.powi(e - 7) * (1.0 + m / 8.0) } else { m * 2f32.powi(-9) };
            let expected = if sign == 1 { -magnitude } else { magnitude };
            let found = e4m3(code);
            if code & 0x7f == 0x7f {
                assert!(found.is_nan(), "{code:#x}");
            } else {
                assert_eq!(found.to_bits(), expected.to_bits(), "{code:#x}: {expected} {found}");
            }
        }
    }

    #[test]
    fn the_wider_dtypes_keep_their_value() {
        let mut out = [0.0; 2];
        assert!(decode(Dtype::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0], &mut out));
        assert_eq!(out, [1.0, -2.0]);
        assert!(decode(Dtype::BF16, &[0x80, 0x3f, 0, 0xc0], &mut out));
        assert_eq!(out, [1.0, -2.0]);
        assert!(decode(Dtype::F16, &[0, 0x3c, 0, 0xc0], &mut out));
        assert_eq!(out, [1.0, -2.0]);
        assert!(!decode(Dtype::I8, &[0, 0], &mut out));
    }
}
