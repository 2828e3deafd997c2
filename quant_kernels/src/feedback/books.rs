//! Formats in which weights share entries of a codebook: IQ1_*, IQ2_* and IQ3_*. Eight weights are one group, with one entry
//! or two of four.
//!
//! Before the first of the weights that share a scale, the codes near the block's are tried on the weights as the
//! feedback left them, and the best is kept.

use std::sync::LazyLock;

use half::f16;

use super::halves::Halves;
use super::settle;
use crate::Format;
use crate::search::codebook::{Codebook, IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use crate::search::signs::{cheapest, signed};

static HALVES_1: LazyLock<Halves> = LazyLock::new(|| Halves::new(&IQ1));
static HALVES_2_XXS: LazyLock<Halves> = LazyLock::new(|| Halves::new(&IQ2_XXS));
static HALVES_2_XS: LazyLock<Halves> = LazyLock::new(|| Halves::new(&IQ2_XS));
static HALVES_2_S: LazyLock<Halves> = LazyLock::new(|| Halves::new(&IQ2_S));

pub(super) fn knows(format: Format) -> bool {
    layout(format).is_some()
}

/// How a format shares scales.
#[derive(Clone, Copy)]
struct Layout {
    /// Groups of eight with one scale code.
    groups: usize,
    /// The highest code.
    most: u8,
    /// The scale of a code over the block's: (first + code) * step.
    first: f32,
    step: f32,
    /// Whether the groups that share a scale also share a shift.
    shared_shift: bool,
}

#[rustfmt::skip]
fn layout(format: Format) -> Option<Layout> {
    let layout = |groups, most, first, step| Layout { groups, most, first, step, shared_shift: false };
    Some(match format {
        Format::IQ1_S => Layout { shared_shift: true, ..layout(4, 7, 0.5, 2.0) },
        Format::IQ1_M => layout(2, 7, 0.5, 2.0),
        Format::IQ2_XXS => layout(4, 15, 0.5, 0.25),
        Format::IQ2_XS | Format::IQ2_S => layout(2, 15, 0.5, 0.25),
        Format::IQ3_XXS => layout(4, 15, 0.5, 0.5),
        Format::IQ3_S => layout(4, 15, 0.5, 2.0),
        _ => return None,
    })
}

/// What groups share: the scale code, and in IQ1_S the shift (true is down).
#[derive(Clone, Copy)]
struct Shared {
    code: u8,
    down: bool,
}

/// A code for eight weights, its cost and its values.
#[derive(Clone, Copy)]
struct Choice {
    cost: f32,
    /// Of all eight weights, or of the first and the last four.
    entries: [u16; 2],
    signs: u8,
    down: bool,
    values: [f32; 8],
}

/// The best of the ternary entries at this scale and shift.
fn ternary(x: &[f32; 8], w: &[f32; 8], scale: f32, down: bool) -> Choice {
    let book = &*HALVES_1;
    let shift = if down { -0.125 } else { 0.125 };
    let mut cost = [[0.0; 3]; 8];
    for t in 0..8 {
        for (cost, value) in cost[t].iter_mut().zip(book.values) {
            let error = x[t] - scale * (value + shift);
            *cost = w[t] * error * error;
        }
    }
    let (cost, entry) = book.cheapest(&Halves::sums(&cost[..4]), &Halves::sums(&cost[4..]), None);
    let values = IQ1.values[entry].map(|value| scale * (value + shift));
    Choice { cost, entries: [entry as u16, 0], signs: 0, down, values }
}

/// Bit t is set where `x[t]` is below zero.
fn signs_of(x: &[f32; 8]) -> u8 {
    (0..8).fold(0, |signs, t| signs | u8::from(x[t] < 0.0) << t)
}

/// The best of the entries of eight magnitudes at this scale; `even` wants an even number of minus signs.
fn eight(book: &Codebook<8>, halves: &Halves, even: bool, x: &[f32; 8], w: &[f32; 8], scale: f32) -> Choice {
    let (mut cost, mut turn) = ([[0.0; 3]; 8], [[0.0; 3]; 8]);
    for t in 0..8 {
        for (digit, value) in halves.values.iter().enumerate() {
            let error = x[t].abs() - scale * value;
            cost[t][digit] = w[t] * error * error;
            // What the other sign costs more: w ((|x| + y)^2 - (|x| - y)^2).
            turn[t][digit] = 4.0 * w[t] * x[t].abs() * scale * value;
        }
    }
    let mut signs = signs_of(x);
    let odd = even && signs.count_ones() % 2 == 1;
    let turned = odd.then(|| [Halves::least(&turn[..4]), Halves::least(&turn[4..])]);
    let (cost, entry) =
        halves.cheapest(&Halves::sums(&cost[..4]), &Halves::sums(&cost[4..]), turned.as_ref());
    let values = &book.values[entry];
    if odd {
        let mut a = [0.0; 8];
        for t in 0..8 {
            a[t] = w[t] * x[t].abs();
        }
        signs ^= 1 << cheapest(&a, values);
    }
    Choice { cost, entries: [entry as u16, 0], signs, down: false, values: signed(values, signs, scale) }
}

/// The best two entries of four magnitudes at this scale; `even` wants an even number of minus signs in all.
fn fours(book: &Codebook<4>, even: bool, x: &[f32; 8], w: &[f32; 8], scale: f32) -> Choice {
    let mut signs = signs_of(x);
    let odd = even && signs.count_ones() % 2 == 1;
    // Of each half, with its signs kept and with one turned: the least cost and its entry.
    let mut least = [[(f32::INFINITY, 0usize); 2]; 2];
    let mut a = [[0.0; 4]; 2];
    for half in 0..2 {
        let (mut weight, mut linear) = ([0.0; 4], [0.0; 4]);
        let mut all = 0.0;
        for t in 0..4 {
            let (x, w) = (x[4 * half + t].abs(), w[4 * half + t]);
            a[half][t] = w * x;
            all += w * x * x;
            (weight[t], linear[t]) = (w * scale * scale, 2.0 * w * x * scale);
        }
        for (entry, values) in book.values.iter().enumerate() {
            let (mut cost, mut turn) = (all, f32::INFINITY);
            for t in 0..4 {
                let product = linear[t] * values[t];
                cost += weight[t] * values[t] * values[t] - product;
                turn = turn.min(product);
            }
            for (least, cost) in least[half].iter_mut().zip([cost, cost + 2.0 * turn]) {
                if cost < least.0 {
                    *least = (cost, entry);
                }
            }
        }
    }
    let [[kept_0, turned_0], [kept_1, turned_1]] = least;
    let mut taken = [kept_0, kept_1];
    if odd {
        let half = usize::from(kept_0.0 + turned_1.0 < turned_0.0 + kept_1.0);
        taken[half] = [turned_0, turned_1][half];
        signs ^= 1 << (4 * half + cheapest(&a[half], &book.values[taken[half].1]));
    }
    let mut values = [0.0; 8];
    for half in 0..2 {
        let decoded = signed(&book.values[taken[half].1], signs >> (4 * half), scale);
        values[4 * half..][..4].copy_from_slice(&decoded);
    }
    Choice {
        cost: taken[0].0 + taken[1].0,
        entries: [taken[0].1 as u16, taken[1].1 as u16],
        signs,
        down: false,
        values,
    }
}

fn choose(format: Format, shared: Shared, scale: f32, x: &[f32; 8], w: &[f32; 8]) -> Choice {
    match format {
        Format::IQ1_S => ternary(x, w, scale, shared.down),
        Format::IQ1_M => {
            let [up, down] = [false, true].map(|down| ternary(x, w, scale, down));
            if down.cost < up.cost { down } else { up }
        }
        Format::IQ2_XXS => eight(&IQ2_XXS, &HALVES_2_XXS, true, x, w, scale),
        Format::IQ2_XS => eight(&IQ2_XS, &HALVES_2_XS, true, x, w, scale),
        Format::IQ2_S => eight(&IQ2_S, &HALVES_2_S, false, x, w, scale),
        Format::IQ3_XXS => fours(&IQ3_XXS, true, x, w, scale),
        _ => fours(&IQ3_S, false, x, w, scale),
    }
}

/// The block's scale.
fn d(format: Format, block: &[u8]) -> f32 {
    let bits = match format {
        Format::IQ1_M => (0..4).fold(0, |bits, k| bits | u16::from(block[49 + 2 * k] >> 4) << (4 * k)),
        _ => u16::from_le_bytes([block[0], block[1]]),
    };
    f16::from_bits(bits).to_f32()
}

/// What the b-th groups that share a scale have.
fn shared(format: Format, block: &[u8], b: usize) -> Shared {
    let nibble = |byte: u8, high: usize| byte >> (4 * high) & 15;
    let code = match format {
        Format::IQ1_S => block[35 + 2 * b] >> 4 & 7,
        Format::IQ1_M => {
            (u16::from_le_bytes([block[48 + b / 4 * 2], block[49 + b / 4 * 2]]) >> (3 * (b % 4)) & 7) as u8
        }
        Format::IQ2_XXS => block[9 + 8 * b] >> 4,
        Format::IQ3_XXS => block[69 + 4 * b] >> 4,
        Format::IQ2_XS => nibble(block[66 + b / 2], b % 2),
        Format::IQ2_S => nibble(block[74 + b / 2], b % 2),
        _ => nibble(block[106 + b / 2], b % 2),
    };
    Shared { code, down: format == Format::IQ1_S && block[35 + 2 * b] >> 7 != 0 }
}

/// Changes some bits of a byte.
fn set(byte: &mut u8, shift: usize, bits: u32, value: u8) {
    let mask = ((1u32 << bits) - 1) as u8;
    *byte = *byte & !(mask << shift) | (value & mask) << shift;
}

/// Writes a scale code, and in IQ1_S the shift.
fn write_shared(format: Format, block: &mut [u8], b: usize, Shared { code, down }: Shared) {
    match format {
        Format::IQ1_S => set(&mut block[35 + 2 * b], 4, 4, code | u8::from(down) << 3),
        Format::IQ1_M => {
            let place = 48 + b / 4 * 2;
            let mut word = u16::from_le_bytes([block[place], block[place + 1]]);
            word = word & !(7 << (3 * (b % 4))) | u16::from(code) << (3 * (b % 4));
            block[place..place + 2].copy_from_slice(&word.to_le_bytes());
        }
        Format::IQ2_XXS => set(&mut block[9 + 8 * b], 4, 4, code),
        Format::IQ3_XXS => set(&mut block[69 + 4 * b], 4, 4, code),
        Format::IQ2_XS => set(&mut block[66 + b / 2], 4 * (b % 2), 4, code),
        Format::IQ2_S => set(&mut block[74 + b / 2], 4 * (b % 2), 4, code),
        _ => set(&mut block[106 + b / 2], 4 * (b % 2), 4, code),
    }
}

/// Writes the code of the i-th eight weights.
fn write(format: Format, block: &mut [u8], i: usize, choice: &Choice) {
    let [entry, second] = choice.entries;
    let (low, high) = (entry as u8, (entry >> 8) as u8);
    // Seven signs of the i-th group in the word of four that begins there.
    let mut seven = |word: usize| {
        let mut bits = u32::from_le_bytes([block[word], block[word + 1], block[word + 2], block[word + 3]]);
        bits = bits & !(127 << (7 * (i % 4))) | u32::from(choice.signs & 127) << (7 * (i % 4));
        block[word..word + 4].copy_from_slice(&bits.to_le_bytes());
    };
    match format {
        Format::IQ1_S => {
            let place = 34 + i / 4 * 2;
            let mut word = u16::from_le_bytes([block[place], block[place + 1]]);
            word = word & !(7 << (3 * (i % 4))) | u16::from(high) << (3 * (i % 4));
            block[place..place + 2].copy_from_slice(&word.to_le_bytes());
            block[2 + i] = low;
        }
        Format::IQ1_M => {
            block[i] = low;
            set(&mut block[32 + i / 2], 4 * (i % 2), 4, high | u8::from(choice.down) << 3);
        }
        Format::IQ2_XXS => {
            seven(6 + i / 4 * 8);
            block[2 + i / 4 * 8 + i % 4] = low;
        }
        Format::IQ2_XS => {
            let word = entry | u16::from(choice.signs & 127) << 9;
            block[2 + 2 * i..][..2].copy_from_slice(&word.to_le_bytes());
        }
        Format::IQ2_S => {
            (block[2 + i], block[34 + i]) = (low, choice.signs);
            set(&mut block[66 + i / 4], 2 * (i % 4), 2, high);
        }
        Format::IQ3_XXS => {
            seven(66 + i / 4 * 4);
            (block[2 + 2 * i], block[3 + 2 * i]) = (low, second as u8);
        }
        _ => {
            (block[2 + 2 * i], block[3 + 2 * i], block[74 + i]) = (low, second as u8, choice.signs);
            set(&mut block[66 + i / 4], 2 * (i % 4), 2, high | ((second >> 8) as u8) << 1);
        }
    }
}

pub(super) fn feed(format: Format, block: &mut [u8], weights: &mut [f32], upper: &[f32], errors: &mut [f32]) {
    let Some(layout) = layout(format) else { return };
    let d = d(format, block);
    let n = weights.len();
    let scale = |shared: Shared| d * (layout.first + f32::from(shared.code)) * layout.step;
    let eight = |weights: &[f32], i: usize| -> [f32; 8] { std::array::from_fn(|t| weights[8 * i + t]) };
    let importances: Vec<[f32; 8]> = (0..n / 8)
        .map(|i| {
            std::array::from_fn(|t| {
                let u = upper[(8 * i + t) * n + 8 * i + t];
                1.0 / (u * u)
            })
        })
        .collect();
    for b in 0..n / 8 / layout.groups {
        let groups = b * layout.groups..(b + 1) * layout.groups;
        let before = shared(format, block, b);
        let codes = before.code.saturating_sub(1)..=(before.code + 1).min(layout.most);
        let shifts = if layout.shared_shift { &[before.down, !before.down][..] } else { &[before.down] };
        let mut best = (f32::INFINITY, before);
        for &down in shifts {
            for code in codes.clone() {
                let shared = Shared { code, down };
                let cost =
                    |i| choose(format, shared, scale(shared), &eight(weights, i), &importances[i]).cost;
                let cost: f32 = groups.clone().map(cost).sum();
                if cost < best.0 {
                    best = (cost, shared);
                }
            }
        }
        let shared = best.1;
        write_shared(format, block, b, shared);
        for i in groups {
            let choice = choose(format, shared, scale(shared), &eight(weights, i), &importances[i]);
            settle(8 * i, &choice.values, weights, upper, errors);
            write(format, block, i, &choice);
        }
    }
}
