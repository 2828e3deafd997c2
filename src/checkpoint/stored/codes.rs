//! Codes of small integers and floats: taken out of their bytes, then turned to numbers by arithmetic. Nothing is
//! divided.

/// How the codes of a row lie in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// So many bits each, one after another from the lowest bit of the first byte on.
    Dense(u32),
    /// So many bits each, as many as fit whole into words of 32 bits, from the lowest bit on.
    Loose(u32),
    /// Four bits each, the high half of a byte before the low one.
    HighFirst,
    /// Bytes in two's complement, whose codes count from -128.
    Signed,
}

impl Packing {
    /// Bytes of a row of so many codes; of [`HighFirst`](Self::HighFirst) one that begins with a byte.
    pub fn bytes(self, columns: u64) -> u64 {
        match self {
            Self::Dense(bits) => (columns * u64::from(bits)).div_ceil(8),
            Self::Loose(bits) => columns.div_ceil(u64::from(32 / bits)) * 4,
            Self::HighFirst => columns.div_ceil(2),
            Self::Signed => columns,
        }
    }

    /// Takes the codes out of `raw`.
    ///
    /// # Panics
    /// If it has too few bytes.
    #[inline(always)]
    pub fn unpack(self, raw: &[u8], codes: &mut [u8]) {
        match self {
            Self::Dense(2) => dense::<2>(raw, codes),
            Self::Dense(3) => dense::<3>(raw, codes),
            Self::Dense(4) => dense::<4>(raw, codes),
            Self::Dense(5) => dense::<5>(raw, codes),
            Self::Dense(6) => dense::<6>(raw, codes),
            Self::Dense(7) => dense::<7>(raw, codes),
            Self::Dense(bits) => {
                assert_eq!(bits, 8, "codes have 2 to 8 bits");
                codes.copy_from_slice(&raw[..codes.len()]);
            }
            Self::Loose(bits) => {
                let mask = (1u32 << bits) - 1;
                let words = raw.as_chunks().0;
                for (codes, word) in codes.chunks_mut((32 / bits) as usize).zip(words) {
                    let mut word = u32::from_le_bytes(*word);
                    for code in codes {
                        *code = (word & mask) as u8;
                        word >>= bits;
                    }
                }
            }
            Self::HighFirst => {
                for (codes, byte) in codes.chunks_mut(2).zip(raw) {
                    codes[0] = byte >> 4;
                    if let Some(second) = codes.get_mut(1) {
                        *second = byte & 15;
                    }
                }
            }
            Self::Signed => codes.iter_mut().zip(raw).for_each(|(code, byte)| *code = byte ^ 0x80),
        }
    }
}

/// Eight codes have as many bytes as one has bits.
#[inline(always)]
fn dense<const BITS: usize>(raw: &[u8], codes: &mut [u8]) {
    let mask = (1 << BITS) - 1;
    let (whole, rest) = codes.as_chunks_mut::<8>();
    let (bytes, more) = raw.as_chunks::<BITS>();
    for (codes, bytes) in whole.iter_mut().zip(bytes) {
        let mut wide = [0; 8];
        wide[..BITS].copy_from_slice(bytes);
        let word = u64::from_le_bytes(wide);
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (word >> (i * BITS)) as u8 & mask;
        }
    }
    if !rest.is_empty() {
        let tail = bytes.get(whole.len()).map_or(more, |bytes| &bytes[..]);
        let mut wide = [0; 8];
        wide[..tail.len()].copy_from_slice(tail);
        let word = u64::from_le_bytes(wide);
        for (i, code) in rest.iter_mut().enumerate() {
            *code = (word >> (i * BITS)) as u8 & mask;
        }
    }
}

/// What codes stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element {
    /// Integers, which count from the zero point of their group.
    Integer,
    /// E2M1: a sign, two bits of exponent (bias 1), one of mantissa.
    E2M1,
    /// E2M3: a sign, two bits of exponent (bias 1), three of mantissa.
    E2M3,
    /// Places in a table.
    Listed([f32; 16]),
}

impl Element {
    /// Turns the codes of a group to numbers and multiplies them by its factor.
    #[inline(always)]
    pub fn scale(&self, codes: &[u8], zero: f32, factor: f32, out: &mut [f32]) {
        match self {
            Self::Integer => each(codes, out, |code| (f32::from(code) - zero) * factor),
            Self::E2M1 => each(codes, out, |code| small::<1>(code) * factor),
            Self::E2M3 => each(codes, out, |code| small::<3>(code) * factor),
            Self::Listed(list) => each(codes, out, |code| list[usize::from(code & 15)] * factor),
        }
    }
}

#[inline(always)]
fn each(codes: &[u8], out: &mut [f32], number: impl Fn(u8) -> f32) {
    out.iter_mut().zip(codes).for_each(|(out, &code)| *out = number(code));
}

/// A float of a sign, two bits of exponent with bias 1, and so many bits of mantissa.
#[inline(always)]
fn small<const MANTISSA: u32>(code: u8) -> f32 {
    let magnitude = u32::from(code) & ((1 << (MANTISSA + 2)) - 1);
    let sign = u32::from(code) >> (MANTISSA + 2) & 1;
    // Placed as f32's, exponent and mantissa give 2^-126 times the value, subnormals included.
    let value = f32::from_bits(magnitude << (23 - MANTISSA)) * f32::from_bits((127 + 126) << 23);
    f32::from_bits(value.to_bits() | sign << 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_formula() {
        let all = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for code in 0..16u8 {
            let expected = if code < 8 { all[usize::from(code)] } else { -all[usize::from(code - 8)] };
            assert_eq!(small::<1>(code).to_bits(), f32::to_bits(expected), "{code}");
        }
        for code in 0..64u8 {
            let (e, m) = (i32::from(code >> 3 & 3), f32::from(code & 7) / 8.0);
            let magnitude = if e == 0 { m } else { (1.0 + m) * 2f32.powi(e - 1) };
            let expected = if code < 32 { magnitude } else { -magnitude };
            assert_eq!(small::<3>(code).to_bits(), expected.to_bits(), "{code}");
        }
    }

    #[test]
    fn codes_come_out_as_they_were_put_in() {
        for columns in 1..70usize {
            for bits in 2..=8u32 {
                let codes: Vec<u8> =
                    (0..columns).map(|i| ((i * 37 + 11) as u32 & ((1 << bits) - 1)) as u8).collect();
                for packing in [Packing::Dense(bits), Packing::Loose(bits)] {
                    let mut raw = vec![0u8; packing.bytes(columns as u64) as usize];
                    for (i, code) in codes.iter().enumerate() {
                        let at = match packing {
                            Packing::Dense(_) => i as u32 * bits,
                            _ => i as u32 / (32 / bits) * 32 + i as u32 % (32 / bits) * bits,
                        };
                        for bit in 0..bits {
                            let (byte, place) = ((at + bit) as usize / 8, (at + bit) % 8);
                            raw[byte] |= (code >> bit & 1) << place;
                        }
                    }
                    let mut found = vec![0; columns];
                    packing.unpack(&raw, &mut found);
                    assert_eq!(found, codes, "{packing:?} {columns}");
                }
            }
        }
    }
}
