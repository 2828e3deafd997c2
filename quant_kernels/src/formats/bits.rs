//! Fields of a few bits inside of little-endian words, from bit `shift` on.

/// A function that overwrites a field of this kind of word.
macro_rules! put {
    ($name:ident, $word:ty, $bytes:ty, $as:expr, $from:expr) => {
        #[inline(always)]
        pub(super) fn $name(bytes: &mut $bytes, shift: usize, width: u32, value: $word) {
            let mask = <$word>::MAX >> (<$word>::BITS - width);
            let word = $from(*bytes);
            *bytes = $as(word & !(mask << shift) | (value & mask) << shift);
        }
    };
}

put!(put, u8, u8, |word: u8| word, |byte: u8| byte);
put!(put16, u16, [u8; 2], u16::to_le_bytes, u16::from_le_bytes);
put!(put32, u32, [u8; 4], u32::to_le_bytes, u32::from_le_bytes);
