//! The scales and minimums of Q4_K and Q5_K: eight of each, six bits a number, in twelve bytes.
//!
//! ```text
//! byte   0..4                        4..8                        8..12
//!        scale k (k < 4) in six      minimum k (k < 4) in six    low nibble: low four bits of scale k (k >= 4)
//!        low bits, two high bits     low bits, two high bits     high nibble: low four bits of minimum k
//!        of scale k + 4 above        of minimum k + 4 above
//! ```

/// Whole numbers 0..=63 to their bytes.
#[inline(always)]
pub(super) fn pack(scales: [f32; 8], mins: [f32; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for k in 0..4 {
        let (s, m) = (scales[k] as u8, mins[k] as u8);
        let (high_s, high_m) = (scales[k + 4] as u8, mins[k + 4] as u8);
        bytes[k] = s | high_s >> 4 << 6;
        bytes[k + 4] = m | high_m >> 4 << 6;
        bytes[k + 8] = high_s & 15 | high_m << 4;
    }
    bytes
}

/// The scales and the minimums.
#[inline(always)]
pub(super) fn unpack(bytes: [u8; 12]) -> ([f32; 8], [f32; 8]) {
    let (mut scales, mut mins) = ([0.0; 8], [0.0; 8]);
    for k in 0..4 {
        scales[k] = f32::from(bytes[k] & 63);
        mins[k] = f32::from(bytes[k + 4] & 63);
        scales[k + 4] = f32::from(bytes[k + 8] & 15 | bytes[k] >> 6 << 4);
        mins[k + 4] = f32::from(bytes[k + 8] >> 4 | bytes[k + 4] >> 6 << 4);
    }
    (scales, mins)
}
