//! The search of IQ1_S and IQ1_M: eight values of -1, 0 and 1 from a codebook, all moved up or down by an eighth.

use fearless_simd::{Simd, SimdBase, f32x16};
use half::f16;

use super::candidates::{Candidates, Target, search};
use super::codebook::IQ1;
use super::importance::normalized;
use super::scales::{around, root_mean_square};
use super::super_block::{Group, fit, guess};

/// What is left to pack: the scale of the super-block, a code per block, an entry and a shift (1 is down) per group.
pub(crate) struct Encoded<const B: usize> {
    pub d: f16,
    pub codes: [u8; B],
    pub entries: [u16; 32],
    pub down: [u8; 32],
}

/// Eight codes of scale 2 code + 1: with the shift up in lanes 0 to 7, down in lanes 8 to 15.
const STEPS: [f32; 16] = [1., 3., 5., 7., 9., 11., 13., 15., 1., 3., 5., 7., 9., 11., 13., 15.];

/// Candidates with the shift up, then down; the block chooses the shift.
#[derive(Clone, Copy)]
struct OneShift {
    shifted: [Candidates<KEPT>; 2],
    /// P and Q of both, in the lanes of their shift.
    p: [[f32; 16]; KEPT],
    q: [[f32; 16]; KEPT],
}

impl Group for OneShift {
    #[inline(always)]
    fn score<S: Simd>(&self, simd: S, scales: f32x16<S>) -> f32x16<S> {
        let half = scales * 0.5;
        let mut top = f32x16::splat(simd, f32::NEG_INFINITY);
        for (p, q) in self.p.iter().zip(&self.q) {
            top = top.max(f32x16::load_array_ref(simd, p) - half * f32x16::load_array_ref(simd, q));
        }
        top * scales
    }

    #[inline(always)]
    fn best(&self, lane: usize, scale: f32) -> (f32, f32) {
        self.shifted[lane / 8].best(lane, scale)
    }
}

/// Candidates of both shifts in one list: the group chooses its own.
#[derive(Clone, Copy)]
struct OwnShift([Candidates<KEPT>; 2]);

impl OwnShift {
    /// The shift that is better at this scale; up when both are as good.
    #[inline(always)]
    fn down(&self, scale: f32) -> usize {
        usize::from(self.0[1].score_at(scale) > self.0[0].score_at(scale))
    }
}

impl Group for OwnShift {
    #[inline(always)]
    fn score<S: Simd>(&self, simd: S, scales: f32x16<S>) -> f32x16<S> {
        self.0[0].score(simd, scales).max(self.0[1].score(simd, scales))
    }

    #[inline(always)]
    fn best(&self, lane: usize, scale: f32) -> (f32, f32) {
        self.0[self.down(scale)].best(lane, scale)
    }
}

/// Encodes eight blocks of 32 weights with a shift each.
#[inline(always)]
pub(crate) fn encode_one_shift<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Encoded<8> {
    let importance = normalized(importance);
    let mut blocks = [[OneShift { shifted: [NONE; 2], p: [[0.0; 16]; KEPT], q: [[0.0; 16]; KEPT] }; 4]; 8];
    let mut guesses = [0.0; 8];
    for b in 0..8 {
        let part = b * 32..(b + 1) * 32;
        let typical = root_mean_square(&x[part.clone()], &importance[part]) * TYPICAL;
        for g in 0..4 {
            let shifted = both_shifts(simd, x, &importance, b * 4 + g, typical);
            let group = &mut blocks[b][g];
            for k in 0..KEPT {
                for half in 0..2 {
                    group.p[k][8 * half..][..8].fill(shifted[half].p[k]);
                    group.q[k][8 * half..][..8].fill(shifted[half].q[k]);
                }
            }
            group.shifted = shifted;
        }
        let eight: [f32; 8] = around(typical, RATIO);
        let mut sixteen = [0.0; 16];
        sixteen[..8].copy_from_slice(&eight);
        sixteen[8..].copy_from_slice(&eight);
        guesses[b] = guess(simd, &blocks[b], &sixteen);
    }
    let fitted = fit(simd, &blocks, &STEPS, &guesses);
    let mut encoded = Encoded { d: fitted.d, codes: [0; 8], entries: [0; 32], down: [0; 32] };
    for b in 0..8 {
        encoded.codes[b] = fitted.lanes[b] as u8 % 8;
        let down = fitted.lanes[b] / 8;
        let scale = fitted.d.to_f32() * STEPS[fitted.lanes[b]];
        for g in 0..4 {
            let candidates = &blocks[b][g].shifted[down];
            encoded.entries[b * 4 + g] = candidates.entry[candidates.at(scale)];
            encoded.down[b * 4 + g] = down as u8;
        }
    }
    encoded
}

/// Encodes sixteen blocks of 16 weights, each eight with a shift.
#[inline(always)]
pub(crate) fn encode_own_shifts<S: Simd>(simd: S, x: &[f32; 256], importance: &[f32; 256]) -> Encoded<16> {
    let importance = normalized(importance);
    let mut blocks = [[OwnShift([NONE; 2]); 2]; 16];
    let mut guesses = [0.0; 16];
    for b in 0..16 {
        let part = b * 16..(b + 1) * 16;
        let typical = root_mean_square(&x[part.clone()], &importance[part]) * TYPICAL;
        for g in 0..2 {
            blocks[b][g] = OwnShift(both_shifts(simd, x, &importance, b * 2 + g, typical));
        }
        guesses[b] = guess(simd, &blocks[b], &around::<16>(typical, RATIO_OF_GUESSES));
    }
    let fitted = fit(simd, &blocks, &STEPS, &guesses);
    let mut encoded = Encoded { d: fitted.d, codes: [0; 16], entries: [0; 32], down: [0; 32] };
    for b in 0..16 {
        encoded.codes[b] = fitted.lanes[b] as u8 % 8;
        let scale = fitted.d.to_f32() * STEPS[fitted.lanes[b]];
        for g in 0..2 {
            let group = &blocks[b][g];
            let down = group.down(scale);
            encoded.entries[b * 2 + g] = group.0[down].entry[group.0[down].at(scale)];
            encoded.down[b * 2 + g] = down as u8;
        }
    }
    encoded
}

const KEPT: usize = 8;
const NONE: Candidates<KEPT> = Candidates { p: [0.0; KEPT], q: [0.0; KEPT], entry: [0; KEPT] };
/// A block's usual scale over its root mean square.
const TYPICAL: f32 = 1.2;
const RATIO: f32 = 1.15;
const RATIO_OF_GUESSES: f32 = 1.075;

#[inline(always)]
fn both_shifts<S: Simd>(
    simd: S,
    x: &[f32; 256],
    importance: &[f32; 256],
    group: usize,
    typical: f32,
) -> [Candidates<KEPT>; 2] {
    let mut target = Target { a: [0.0; 8], w: [0.0; 8] };
    for t in 0..8 {
        target.w[t] = importance[8 * group + t];
        target.a[t] = target.w[t] * x[8 * group + t];
    }
    let scales = around(typical, RATIO);
    [search(simd, &IQ1[0], &target, false, &scales), search(simd, &IQ1[1], &target, false, &scales)]
}
