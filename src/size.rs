//! Sizes in both units, since "131 GB" has meant GiB often enough.

use std::fmt;

/// Bytes, shown as decimal GB and binary GiB (or MB and MiB when small).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        if self.0 >= 1_000_000_000 {
            write!(f, "{:.2} GB ({:.2} GiB)", bytes / 1e9, bytes / f64::from(1 << 30))
        } else {
            write!(f, "{:.2} MB ({:.2} MiB)", bytes / 1e6, bytes / f64::from(1 << 20))
        }
    }
}

/// So many of something, in the singular or the plural.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A number with its thousands apart: 140,350,064,128.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_units_are_shown() {
        assert_eq!(Size(140_350_064_128).to_string(), "140.35 GB (130.71 GiB)");
        assert_eq!(Size(6_606_720).to_string(), "6.61 MB (6.30 MiB)");
        assert_eq!(grouped(140_350_064_128), "140,350,064,128");
        assert_eq!(grouped(12), "12");
    }
}
