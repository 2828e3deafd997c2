//! The types of stored numbers: those of safetensors, by its names, and the block formats of GGUF.

use std::str::FromStr;

use quant_kernels::Format;

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs, reason = "safetensors' own names")]
pub enum Dtype {
    BOOL,
    F4,
    F6_E2M3,
    F6_E3M2,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F8_E4M3FNUZ,
    F8_E5M2FNUZ,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
    /// A type of a GGUF file.
    Gguf(Format),
}

use Dtype::*;

/// Every type of safetensors: its name and the bits of one number.
const NAMES: [(&str, Dtype, u32); 22] = [
    ("BOOL", BOOL, 8),
    ("F4", F4, 4),
    ("F6_E2M3", F6_E2M3, 6),
    ("F6_E3M2", F6_E3M2, 6),
    ("U8", U8, 8),
    ("I8", I8, 8),
    ("F8_E5M2", F8_E5M2, 8),
    ("F8_E4M3", F8_E4M3, 8),
    ("F8_E8M0", F8_E8M0, 8),
    ("F8_E4M3FNUZ", F8_E4M3FNUZ, 8),
    ("F8_E5M2FNUZ", F8_E5M2FNUZ, 8),
    ("I16", I16, 16),
    ("U16", U16, 16),
    ("F16", F16, 16),
    ("BF16", BF16, 16),
    ("I32", I32, 32),
    ("U32", U32, 32),
    ("F32", F32, 32),
    ("C64", C64, 64),
    ("F64", F64, 64),
    ("I64", I64, 64),
    ("U64", U64, 64),
];

impl Dtype {
    /// The same type in GGUF.
    pub fn in_gguf(self) -> Option<Format> {
        match self {
            F32 => Some(Format::F32),
            F16 => Some(Format::F16),
            BF16 => Some(Format::BF16),
            Gguf(format) => Some(format),
            _ => None,
        }
    }

    /// Bytes of a tensor of this shape, the last dimension contiguous; None if that is not whole bytes or blocks, or
    /// more than can be counted.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        let numbers = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim))?;
        if let Gguf(format) = self {
            let columns = shape.last().copied().unwrap_or(1);
            return format
                .fits(columns)
                .then(|| numbers / format.block_len() as u64)?
                .checked_mul(format.block_bytes() as u64);
        }
        let bits = NAMES.iter().find(|row| row.1 == self)?.2;
        let bits = numbers.checked_mul(bits.into())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl FromStr for Dtype {
    type Err = ();

    /// By safetensors' name.
    fn from_str(name: &str) -> Result<Self, ()> {
        NAMES.iter().find(|row| row.0 == name).map(|row| row.1).ok_or(())
    }
}
