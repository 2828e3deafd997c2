//! The codebooks of the IQ1, IQ2 and IQ3 formats, read from the data file and laid out for the search.

use std::sync::LazyLock;

const DATA: &str = include_str!("../formats/codebooks.txt");

/// A list of D-dimensional entries with the values that a decoder puts in.
pub(crate) struct Codebook<const D: usize> {
    /// Values of each entry.
    pub values: Vec<[f32; D]>,
    /// The same as integers for the search, 32 entries side by side.
    pub lanes: Vec<Lanes<D>>,
    /// The largest value.
    pub largest: f32,
    /// What squares are multiplied by in `lanes`: a power of two that brings the largest up to 2048 to 4096.
    pub square: f32,
}

/// Thirty-two entries.
pub(crate) struct Lanes<const D: usize> {
    /// `values[t][e]`.
    pub values: [[i16; 32]; D],
    /// Squares of two dimensions each, `pairs[t / 2][e / 16][e % 16 * 2 + t % 2]`: only half of the D are used.
    pub squares: [[[i16; 32]; 2]; D],
}

impl<const D: usize> Codebook<D> {
    fn new(values: Vec<[f32; D]>) -> Self {
        let largest = values.as_flattened().iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
        let mut square = 1.0;
        while 2.0 * square * largest * largest <= 4096.0 {
            square *= 2.0;
        }
        let (all, rest) = values.as_chunks::<32>();
        assert!(rest.is_empty(), "{} entries", values.len());
        let lanes = |entries: &[[f32; D]; 32]| {
            let mut lanes = Lanes { values: [[0; 32]; D], squares: [[[0; 32]; 2]; D] };
            for (e, entry) in entries.iter().enumerate() {
                for (t, v) in entry.iter().enumerate() {
                    lanes.values[t][e] = *v as i16;
                    lanes.squares[t / 2][e / 16][e % 16 * 2 + t % 2] = (v * v * square) as i16;
                }
            }
            lanes
        };
        Self { lanes: all.iter().map(lanes).collect(), values, largest, square }
    }

    /// The named table of the data file.
    fn named(name: &str) -> Self {
        let mut lines = DATA.lines().skip_while(|line| line.split(' ').next() != Some(name));
        let header = lines.next().expect("a table of the data file");
        let (_, map) = header.split_once("map=").expect("a header with its values");
        let map = map.split(' ').next().unwrap_or_default();
        let map: Vec<f32> = map.split(',').map(|v| v.parse().expect("a number")).collect();
        let bits = map.len().next_power_of_two().ilog2();
        let entry = |packed: u32| {
            std::array::from_fn(|t| map[(packed >> (bits as usize * t)) as usize % (1 << bits)])
        };
        let packed = lines.next().expect("entries below the header").split(' ');
        Self::new(packed.map(|e| entry(e.parse().expect("a packed entry"))).collect())
    }
}

pub(crate) static IQ2_XXS: LazyLock<Codebook<8>> = LazyLock::new(|| Codebook::named("iq2xxs_grid"));
pub(crate) static IQ2_XS: LazyLock<Codebook<8>> = LazyLock::new(|| Codebook::named("iq2xs_grid"));
pub(crate) static IQ2_S: LazyLock<Codebook<8>> = LazyLock::new(|| Codebook::named("iq2s_grid"));
pub(crate) static IQ3_XXS: LazyLock<Codebook<4>> = LazyLock::new(|| Codebook::named("iq3xxs_grid"));
pub(crate) static IQ3_S: LazyLock<Codebook<4>> = LazyLock::new(|| Codebook::named("iq3s_grid"));
/// IQ1_S and IQ1_M: values -1, 0 and 1, before the shift.
pub(crate) static IQ1: LazyLock<Codebook<8>> = LazyLock::new(|| Codebook::named("iq1s_grid"));

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::DATA;

    #[test]
    fn the_packed_entries_have_the_digests_of_their_headers() {
        let mut lines = DATA.lines().filter(|line| !line.starts_with('#'));
        let mut tables = 0;
        while let (Some(header), Some(entries)) = (lines.next(), lines.next()) {
            let packed: Vec<u8> =
                entries.split(' ').flat_map(|e| e.parse::<u16>().expect("an entry").to_le_bytes()).collect();
            let digest: String = Sha256::digest(&packed).iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(header.ends_with(&format!("sha256_u16le={digest}")), "{header}");
            tables += 1;
        }
        assert_eq!(tables, 6);
    }
}
