//! The table of block formats: GGUF type id, name, weights and bytes per block.

use std::fmt;
use std::str::FromStr;

/// A GGUF tensor type that this crate encodes and decodes, with ggml's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, missing_docs, reason = "ggml's own names, listed in the table below")]
pub enum Format {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    // From here on types that are only carried over: integers, and blocks that nothing here decodes.
    I8,
    I16,
    I32,
    I64,
    F64,
    NVFP4,
    Q1_0,
    Q2_0,
}

use Format::*;

/// Format, name, ggml type id, weights per block, bytes per block.
const TABLE: [(Format, &str, u32, usize, usize); 33] = [
    (F32, "F32", 0, 1, 4),
    (F16, "F16", 1, 1, 2),
    (BF16, "BF16", 30, 1, 2),
    (Q8_0, "Q8_0", 8, 32, 34),
    (Q4_0, "Q4_0", 2, 32, 18),
    (Q4_1, "Q4_1", 3, 32, 20),
    (Q5_0, "Q5_0", 6, 32, 22),
    (Q5_1, "Q5_1", 7, 32, 24),
    (Q2_K, "Q2_K", 10, 256, 84),
    (Q3_K, "Q3_K", 11, 256, 110),
    (Q4_K, "Q4_K", 12, 256, 144),
    (Q5_K, "Q5_K", 13, 256, 176),
    (Q6_K, "Q6_K", 14, 256, 210),
    (IQ1_S, "IQ1_S", 19, 256, 50),
    (IQ1_M, "IQ1_M", 29, 256, 56),
    (IQ2_XXS, "IQ2_XXS", 16, 256, 66),
    (IQ2_XS, "IQ2_XS", 17, 256, 74),
    (IQ2_S, "IQ2_S", 22, 256, 82),
    (IQ3_XXS, "IQ3_XXS", 18, 256, 98),
    (IQ3_S, "IQ3_S", 21, 256, 110),
    (IQ4_NL, "IQ4_NL", 20, 32, 18),
    (IQ4_XS, "IQ4_XS", 23, 256, 136),
    (TQ1_0, "TQ1_0", 34, 256, 54),
    (TQ2_0, "TQ2_0", 35, 256, 66),
    (MXFP4, "MXFP4", 39, 32, 17),
    (I8, "I8", 24, 1, 1),
    (I16, "I16", 25, 1, 2),
    (I32, "I32", 26, 1, 4),
    (I64, "I64", 27, 1, 8),
    (F64, "F64", 28, 1, 8),
    (NVFP4, "NVFP4", 40, 64, 36),
    (Q1_0, "Q1_0", 41, 128, 18),
    (Q2_0, "Q2_0", 42, 64, 18),
];

/// How many of them can be encoded and decoded; these come first.
const KNOWN: usize = 25;

impl Format {
    /// Every format that can be encoded and decoded, in the order of the enum.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE[..KNOWN].iter().map(|row| row.0)
    }

    /// Whether it can be encoded and decoded. The others are types that files may hold and that are only carried over.
    pub fn is_known(self) -> bool {
        (self as usize) < KNOWN
    }

    /// ggml's name, in capitals: `IQ2_XXS`.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// The type id in a GGUF tensor info.
    pub fn id(self) -> u32 {
        TABLE[self as usize].2
    }

    /// The format with this type id, those included that are only carried over.
    pub fn from_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.2 == id).map(|row| row.0)
    }

    /// The format of this name, in any case, those included that are only carried over.
    pub fn of_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    /// Weights in a block; a row is a whole number of blocks.
    pub fn block_len(self) -> usize {
        TABLE[self as usize].3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        TABLE[self as usize].4
    }

    /// Bits per weight, scales included.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// Whether rows of `columns` weights divide into whole blocks.
    pub fn fits(self, columns: u64) -> bool {
        columns.is_multiple_of(self.block_len() as u64)
    }

    /// Bytes of a row of `columns` weights.
    ///
    /// # Panics
    /// If the row is not a whole number of blocks.
    pub fn row_bytes(self, columns: u64) -> u64 {
        assert!(self.fits(columns), "{columns} weights do not fill blocks of {}", self.block_len());
        columns / self.block_len() as u64 * self.block_bytes() as u64
    }

    /// Stored as numbers, without blocks and scales.
    pub fn is_float(self) -> bool {
        matches!(self, F32 | F16 | BF16)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error of parsing a type name that is none of [`Format`]'s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFormat(pub String);

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<&str> = Format::all().map(Format::name).collect();
        write!(f, "unknown tensor type \"{}\"; known: {}", self.0, known.join(", "))
    }
}

impl std::error::Error for UnknownFormat {}

impl FromStr for Format {
    type Err = UnknownFormat;

    /// By ggml's name, in any case.
    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let found = Self::all().find(|format| format.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, row) in TABLE.iter().enumerate() {
            let format = row.0;
            assert_eq!(format as usize, index, "{format}");
            assert_eq!(Format::from_id(format.id()), Some(format));
            assert_eq!(format.name().to_lowercase().parse().ok(), format.is_known().then_some(format));
        }
    }
}
