//! Finds rows of zeros in a tensor's blocks, which are given piece by piece. Pure.

use quant_kernels::{Format, dequantize};

use crate::gguf::Entry;
use crate::zeros::Zeros;

/// Weights decoded at a time. Nearly every row ends the search at its first ones.
const WEIGHTS: usize = 256;

/// The rows of zeros so far.
pub struct ZeroRows {
    format: Format,
    row_bytes: u64,
    rows: u64,
    slices: u64,
    /// Bytes of the current row so far, and whether all its weights were zeros.
    row: (u64, bool),
    /// The rows of the current slice.
    slice: Zeros,
    done: u64,
    /// The first slice that is suspicious with what it has, and how many are.
    found: Option<(u64, String)>,
    suspicious: u64,
}

impl ZeroRows {
    pub fn new(entry: &Entry) -> Self {
        Self {
            format: entry.format,
            row_bytes: entry.format.row_bytes(entry.columns()),
            rows: entry.rows(),
            slices: entry.slices(),
            row: (0, true),
            slice: Zeros::default(),
            done: 0,
            found: None,
            suspicious: 0,
        }
    }

    /// The next bytes, whole blocks.
    pub fn add(&mut self, mut bytes: &[u8]) {
        if !self.format.is_decoded() {
            return;
        }
        while !bytes.is_empty() {
            let (filled, zeros) = self.row;
            let (piece, rest) = bytes.split_at((self.row_bytes - filled).min(bytes.len() as u64) as usize);
            self.row = (filled + piece.len() as u64, zeros && is_zeros(self.format, piece));
            bytes = rest;
            if self.row.0 == self.row_bytes {
                self.slice = self.slice.then(Zeros::of_row(self.row.1));
                self.row = (0, true);
            }
            if u64::from(self.slice.rows) == self.rows {
                self.end_slice();
            }
        }
    }

    fn end_slice(&mut self) {
        if let Some(problem) = self.slice.problem() {
            self.suspicious += 1;
            self.found.get_or_insert((self.done, problem));
        }
        self.slice = Zeros::default();
        self.done += 1;
    }

    /// The problem, if the rows are suspicious.
    pub fn problem(self) -> Option<String> {
        let (slice, problem) = self.found?;
        Some(match (self.slices, self.suspicious) {
            (1, _) => problem,
            (slices, 1) => format!("slice {slice} of {slices} {problem}"),
            (slices, n) => {
                format!("slice {slice} of {slices} {problem}, and {} more slices are like it", n - 1)
            }
        })
    }
}

fn is_zeros(format: Format, blocks: &[u8]) -> bool {
    let mut weights = [0.0; WEIGHTS];
    blocks.chunks(WEIGHTS / format.block_len() * format.block_bytes()).all(|blocks| {
        let weights = &mut weights[..blocks.len() / format.block_bytes() * format.block_len()];
        dequantize(format, blocks, weights);
        weights.iter().all(|&weight| weight == 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(format: Format, shape: &[u64]) -> Entry {
        let bytes = format.row_bytes(shape.iter().product());
        Entry { name: String::new(), format, shape: shape.to_vec(), offset: 0, bytes }
    }

    /// The tensor with the rows of `zeros` cleared, in pieces of `blocks` blocks.
    fn problem(format: Format, shape: &[u64], zeros: &[usize], blocks: usize) -> Option<String> {
        let columns = shape[0] as usize;
        let mut weights = vec![1.0; shape.iter().product::<u64>() as usize];
        zeros.iter().for_each(|row| weights[row * columns..][..columns].fill(0.0));
        let entry = entry(format, shape);
        let mut bytes = vec![0; entry.bytes as usize];
        quant_kernels::quantize(format, &weights, columns, None, &mut bytes);
        let mut rows = ZeroRows::new(&entry);
        bytes.chunks(blocks * format.block_bytes()).for_each(|bytes| rows.add(bytes));
        rows.problem()
    }

    #[test]
    fn zeros_are_found_in_every_format_and_however_the_bytes_come() {
        for format in Format::all() {
            for blocks in [1, 3, 1000] {
                let shape = [512, 4, 3];
                assert_eq!(problem(format, &shape, &[], blocks), None, "{format}");
                assert_eq!(problem(format, &shape, &[3, 4, 11], blocks), None, "{format}: single rows");
                let found = problem(format, &shape, &[3, 4, 5, 6, 7], blocks);
                assert_eq!(found.as_deref(), Some("slice 1 of 3 is zeros only"), "{format}");
                let found = problem(format, &shape, &[0, 1, 8, 9, 10], blocks);
                let words = "slice 0 of 3 has a run of 2 rows of zeros, of 4, and 1 more slices are like it";
                assert_eq!(found.as_deref(), Some(words), "{format}");
            }
        }
        assert_eq!(problem(Format::F32, &[40, 2], &[0, 1], 7).as_deref(), Some("is zeros only"));
        assert_eq!(problem(Format::F32, &[40], &[0], 7), None, "a vector may be zeros");
    }
}
