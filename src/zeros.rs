//! Finds rows of zeros in a matrix, as an unfinished download, a preallocated file or a lost write leaves them. Pure.

/// A run of zeros over more than this share of a matrix's rows (one in so many) is suspicious. Real models have single
/// rows of zeros, and hundreds for the padding tokens of a hundred thousand.
const SHARE: u32 = 10;

/// Where the rows of zeros of a matrix, or of some of its rows in order, lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zeros {
    /// All rows.
    pub rows: u32,
    /// Rows of zeros at the beginning.
    pub leading: u32,
    /// Rows of zeros at the end.
    pub trailing: u32,
    /// Rows of zeros in the longest run.
    pub longest: u32,
}

impl Zeros {
    /// The rows of zeros among rows of `columns` weights.
    pub fn of(weights: &[f32], columns: usize) -> Self {
        weights.chunks_exact(columns).fold(Self::default(), |seen, row| {
            seen.then(Self::of_row(row.iter().all(|&weight| weight == 0.0)))
        })
    }

    /// One row, which is zeros or not.
    pub fn of_row(zeros: bool) -> Self {
        let zeros = u32::from(zeros);
        Self { rows: 1, leading: zeros, trailing: zeros, longest: zeros }
    }

    /// These rows and the `next` ones below them together.
    pub fn then(self, next: Self) -> Self {
        Self {
            rows: self.rows + next.rows,
            leading: if self.is_all() { self.rows + next.leading } else { self.leading },
            trailing: if next.is_all() { self.trailing + next.rows } else { next.trailing },
            longest: self.longest.max(next.longest).max(self.trailing + next.leading),
        }
    }

    /// Whether so much of a matrix is zeros that it looks damaged.
    pub fn is_suspicious(&self) -> bool {
        // A vector may be zeros: biases often are.
        self.rows > 1 && self.longest > 1 && u64::from(self.longest) * u64::from(SHARE) > u64::from(self.rows)
    }

    /// The problem, if the rows are suspicious.
    pub fn problem(&self) -> Option<String> {
        match self.is_suspicious() {
            false => None,
            true if self.is_all() => Some("is zeros only".to_owned()),
            true => Some(format!("has a run of {} rows of zeros, of {}", self.longest, self.rows)),
        }
    }

    fn is_all(&self) -> bool {
        self.leading == self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of rows of two weights, 0 for zeros.
    fn of(rows: &[u8]) -> Zeros {
        let weights: Vec<f32> = rows.iter().flat_map(|&row| [0.0, f32::from(row)]).collect();
        Zeros::of(&weights, 2)
    }

    #[test]
    fn runs_are_found_wherever_they_lie() {
        let zeros = |rows, leading, trailing, longest| Zeros { rows, leading, trailing, longest };
        assert_eq!(of(&[]), zeros(0, 0, 0, 0));
        assert_eq!(of(&[1, 2]), zeros(2, 0, 0, 0));
        assert_eq!(of(&[0, 0]), zeros(2, 2, 2, 2));
        assert_eq!(of(&[0, 1, 0, 0, 0, 1, 0, 0]), zeros(8, 1, 2, 3));
        assert_eq!(Zeros::of(&[0.0, -0.0, 1.0, 0.0], 2), zeros(2, 1, 0, 1));
    }

    #[test]
    fn parts_add_up_to_the_whole_however_it_is_divided() {
        let rows = [0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        for first in 0..=rows.len() {
            for second in first..=rows.len() {
                let parts = of(&rows[..first]).then(of(&rows[first..second])).then(of(&rows[second..]));
                assert_eq!(parts, of(&rows), "{first} {second}");
            }
        }
    }

    #[test]
    fn damage_is_told_from_what_real_models_have() {
        assert_eq!(of(&[0, 0]).problem().as_deref(), Some("is zeros only"));
        assert_eq!(of(&[1, 0, 0, 1]).problem().as_deref(), Some("has a run of 2 rows of zeros, of 4"));
        // A bias; an expert's row of a gate; a third of a tiny matrix in single rows.
        for sound in [&[0][..], &[1, 0, 1, 1, 1], &[0, 1, 1, 0, 1, 1, 0]] {
            assert_eq!(of(sound).problem(), None, "{sound:?}");
        }
        let padding = Zeros { rows: 129_280, leading: 0, trailing: 465, longest: 465 };
        assert!(!padding.is_suspicious());
        let exactly_a_tenth = Zeros { rows: 100, leading: 10, trailing: 0, longest: 10 };
        assert!(!exactly_a_tenth.is_suspicious());
        assert!(Zeros { longest: 11, ..exactly_a_tenth }.is_suspicious());
    }
}
