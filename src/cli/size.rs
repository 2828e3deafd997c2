//! Sizes, splits and parts as people write them.

use std::str::FromStr;

use crate::gguf::{MAX_FILES, Split};

/// Decimal and binary units, larger ones of the same ending first.
const UNITS: [(&str, u64); 13] = [
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("B", 1),
];

/// The size that the machine decides.
pub const AUTO: &str = "auto";

/// Bytes with a unit: `48GB`, `1.5 GiB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let fault = || format!("\"{text}\" is no size; expected a number with a unit, as in 48GB or 512MiB");
    let capitals = text.trim().to_uppercase();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((capitals.strip_suffix(name)?, *unit)))
        .ok_or_else(fault)?;
    let number: f64 = number.trim().parse().map_err(|_| fault())?;
    let bytes = number * unit as f64;
    if (1.0..=u64::MAX as f64 / 2.0).contains(&bytes) { Ok(bytes as u64) } else { Err(fault()) }
}

/// Bytes in a second, with the word or without: `3GB`, `500 MB/s`.
pub fn bytes_per_second(text: &str) -> Result<u64, String> {
    bytes(text.trim().trim_end_matches("/s"))
}

/// The most tokens that make sense anywhere.
const MAX_TOKENS: u64 = 1 << 30;

/// A number of tokens: `8192`, or `8k` for 8 x 1024.
pub fn tokens(text: &str) -> Result<u64, String> {
    let small = text.trim().to_lowercase();
    let (number, unit) = match (small.strip_suffix('k'), small.strip_suffix('m')) {
        (Some(number), _) => (number, 1 << 10),
        (_, Some(number)) => (number, 1 << 20),
        _ => (&*small, 1),
    };
    let tokens = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    tokens.filter(|tokens| (1..=MAX_TOKENS).contains(tokens)).ok_or_else(|| {
        format!("\"{text}\" is no number of tokens; expected one from 1 to {MAX_TOKENS}, as 8192 or 8k")
    })
}

/// Tokens in a chunk of text.
pub fn chunk(text: &str) -> Result<u32, String> {
    match tokens(text)? {
        tokens @ 2..=0x10_0000 => Ok(tokens as u32),
        tokens => Err(format!("chunks of {tokens} tokens; expected 2 to {}", 0x10_0000)),
    }
}

/// What `--size` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// At most so many bytes.
    Bytes(u64),
    /// As many as run well on the machine that is named.
    Auto,
}

/// `131GiB` or `auto`.
pub fn limit(text: &str) -> Result<Limit, String> {
    if text == AUTO { Ok(Limit::Auto) } else { bytes(text).map(Limit::Bytes) }
}

/// `48GB`, files of at most that size, or `8`, that many files.
pub fn split(text: &str) -> Result<Split, String> {
    match text.parse::<u64>() {
        Ok(count) if (1..=u64::from(MAX_FILES)).contains(&count) => Ok(Split::Count(count as u16)),
        Ok(count) => {
            Err(format!("{count} files; expected 1 to {MAX_FILES}, or a size with a unit, as in 48GB"))
        }
        Err(_) => bytes(text).map(Split::Size),
    }
}

/// One file of a split into so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Counted from 1.
    pub number: u16,
    /// How many there are.
    pub of: u16,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault =
            || format!("\"{text}\" is no part; expected its number and how many there are, as in 2/8");
        let (number, of) = text.split_once('/').ok_or_else(fault)?;
        let number = number.trim().parse().map_err(|_| fault())?;
        let of = of.trim().parse().map_err(|_| fault())?;
        if (1..=of).contains(&number) { Ok(Self { number, of }) } else { Err(fault()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_decimal_or_binary() {
        assert_eq!(bytes("48GB"), Ok(48_000_000_000));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(bytes("300m"), Ok(300_000_000));
        assert_eq!(bytes("7b"), Ok(7));
        assert_eq!((bytes("1T"), bytes("64K")), (Ok(1_000_000_000_000), Ok(64_000)));
        assert_eq!((bytes_per_second("500 MB/s"), bytes_per_second("3GB")), (bytes("500MB"), bytes("3GB")));
        for wrong in ["", "GB", "12", "-1GB", "0MB", "nanGB", "1e300GB", "5 parsecs"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_are_counted_in_ones_or_in_1024() {
        assert_eq!((tokens("8k"), tokens("8K"), tokens("1m")), (Ok(8192), Ok(8192), Ok(1 << 20)));
        assert_eq!((tokens("1"), chunk("512"), chunk("1k")), (Ok(1), Ok(512), Ok(1024)));
        for wrong in ["", "0", "k", "-1", "8.5k", "8kb", "99999999999999999999", "20000000m"] {
            assert!(tokens(wrong).is_err() && chunk(wrong).is_err(), "{wrong}");
        }
        assert!(chunk("1").is_err() && chunk("1048577").is_err() && chunk("1m").is_ok());
    }

    #[test]
    fn limits_are_sizes_or_auto() {
        assert_eq!(limit("auto"), Ok(Limit::Auto));
        assert_eq!(limit("48GB"), Ok(Limit::Bytes(48_000_000_000)));
        assert!(limit("Auto").is_err() && limit("automatic").is_err());
    }

    #[test]
    fn splits_are_sizes_or_counts() {
        assert_eq!(split("8"), Ok(Split::Count(8)));
        assert_eq!(split("48GB"), Ok(Split::Size(48_000_000_000)));
        for wrong in ["0", "70000", "-3", "many"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_have_a_number_and_a_count() {
        assert_eq!("2/8".parse(), Ok(Part { number: 2, of: 8 }));
        for wrong in ["2", "0/8", "9/8", "1/0", "a/b", "1/2/3"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }
}
