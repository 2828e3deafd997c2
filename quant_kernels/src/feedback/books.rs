//! Formats in which weights share entries of a codebook: IQ1_*, IQ2_* and IQ3_*. Eight weights are one group, with
//! one entry or two of four.
//!
//! Where weights that share a scale begin, scale codes near the block's are tried on the moved weights, and the best
//! is kept.

use fearless_simd::{Level, Simd, dispatch};
use half::f16;

use super::Feed;
use crate::Format;
use crate::search::codebook::{Codebook, IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use crate::search::eights::{self, magnitudes};
use crate::search::entries::{Taken, Target};
use crate::search::near_fours::{self, Magnitudes, NearFours};
use crate::search::neighbours;
use crate::search::signs::{cheapest, signed, signs};
use crate::search::{every_entry, ternary};

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

impl Layout {
    #[inline(always)]
    fn scale(&self, d: f32, code: u8) -> f32 {
        d * (self.first + f32::from(code)) * self.step
    }
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

/// What groups have in common: the scale code, and in IQ1_S the shift (true is down).
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

/// The squared error of an entry at a scale, `energy` being that of zeros.
#[inline(always)]
fn cost(energy: f32, taken: &Taken, scale: f32) -> f32 {
    energy - scale * (2.0 * taken.p - scale * taken.q)
}

/// The sum of w x^2.
#[inline(always)]
fn energy(x: &[f32; 8], w: &[f32; 8]) -> f32 {
    let mut energy = 0.0;
    for t in 0..8 {
        energy += w[t] * x[t] * x[t];
    }
    energy
}

/// A good ternary entry at this scale and shift.
#[inline(always)]
fn choose_ternary<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32, down: bool) -> Choice {
    let taken = neighbours::IQ1.search_at(simd, &ternary::LEVELS[usize::from(down)], x, w, scale);
    Choice {
        cost: cost(energy(x, w), &taken, scale),
        entries: [taken.entry, 0],
        signs: 0,
        down,
        values: ternary::shifted(&IQ1.values[usize::from(taken.entry)], down, scale),
    }
}

/// A good entry of eight magnitudes with free signs, at this scale.
#[inline(always)]
fn choose_signed<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32) -> Choice {
    let taken = neighbours::IQ2_S.search_at(simd, &eights::LEVELS[0], &magnitudes(x), w, scale);
    let signs = signs(simd, x);
    Choice {
        cost: cost(energy(x, w), &taken, scale),
        entries: [taken.entry, 0],
        signs,
        down: false,
        values: signed(&IQ2_S.values[usize::from(taken.entry)], signs, scale),
    }
}

/// A good entry of eight magnitudes with an even number of minus signs, at this scale.
#[inline(always)]
fn choose_even<S: Simd>(simd: S, book: &Codebook<8>, x: &[f32; 8], w: &[f32; 8], scale: f32) -> Choice {
    let mut signs = signs(simd, x);
    let odd = signs.count_ones() % 2 == 1;
    let target = Target::magnitudes(x, w);
    let entries = every_entry::search(simd, book, &target, odd, scale);
    let (k, _) = entries.at(simd, scale);
    let taken = Taken { entry: entries.entry[k] as u16, p: entries.p[k], q: entries.q[k] };
    let values = &book.values[usize::from(taken.entry)];
    if odd {
        signs ^= 1 << cheapest(&target.a, values);
    }
    Choice {
        cost: cost(energy(x, w), &taken, scale),
        entries: [taken.entry, 0],
        signs,
        down: false,
        values: signed(values, signs, scale),
    }
}

/// Two good entries of four magnitudes at this scale; `even` wants an even number of minus signs in all.
#[inline(always)]
fn choose_fours<S: Simd>(
    simd: S,
    book: &Codebook<4>,
    near: &NearFours,
    even: bool,
    x: &[f32; 8],
    w: &[f32; 8],
    scale: f32,
) -> Choice {
    let mut signs = signs(simd, x);
    let (xs, _) = x.as_chunks::<4>();
    let (ws, _) = w.as_chunks::<4>();
    let targets = [Magnitudes::new(&xs[0], &ws[0]), Magnitudes::new(&xs[1], &ws[1])];
    let mut taken =
        [near.search_at(simd, &targets[0], false, scale), near.search_at(simd, &targets[1], false, scale)];
    if even && signs.count_ones() % 2 == 1 {
        let turned =
            [near.search_at(simd, &targets[0], true, scale), near.search_at(simd, &targets[1], true, scale)];
        let more = [
            cost(0.0, &turned[0], scale) - cost(0.0, &taken[0], scale),
            cost(0.0, &turned[1], scale) - cost(0.0, &taken[1], scale),
        ];
        let half = usize::from(more[1] < more[0]);
        taken[half] = turned[half];
        let a = Target::magnitudes(&xs[half], &ws[half]).a;
        signs ^= 1 << (4 * half + cheapest(&a, &book.values[usize::from(taken[half].entry)]));
    }
    let mut values = [0.0; 8];
    for half in 0..2 {
        let decoded = signed(&book.values[usize::from(taken[half].entry)], signs >> (4 * half), scale);
        values[4 * half..][..4].copy_from_slice(&decoded);
    }
    Choice {
        cost: cost(energy(x, w), &taken[0], scale) + cost(0.0, &taken[1], scale),
        entries: [taken[0].entry, taken[1].entry],
        signs,
        down: false,
        values,
    }
}

#[inline(always)]
fn choose<S: Simd>(
    simd: S,
    format: Format,
    shared: Shared,
    scale: f32,
    x: &[f32; 8],
    w: &[f32; 8],
) -> Choice {
    match format {
        Format::IQ1_S => choose_ternary(simd, x, w, scale, shared.down),
        Format::IQ1_M => {
            let up = choose_ternary(simd, x, w, scale, false);
            let down = choose_ternary(simd, x, w, scale, true);
            if down.cost < up.cost { down } else { up }
        }
        Format::IQ2_XXS => choose_even(simd, &IQ2_XXS, x, w, scale),
        Format::IQ2_XS => choose_even(simd, &IQ2_XS, x, w, scale),
        Format::IQ2_S => choose_signed(simd, x, w, scale),
        Format::IQ3_XXS => choose_fours(simd, &IQ3_XXS, &near_fours::IQ3_XXS, true, x, w, scale),
        _ => choose_fours(simd, &IQ3_S, &near_fours::IQ3_S, false, x, w, scale),
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

/// Scale code and shift of the b-th groups that share a scale.
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

pub(super) fn feed(level: Level, format: Format, block: &mut [u8], weights: &mut Feed<'_>) {
    let Some(layout) = layout(format) else { return };
    dispatch!(level, simd => feed_at(simd, format, layout, block, weights));
}

#[inline(always)]
fn feed_at<S: Simd>(simd: S, format: Format, layout: Layout, block: &mut [u8], weights: &mut Feed<'_>) {
    let d = d(format, block);
    if d == 0.0 {
        return weights.settle(simd, 0, &[0.0; 256]);
    }
    let (ws, _) = weights.importance.as_chunks::<8>();
    for b in 0..32 / layout.groups {
        let groups = b * layout.groups..(b + 1) * layout.groups;
        let before = shared(format, block, b);
        let (mut least, mut best) = (f32::INFINITY, before);
        for turn in 0..if layout.shared_shift { 2 } else { 1 } {
            for code in before.code.saturating_sub(1)..=(before.code + 1).min(layout.most) {
                let shared = Shared { code, down: before.down != (turn == 1) };
                let scale = layout.scale(d, code);
                let (xs, _) = weights.moved.as_chunks::<8>();
                let mut cost = 0.0;
                for i in groups.clone() {
                    cost += choose(simd, format, shared, scale, &xs[i], &ws[i]).cost;
                }
                if cost < least {
                    (least, best) = (cost, shared);
                }
            }
        }
        write_shared(format, block, b, best);
        for i in groups {
            let (xs, _) = weights.moved.as_chunks::<8>();
            let choice = choose(simd, format, best, layout.scale(d, best.code), &xs[i], &ws[i]);
            weights.settle(simd, 8 * i, &choice.values);
            write(format, block, i, &choice);
        }
    }
}
