//! The cheapest entry of a codebook of eight values on three levels, when every weight's cost at every level is known. Every
//! entry is looked at, by the cost of its two halves, each of which is one of 81 patterns.

use crate::search::codebook::Codebook;

/// The entries of a codebook by halves.
pub(super) struct Halves {
    /// The three values, rising.
    pub(super) values: [f32; 3],
    /// For each pattern of the left half that occurs: the patterns of the right half that go with it, and the entries.
    entries: Vec<(usize, Vec<(usize, usize)>)>,
}

impl Halves {
    pub(super) fn new(book: &Codebook<8>) -> Self {
        let mut values: Vec<f32> = book.values.as_flattened().to_vec();
        values.sort_by(f32::total_cmp);
        values.dedup();
        let values: [f32; 3] = values.try_into().expect("codebooks of eight have three values");
        let digit = |v: &f32| values.iter().position(|x| x == v).unwrap_or(0);
        let half = |v: &[f32]| v.iter().rev().fold(0, |pattern, v| 3 * pattern + digit(v));
        let mut entries: Vec<(usize, Vec<(usize, usize)>)> = (0..81).map(|left| (left, Vec::new())).collect();
        for (place, entry) in book.values.iter().enumerate() {
            entries[half(&entry[..4])].1.push((half(&entry[4..]), place));
        }
        entries.retain(|(_, right)| !right.is_empty());
        Self { values, entries }
    }

    /// The cost and the place of the cheapest entry, the first of equals by left half. `turned` has what an odd number of
    /// signs costs more, for each half: the lesser counts.
    pub(super) fn cheapest(
        &self,
        left: &[f32; 81],
        right: &[f32; 81],
        turned: Option<&[[f32; 81]; 2]>,
    ) -> (f32, usize) {
        let least_right = right.iter().copied().fold(f32::INFINITY, f32::min);
        let start = (0..self.entries.len())
            .fold(0, |best, i| if left[self.entries[i].0] < left[self.entries[best].0] { i } else { best });
        let mut best = (f32::INFINITY, 0);
        // The best left half first: most others are then too dear with any right half.
        for i in std::iter::once(start).chain(0..self.entries.len()) {
            let (a, rights) = &self.entries[i];
            if left[*a] + least_right >= best.0 {
                continue;
            }
            for &(b, entry) in rights {
                let mut cost = left[*a] + right[b];
                if let Some([of_left, of_right]) = turned {
                    cost += of_left[*a].min(of_right[b]);
                }
                if cost < best.0 {
                    best = (cost, entry);
                }
            }
        }
        best
    }

    /// For each pattern the sum of `cost[t][digit]`.
    pub(super) fn sums(cost: &[[f32; 3]]) -> [f32; 81] {
        std::array::from_fn(|p| cost[0][p % 3] + cost[1][p / 3 % 3] + cost[2][p / 9 % 3] + cost[3][p / 27])
    }

    /// For each pattern the least of `cost[t][digit]`.
    pub(super) fn least(cost: &[[f32; 3]]) -> [f32; 81] {
        std::array::from_fn(|p| {
            cost[0][p % 3].min(cost[1][p / 3 % 3]).min(cost[2][p / 9 % 3]).min(cost[3][p / 27])
        })
    }
}
