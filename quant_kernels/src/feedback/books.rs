//! Formats in which eight weights share an entry of a codebook: IQ1_S and IQ2_XXS. Every entry is looked at, by the cost
//! of its two halves, of which a codebook has few different ones.
//!
//! Before the first of the 32 weights that share a scale, the codes near the block's are tried on the weights as the
//! feedback left them, and the best is kept.

use std::sync::LazyLock;

use half::f16;

use super::settle;
use crate::Format;
use crate::search::codebook::{Codebook, IQ1, IQ2_XXS};

pub(super) fn knows(format: Format) -> bool {
    matches!(format, Format::IQ1_S | Format::IQ2_XXS)
}

/// The entries of a codebook by halves: each half is one of 81 patterns of three values.
struct Halves {
    values: [f32; 3],
    /// For each pattern of the left half that occurs: the patterns of the right half that go with it, and the entries.
    entries: Vec<(usize, Vec<(usize, usize)>)>,
}

impl Halves {
    fn new(book: &Codebook<8>) -> Self {
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
    fn cheapest(&self, left: &[f32; 81], right: &[f32; 81], turned: Option<&[[f32; 81]; 2]>) -> (f32, usize) {
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
    fn sums(cost: &[[f32; 3]]) -> [f32; 81] {
        std::array::from_fn(|p| cost[0][p % 3] + cost[1][p / 3 % 3] + cost[2][p / 9 % 3] + cost[3][p / 27])
    }

    /// For each pattern the least of `cost[t][digit]`.
    fn least(cost: &[[f32; 3]]) -> [f32; 81] {
        std::array::from_fn(|p| {
            cost[0][p % 3].min(cost[1][p / 3 % 3]).min(cost[2][p / 9 % 3]).min(cost[3][p / 27])
        })
    }
}

static TERNARY: LazyLock<Halves> = LazyLock::new(|| Halves::new(&IQ1));
static MAGNITUDES: LazyLock<Halves> = LazyLock::new(|| Halves::new(&IQ2_XXS));

/// A code for eight weights, its cost and its values.
#[derive(Clone, Copy)]
struct Choice {
    cost: f32,
    entry: usize,
    signs: u8,
    values: [f32; 8],
}

/// The best of IQ1_S's entries at this scale and shift.
fn ternary(x: &[f32; 8], w: &[f32; 8], scale: f32, down: bool) -> Choice {
    let book = &*TERNARY;
    let shift = if down { -0.125 } else { 0.125 };
    let mut cost = [[0.0; 3]; 8];
    for t in 0..8 {
        for (cost, value) in cost[t].iter_mut().zip(book.values) {
            let error = x[t] - scale * (value + shift);
            *cost = w[t] * error * error;
        }
    }
    let best = book.cheapest(&Halves::sums(&cost[..4]), &Halves::sums(&cost[4..]), None);
    let values = IQ1.values[best.1].map(|value| scale * (value + shift));
    Choice { cost: best.0, entry: best.1, signs: 0, values }
}

/// The best of IQ2_XXS's entries at this scale, with an even number of minus signs.
fn even(x: &[f32; 8], w: &[f32; 8], scale: f32) -> Choice {
    let book = &*MAGNITUDES;
    let (mut cost, mut turn) = ([[0.0; 3]; 8], [[0.0; 3]; 8]);
    let mut signs = 0u8;
    for t in 0..8 {
        signs |= u8::from(x[t] < 0.0) << t;
        for (digit, value) in book.values.iter().enumerate() {
            let error = x[t].abs() - scale * value;
            cost[t][digit] = w[t] * error * error;
            // What the other sign costs more: w ((|x| + y)^2 - (|x| - y)^2).
            turn[t][digit] = 4.0 * w[t] * x[t].abs() * scale * value;
        }
    }
    let odd = signs.count_ones() % 2 == 1;
    let turned = odd.then(|| [Halves::least(&turn[..4]), Halves::least(&turn[4..])]);
    let best = book.cheapest(&Halves::sums(&cost[..4]), &Halves::sums(&cost[4..]), turned.as_ref());
    let entry = &IQ2_XXS.values[best.1];
    if odd {
        let more = |t: usize| w[t] * x[t].abs() * entry[t];
        let cheapest = (0..8).fold(0, |best, t| if more(t) < more(best) { t } else { best });
        signs ^= 1 << cheapest;
    }
    let values = std::array::from_fn(|t| scale * entry[t] * if signs >> t & 1 == 1 { -1.0 } else { 1.0 });
    Choice { cost: best.0, entry: best.1, signs, values }
}

/// The scale code (and for IQ1_S the shift) of 32 weights.
#[derive(Clone, Copy)]
struct Shared {
    code: u8,
    down: bool,
}

/// The 32-weight groups of a block as these two formats hold them.
struct Group<'a> {
    format: Format,
    d: f32,
    block: &'a mut [u8],
    b: usize,
}

impl Group<'_> {
    fn shared(&self) -> Shared {
        match self.format {
            Format::IQ1_S => {
                let high = self.block[34 + 2 * self.b + 1];
                Shared { code: high >> 4 & 7, down: high >> 7 != 0 }
            }
            _ => Shared { code: self.block[2 + 8 * self.b + 7] >> 4, down: false },
        }
    }

    /// The codes that are tried: those beside the block's own, and for IQ1_S both shifts.
    fn candidates(&self) -> Vec<Shared> {
        let Shared { code, down } = self.shared();
        let (most, shifts) =
            if self.format == Format::IQ1_S { (7, vec![down, !down]) } else { (15, vec![down]) };
        let codes = code.saturating_sub(1)..=(code + 1).min(most);
        shifts.into_iter().flat_map(|down| codes.clone().map(move |code| Shared { code, down })).collect()
    }

    fn choose(&self, shared: Shared, x: &[f32; 8], w: &[f32; 8]) -> Choice {
        match self.format {
            Format::IQ1_S => ternary(x, w, self.d * f32::from(2 * shared.code + 1), shared.down),
            _ => even(x, w, self.d * (0.5 + f32::from(shared.code)) * 0.25),
        }
    }

    fn write(&mut self, shared: Shared, choices: &[Choice; 4]) {
        if self.format == Format::IQ1_S {
            let mut high = u16::from(shared.code) << 12 | u16::from(shared.down) << 15;
            for (l, choice) in choices.iter().enumerate() {
                self.block[2 + 4 * self.b + l] = choice.entry as u8;
                high |= (choice.entry as u16 >> 8) << (3 * l);
            }
            self.block[34 + 2 * self.b..][..2].copy_from_slice(&high.to_le_bytes());
        } else {
            let mut word = u32::from(shared.code) << 28;
            for (l, choice) in choices.iter().enumerate() {
                self.block[2 + 8 * self.b + l] = choice.entry as u8;
                word |= u32::from(choice.signs & 127) << (7 * l);
            }
            self.block[2 + 8 * self.b + 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

pub(super) fn feed(format: Format, block: &mut [u8], weights: &mut [f32], upper: &[f32], errors: &mut [f32]) {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    let n = weights.len();
    let importance = |first: usize| -> [f32; 8] {
        std::array::from_fn(|t| {
            let u = upper[(first + t) * n + first + t];
            1.0 / (u * u)
        })
    };
    let eight = |weights: &[f32], first: usize| -> [f32; 8] { std::array::from_fn(|t| weights[first + t]) };
    for b in 0..n / 32 {
        let mut group = Group { format, d, block, b };
        let ws: [[f32; 8]; 4] = std::array::from_fn(|l| importance(32 * b + 8 * l));
        let mut best = (f32::INFINITY, group.shared());
        for shared in group.candidates() {
            let cost: f32 =
                (0..4).map(|l| group.choose(shared, &eight(weights, 32 * b + 8 * l), &ws[l]).cost).sum();
            if cost < best.0 {
                best = (cost, shared);
            }
        }
        let shared = best.1;
        let choices: [Choice; 4] = std::array::from_fn(|l| {
            let first = 32 * b + 8 * l;
            let choice = group.choose(shared, &eight(weights, first), &ws[l]);
            settle(first, &choice.values, weights, upper, errors);
            choice
        });
        group.write(shared, &choices);
    }
}
