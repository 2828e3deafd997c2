//! Good codes for one group of eight weights at a scale that stands, and what they cost: feedback asks for nothing
//! else.

use fearless_simd::Simd;

use super::codebook::Codebook;
use super::eights::{self, magnitudes};
use super::entries::{Entries, Taken, Target};
use super::near_fours::{Magnitudes, NearFours};
use super::signs::{cheapest, signs};
use super::{every_entry, neighbours, ternary};
use crate::codes::Group;

/// Codes and their weighted squared error.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    pub cost: f32,
    pub group: Group,
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

/// A ternary entry, shifted down or up.
#[inline(always)]
pub(crate) fn shifted<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32, down: bool) -> Choice {
    let taken = neighbours::IQ1.search_at(simd, &ternary::LEVELS[usize::from(down)], x, w, scale);
    Choice { cost: cost(energy(x, w), &taken, scale), group: Group::shifted(taken.entry, down) }
}

/// The costs of a group at three scales, shifted up and shifted down, of entries that are sought together.
#[inline(always)]
pub(crate) fn shifted_costs<S: Simd>(
    simd: S,
    x: &[f32; 8],
    w: &[f32; 8],
    scales: &[f32; 3],
) -> [[f32; 3]; 2] {
    let found = neighbours::IQ1.search(simd, &ternary::ROUNDING, &ternary::LEVELS, x, w, scales);
    let energy = energy(x, w);
    let mut costs = [[0.0; 3]; 2];
    for down in 0..2 {
        for k in 0..3 {
            let (p, q) = (found[down].p[k], found[down].q[k]);
            costs[down][k] = energy - scales[k] * (2.0 * p - scales[k] * q);
        }
    }
    costs
}

/// The same with the shift that costs less.
#[inline(always)]
pub(crate) fn either_shift_costs<S: Simd>(
    simd: S,
    x: &[f32; 8],
    w: &[f32; 8],
    scales: &[f32; 3],
) -> [f32; 3] {
    let [up, down] = shifted_costs(simd, x, w, scales);
    let mut costs = [0.0; 3];
    for k in 0..3 {
        costs[k] = up[k].min(down[k]);
    }
    costs
}

/// The costs of the best of the entries that were sought, at three scales.
#[inline(always)]
fn costs_at<S: Simd>(simd: S, entries: &Entries, energy: f32, scales: &[f32; 3]) -> [f32; 3] {
    let mut costs = [0.0; 3];
    for k in 0..3 {
        let (_, score) = entries.at(simd, scales[k]);
        costs[k] = energy - 2.0 * scales[k] * score;
    }
    costs
}

/// The same with free signs.
#[inline(always)]
pub(crate) fn free_signs_costs<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scales: &[f32; 3]) -> [f32; 3] {
    let magnitudes = magnitudes(x);
    let [entries] =
        neighbours::IQ2_S.search(simd, &eights::LEVELS[0], &eights::LEVELS, &magnitudes, w, scales);
    costs_at(simd, &entries, energy(x, w), scales)
}

/// The same with an even number of minus signs.
#[inline(always)]
pub(crate) fn even_signs_costs<S: Simd>(
    simd: S,
    book: &Codebook<8>,
    x: &[f32; 8],
    w: &[f32; 8],
    scales: &[f32; 3],
) -> [f32; 3] {
    let odd = signs(simd, x).count_ones() % 2 == 1;
    let target = Target::magnitudes(x, w);
    let entries = every_entry::search::<S, 8, 2, 6>(simd, book, &target, odd, scales[1]);
    costs_at(simd, &entries, energy(x, w), scales)
}

/// The same of two entries of four magnitudes.
#[inline(always)]
pub(crate) fn two_fours_costs<S: Simd>(
    simd: S,
    near: &NearFours,
    even: bool,
    x: &[f32; 8],
    w: &[f32; 8],
    scales: &[f32; 3],
) -> [f32; 3] {
    let odd = even && signs(simd, x).count_ones() % 2 == 1;
    let (xs, _) = x.as_chunks::<4>();
    let (ws, _) = w.as_chunks::<4>();
    let mut costs = [energy(x, w); 3];
    // Of both halves together the one that pays less for turning a sign turns it.
    let mut more = [f32::INFINITY; 3];
    for half in 0..2 {
        let target = Magnitudes::new(&xs[half], &ws[half]);
        let kept = costs_at(simd, &near.search(simd, &target, false, scales[1]), 0.0, scales);
        for k in 0..3 {
            costs[k] += kept[k];
        }
        if odd {
            let turned = costs_at(simd, &near.search(simd, &target, true, scales[1]), 0.0, scales);
            for k in 0..3 {
                more[k] = more[k].min(turned[k] - kept[k]);
            }
        }
    }
    for k in 0..3 {
        costs[k] += if odd { more[k] } else { 0.0 };
    }
    costs
}

/// A ternary entry with the shift that costs less; up if both cost the same.
#[inline(always)]
pub(crate) fn either_shift<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32) -> Choice {
    let up = shifted(simd, x, w, scale, false);
    let down = shifted(simd, x, w, scale, true);
    if down.cost < up.cost { down } else { up }
}

/// An entry of eight magnitudes with free signs: IQ2_S.
#[inline(always)]
pub(crate) fn free_signs<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32) -> Choice {
    let taken = neighbours::IQ2_S.search_at(simd, &eights::LEVELS[0], &magnitudes(x), w, scale);
    Choice { cost: cost(energy(x, w), &taken, scale), group: Group::eight(taken.entry, signs(simd, x)) }
}

/// An entry of eight magnitudes with an even number of minus signs.
#[inline(always)]
pub(crate) fn even_signs<S: Simd>(
    simd: S,
    book: &Codebook<8>,
    x: &[f32; 8],
    w: &[f32; 8],
    scale: f32,
) -> Choice {
    let mut signs = signs(simd, x);
    let odd = signs.count_ones() % 2 == 1;
    let target = Target::magnitudes(x, w);
    let entries = every_entry::search::<S, 8, 3, 6>(simd, book, &target, odd, scale);
    let (k, _) = entries.at(simd, scale);
    let taken = Taken { entry: entries.entry[k] as u16, p: entries.p[k], q: entries.q[k] };
    if odd {
        signs ^= 1 << cheapest(&target.a, &book.values[usize::from(taken.entry)]);
    }
    Choice { cost: cost(energy(x, w), &taken, scale), group: Group::eight(taken.entry, signs) }
}

/// Two entries of four magnitudes; `even` wants an even number of minus signs in all eight.
#[inline(always)]
pub(crate) fn two_fours<S: Simd>(
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
    Choice {
        cost: cost(energy(x, w), &taken[0], scale) + cost(0.0, &taken[1], scale),
        group: Group { entries: [taken[0].entry, taken[1].entry], signs, down: false },
    }
}
