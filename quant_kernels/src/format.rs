//! The table of block formats: all facts about them but the bit layouts, which are in `formats/`, one file each.

use std::fmt;
use std::str::FromStr;

/// A GGUF tensor type that this crate encodes and decodes, with ggml's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
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
    // From here on types that nothing here encodes: integers, and blocks of which only those of NVFP4 are decoded.
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

/// What there is to know about a format, but for its bit layout.
struct Facts {
    format: Format,
    /// ggml's name.
    name: &'static str,
    /// ggml's type id.
    id: u32,
    /// Weights in a block.
    weights: usize,
    /// Bytes of a block.
    bytes: usize,
    /// llama.cpp's number of the nearest file type; None where there is none.
    file_type: Option<u32>,
    /// What a tensor gets instead whose rows do not divide into this format's blocks.
    substitute: Format,
    /// The largest error that the encoder has on normal weights.
    ceilings: ErrorCeilings,
}

/// The largest error that a format's encoder has on normally distributed weights, a little above what was measured: at
/// unit gain (1 / cos^2 - 1), importances as weights. The crate's tests hold the encoders to it, and it may only fall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorCeilings {
    /// With importances all alike.
    pub even: f64,
    /// With importances over some decades.
    pub weighted: f64,
}

/// A format that can be encoded and decoded.
#[allow(clippy::too_many_arguments, reason = "a row of the table")]
const fn known(
    format: Format,
    name: &'static str,
    id: u32,
    weights: usize,
    bytes: usize,
    file_type: u32,
    substitute: Format,
    even: f64,
    weighted: f64,
) -> Facts {
    let ceilings = ErrorCeilings { even, weighted };
    Facts { format, name, id, weights, bytes, file_type: Some(file_type), substitute, ceilings }
}

/// A format that is only carried over.
const fn carried(format: Format, name: &'static str, id: u32, weights: usize, bytes: usize) -> Facts {
    let ceilings = ErrorCeilings { even: 0.0, weighted: 0.0 };
    Facts { format, name, id, weights, bytes, file_type: None, substitute: F16, ceilings }
}

/// The table, in the order of the enum. Its file types are llama.cpp's, its substitutes those that llama-quantize
/// takes.
#[rustfmt::skip]
const TABLE: [Facts; 33] = [
    //                         block:        file  substitute where  error ceilings:
    //                   id  weights, bytes  type  rows do not fit   even, weighted
    known(F32,      "F32",       0,   1,   4,  0, F16,     0.0,       0.0),
    known(F16,      "F16",       1,   1,   2,  1, F16,     4.358e-8,  4.357e-8),
    known(BF16,     "BF16",     30,   1,   2, 32, F16,     2.754e-6,  2.766e-6),
    known(Q8_0,     "Q8_0",      8,  32,  34,  7, F16,     2.787e-5,  2.792e-5),
    known(Q4_0,     "Q4_0",      2,  32,  18,  2, F16,     6.492e-3,  5.783e-3),
    known(Q4_1,     "Q4_1",      3,  32,  20,  3, F16,     4.787e-3,  3.947e-3),
    known(Q5_0,     "Q5_0",      6,  32,  22,  8, F16,     1.576e-3,  1.415e-3),
    known(Q5_1,     "Q5_1",      7,  32,  24,  9, F16,     1.140e-3,  9.406e-4),
    known(Q2_K,     "Q2_K",     10, 256,  84, 10, Q4_0,    7.383e-2,  5.567e-2),
    known(Q3_K,     "Q3_K",     11, 256, 110, 12, Q4_0,    2.115e-2,  1.788e-2),
    known(Q4_K,     "Q4_K",     12, 256, 144, 15, Q5_0,    4.891e-3,  4.032e-3),
    known(Q5_K,     "Q5_K",     13, 256, 176, 17, Q5_1,    1.183e-3,  9.915e-4),
    known(Q6_K,     "Q6_K",     14, 256, 210, 18, Q8_0,    2.749e-4,  2.337e-4),
    known(IQ1_S,    "IQ1_S",    19, 256,  50, 24, IQ4_NL,  2.503e-1,  1.944e-1),
    known(IQ1_M,    "IQ1_M",    29, 256,  56, 31, IQ4_NL,  2.092e-1,  1.488e-1),
    known(IQ2_XXS,  "IQ2_XXS",  16, 256,  66, 19, IQ4_NL,  1.206e-1,  8.060e-2),
    known(IQ2_XS,   "IQ2_XS",   17, 256,  74, 20, IQ4_NL,  8.894e-2,  5.995e-2),
    known(IQ2_S,    "IQ2_S",    22, 256,  82, 28, IQ4_NL,  6.057e-2,  4.610e-2),
    known(IQ3_XXS,  "IQ3_XXS",  18, 256,  98, 23, IQ4_NL,  3.195e-2,  2.100e-2),
    known(IQ3_S,    "IQ3_S",    21, 256, 110, 26, IQ4_NL,  1.692e-2,  1.212e-2),
    known(IQ4_NL,   "IQ4_NL",   20,  32,  18, 25, F16,     5.401e-3,  4.600e-3),
    known(IQ4_XS,   "IQ4_XS",   23, 256, 136, 30, IQ4_NL,  5.522e-3,  4.707e-3),
    known(TQ1_0,    "TQ1_0",    34, 256,  54, 36, Q4_0,    2.270e-1,  2.235e-1),
    known(TQ2_0,    "TQ2_0",    35, 256,  66, 37, Q4_0,    2.270e-1,  2.235e-1),
    known(MXFP4,    "MXFP4",    39,  32,  17, 38, F16,     1.250e-2,  1.242e-2),
    carried(I8,     "I8",       24,   1,   1),
    carried(I16,    "I16",      25,   1,   2),
    carried(I32,    "I32",      26,   1,   4),
    carried(I64,    "I64",      27,   1,   8),
    carried(F64,    "F64",      28,   1,   8),
    Facts { file_type: Some(39), ..carried(NVFP4, "NVFP4", 40, 64, 36) },
    carried(Q1_0,   "Q1_0",     41, 128,  18),
    carried(Q2_0,   "Q2_0",     42,  64,  18),
];

/// How many of them can be encoded and decoded; these come first.
const KNOWN: usize = 25;

impl Format {
    /// Every format that can be encoded and decoded, in the order of the enum.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE[..KNOWN].iter().map(|facts| facts.format)
    }

    /// Whether it can be encoded and decoded. The others are types that files may hold and that are only carried over.
    #[must_use]
    pub fn is_known(self) -> bool {
        (self as usize) < KNOWN
    }

    /// Whether it can be decoded: all that are [known](Self::is_known), and NVFP4, whose blocks are only made of codes
    /// that a checkpoint has.
    #[must_use]
    pub fn is_decoded(self) -> bool {
        self.is_known() || self == NVFP4
    }

    fn facts(self) -> &'static Facts {
        &TABLE[self as usize]
    }

    /// ggml's name, in capitals: `IQ2_XXS`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The type id in a GGUF tensor info.
    #[must_use]
    pub fn id(self) -> u32 {
        self.facts().id
    }

    /// The format with this type id, those included that are only carried over.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|facts| facts.id == id).map(|facts| facts.format)
    }

    /// The format of this name, in any case, those included that are only carried over.
    pub fn of_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.format)
    }

    /// Weights in a block; a row is a whole number of blocks.
    #[must_use]
    pub fn block_len(self) -> usize {
        self.facts().weights
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.facts().bytes
    }

    /// Bits per weight, scales included.
    #[must_use]
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// Whether rows of `columns` weights divide into whole blocks.
    #[must_use]
    pub fn fits(self, columns: u64) -> bool {
        columns.is_multiple_of(self.block_len() as u64)
    }

    /// Bytes of a row of `columns` weights.
    ///
    /// # Panics
    /// If the row is not a whole number of blocks.
    #[must_use]
    pub fn row_bytes(self, columns: u64) -> u64 {
        assert!(self.fits(columns), "{columns} weights do not fill blocks of {}", self.block_len());
        columns / self.block_len() as u64 * self.block_bytes() as u64
    }

    /// llama.cpp's number (`general.file_type`) of the file type that is nearest to a file of this format; None where
    /// there is none.
    #[must_use]
    pub fn file_type(self) -> Option<u32> {
        self.facts().file_type
    }

    /// What llama-quantize gives a tensor instead whose rows do not [fit](Self::fits). They may not fit the substitute
    /// either; F16 fits all rows.
    #[must_use]
    pub fn substitute(self) -> Self {
        self.facts().substitute
    }

    /// The largest error of the encoder on normal weights; zero for types that are only carried over.
    #[must_use]
    pub fn error_ceilings(self) -> ErrorCeilings {
        self.facts().ceilings
    }

    /// Stored as numbers, without blocks and scales.
    #[must_use]
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
        for (index, facts) in TABLE.iter().enumerate() {
            let format = facts.format;
            assert_eq!(format as usize, index, "{format}");
            assert_eq!(Format::from_id(format.id()), Some(format));
            assert_eq!(format.name().to_lowercase().parse().ok(), format.is_known().then_some(format));
        }
    }
}
