//! A stored matrix whose numbers are others in the model: gains that a checkpoint has less one, logarithms. Which they
//! are is in the name, so that whoever has a slice reads them so.

use std::ops::Range;

use super::{Rows, Stored};
use crate::checkpoint::Values;
use crate::error::{Error, Result};

/// What becomes of a stored number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// One more.
    OneMore,
    /// Minus e to its power.
    MinusExp,
}

/// What such names begin with; no tensor of a checkpoint does.
const MARKS: [(Derivation, &str); 2] = [(Derivation::OneMore, "1 + "), (Derivation::MinusExp, "-exp ")];

impl Derivation {
    /// The name of what a matrix becomes.
    pub fn name(self, matrix: &str) -> String {
        let mark = MARKS.iter().find(|(derivation, _)| *derivation == self).map_or("", |(_, mark)| mark);
        format!("{mark}{matrix}")
    }

    /// How a name's numbers are made, and of which matrix, if it is such a name.
    pub fn parse(name: &str) -> Option<(Self, &str)> {
        MARKS.iter().find_map(|(derivation, mark)| Some((*derivation, name.strip_prefix(mark)?)))
    }

    fn of(self, x: f32) -> f32 {
        match self {
            Self::OneMore => x + 1.0,
            Self::MinusExp => -(libm::exp(x.into()) as f32),
        }
    }
}

/// The matrix that they are made of.
pub struct Derived<'a> {
    pub rows: Box<dyn Rows + 'a>,
    pub derivation: Derivation,
    /// Its name.
    pub name: String,
}

impl Rows for Derived<'_> {
    fn stored(&self) -> &Stored {
        self.rows.stored()
    }

    fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        self.rows.load(rows, raw)
    }

    fn decode(&self, rows: Range<u64>, raw: &[u8], out: &mut [f32], values: Values) -> Result<()> {
        self.rows.decode(rows, raw, out, values)?;
        for x in out {
            let stored = *x;
            *x = self.derivation.of(stored);
            if !x.is_finite() {
                let problem = format!("has the number {stored}, of which the model would have {x}");
                return Err(Error::tensor(&self.stored().file, &self.name, problem));
            }
        }
        Ok(())
    }

    fn forget(&self, rows: Range<u64>) {
        self.rows.forget(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{InMemory, Store};

    #[test]
    fn a_name_says_what_its_numbers_are_made_of() {
        for derivation in [Derivation::OneMore, Derivation::MinusExp] {
            let name = derivation.name("model.norm.weight");
            assert_eq!(Derivation::parse(&name), Some((derivation, "model.norm.weight")));
        }
        assert_eq!(Derivation::parse("model.norm.weight"), None);
    }

    #[test]
    fn numbers_are_made_as_they_are_read() {
        let mut store = InMemory::default();
        store.add("x", 2, vec![0.0, -0.5]);
        store.add("large", 2, vec![1.0, 100.0]);
        let read = |name: &str, derivation| {
            let rows = Derived { rows: store.open(name)?, derivation, name: name.to_owned() };
            let (mut raw, mut out) = (Vec::new(), vec![0.0; 2]);
            rows.load(0..1, &mut raw)?;
            rows.decode(0..1, &raw, &mut out, Values::Any).map(|()| out)
        };
        assert_eq!(read("x", Derivation::OneMore).expect("read"), [1.0, 0.5]);
        assert_eq!(read("x", Derivation::MinusExp).expect("read"), [-1.0, -0.606_530_66]);
        let error = read("large", Derivation::MinusExp).expect_err("too large").to_string();
        assert!(error.contains("\"large\"") && error.contains("100"), "{error}");
    }
}
