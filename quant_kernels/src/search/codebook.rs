//! The codebooks of the IQ1, IQ2 and IQ3 formats, read from the data file and laid out for the search.

use std::sync::LazyLock;

const DATA: &str = include_str!("../formats/codebooks.txt");

/// A list of D-dimensional entries with the values that a decoder puts in.
pub(crate) struct Codebook<const D: usize> {
    /// Values of each entry, for the decoder.
    pub values: Vec<[f32; D]>,
    /// The same with sixteen entries side by side: `lanes[e / 16][t][e % 16]`.
    pub lanes: Vec<[[f32; 16]; D]>,
    /// Squares of `lanes`.
    pub squares: Vec<[[f32; 16]; D]>,
}

impl<const D: usize> Codebook<D> {
    fn new(values: Vec<[f32; D]>) -> Self {
        let (sixteens, rest) = values.as_chunks::<16>();
        assert!(rest.is_empty(), "{} entries", values.len());
        let lanes = |f: fn(f32) -> f32| {
            let of = |entries: &[[f32; D]; 16]| std::array::from_fn(|t| entries.map(|entry| f(entry[t])));
            sixteens.iter().map(of).collect()
        };
        Self { lanes: lanes(|v| v), squares: lanes(|v| v * v), values }
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

    /// Every value moved by `delta`.
    fn shifted(&self, delta: f32) -> Self {
        Self::new(self.values.iter().map(|entry| entry.map(|v| v + delta)).collect())
    }
}

pub(crate) static IQ2_XXS: LazyLock<Codebook<8>> = LazyLock::new(|| Codebook::named("iq2xxs_grid"));
pub(crate) static IQ2_XS: LazyLock<Codebook<8>> = LazyLock::new(|| Codebook::named("iq2xs_grid"));
pub(crate) static IQ2_S: LazyLock<Codebook<8>> = LazyLock::new(|| Codebook::named("iq2s_grid"));
pub(crate) static IQ3_XXS: LazyLock<Codebook<4>> = LazyLock::new(|| Codebook::named("iq3xxs_grid"));
pub(crate) static IQ3_S: LazyLock<Codebook<4>> = LazyLock::new(|| Codebook::named("iq3s_grid"));
/// IQ1_S and IQ1_M: ternary entries, all values moved up (0) or down (1) by an eighth.
pub(crate) static IQ1: LazyLock<[Codebook<8>; 2]> = LazyLock::new(|| {
    let ternary = Codebook::named("iq1s_grid");
    [0.125, -0.125].map(|delta| ternary.shifted(delta))
});
