//! A row of numbers that no file holds: what follows from config.json and is a tensor all the same. The numbers are the
//! name, so that whoever has a slice has them.

use std::ops::Range;

use super::{Rows, Stored};
use crate::checkpoint::Values;
use crate::error::Result;

/// What such names begin with; no tensor of a checkpoint does.
const MARK: &str = "=";

/// The numbers of a name.
pub struct Computed {
    values: Vec<f32>,
    stored: Stored,
}

impl Computed {
    /// The name of the row.
    pub fn name(values: &[f32]) -> String {
        let hex = values.iter().map(|value| format!("{:08x}", value.to_bits()));
        std::iter::once(MARK.to_owned()).chain(hex).collect()
    }

    /// The row that a name is of, if it is of one.
    pub fn parse(name: &str) -> Option<Self> {
        let hex = name.strip_prefix(MARK)?.as_bytes();
        let number =
            |hex: &[u8]| Some(f32::from_bits(u32::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()?));
        let (numbers, rest) = hex.as_chunks::<8>();
        let values: Vec<f32> = numbers.iter().map(|hex| number(hex)).collect::<Option<_>>()?;
        if !rest.is_empty() || values.is_empty() {
            return None;
        }
        let columns = values.len() as u64;
        let file = "config.json".into();
        let stored = Stored { file, offset: 0, rows: 1, columns, row_bytes: 4 * columns, beside: None };
        Some(Self { values, stored })
    }
}

impl Rows for Computed {
    fn stored(&self) -> &Stored {
        &self.stored
    }

    fn load(&self, _: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        raw.clear();
        raw.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        Ok(())
    }

    fn decode(&self, _: Range<u64>, _: &[u8], out: &mut [f32], _: Values) -> Result<()> {
        out.copy_from_slice(&self.values);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_numbers() {
        let values = [1.0, -0.5, 8.25];
        let row = Computed::parse(&Computed::name(&values)).expect("a row");
        assert_eq!((&row.values[..], row.stored().columns), (&values[..], 3));
        for name in ["model.norm.weight", "=", "=3f80", "=3f80000g"] {
            assert!(Computed::parse(name).is_none(), "{name}");
        }
    }
}
