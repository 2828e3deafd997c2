//! The scales of a format: a factor of d per code, and the grid on which candidates for them are sought.

use fearless_simd::{Simd, SimdBase, f32x16};

/// The scale codes of a format and what is typical for it.
pub(crate) struct Shape {
    /// How many codes there are: 8 or 16.
    pub codes: usize,
    /// d times these are the scales of the codes, sixteen lanes: eight codes come twice.
    pub steps: [f32; 16],
    /// Steps of the grid from each code up to the largest.
    pub offsets: [usize; 16],
    /// A block's usual scale over its weighted root mean square: one over the root mean square of the codebook's
    /// values, moved by up to a sixth on heavy-tailed rows (commits 34065ad and 483a9c3). It only centres the grid and
    /// the ladder, whose width covers the rest; `exhaustive.rs` holds what the searches leave with it.
    pub typical: f32,
}

impl Shape {
    /// The shape of a format whose scales are d * (1 + 2 code) * unit.
    pub const fn new(codes: usize, unit: f32, typical: f32) -> Self {
        let mut steps = [0.0; 16];
        let mut offsets = [0; 16];
        let mut lane = 0;
        while lane < 16 {
            let code = lane % codes;
            steps[lane] = (1 + 2 * code) as f32 * unit;
            let mut ratio = (2 * codes - 1) as f32 / (1 + 2 * code) as f32;
            while ratio > 1.0 + 0.5 * (RATIO - 1.0) {
                ratio /= RATIO;
                offsets[lane] += 1;
            }
            lane += 1;
        }
        Self { codes, steps, offsets, typical }
    }
}

/// Ratio of neighbours in the grid: the fourth root of 1.15.
const RATIO: f32 = 1.0356;
/// Grid points below the largest block's; a block further down, at less than a hundredth, is scored as if it were here.
const DEPTH: usize = 128;
/// Grid points of a block: 3.06 times between the first and the last.
pub(crate) const POINTS: usize = 32;
/// How many of a block's points lie below its typical scale.
pub(crate) const BELOW: usize = POINTS / 2;

/// RATIO to the power of (index - DEPTH - BELOW).
pub(crate) const POWERS: [f32; DEPTH + POINTS] = {
    let mut powers = [1.0; DEPTH + POINTS];
    let mut i = DEPTH + BELOW;
    while i > 0 {
        i -= 1;
        powers[i] = powers[i + 1] / RATIO;
    }
    i = DEPTH + BELOW;
    while i + 1 < DEPTH + POINTS {
        powers[i + 1] = powers[i] * RATIO;
        i += 1;
    }
    powers
};

/// A grid of scales that the blocks of a super-block share, each with its own window of it.
pub(crate) struct Grid<const B: usize> {
    /// The typical scale of the largest block.
    pub largest: f32,
    /// Index into POWERS of the first point of each block.
    pub start: [usize; B],
}

impl<const B: usize> Grid<B> {
    /// None where no block has a weight that counts.
    #[inline(always)]
    pub fn new<S: Simd>(simd: S, shape: &Shape, x: &[f32; 256], importance: &[f32; 256]) -> Option<Self> {
        let len = 256 / B;
        let mut typical = [0.0; B];
        let mut largest = 0.0_f32;
        for b in 0..B {
            typical[b] =
                root_mean_square(simd, &x[b * len..][..len], &importance[b * len..][..len]) * shape.typical;
            largest = largest.max(typical[b]);
        }
        // Far below what an f16 scale can hold, and far above where the inverse of a scale overflows.
        if largest < 1e-20 {
            return None;
        }
        let mut start = [0; B];
        for b in 0..B {
            start[b] = position(typical[b] / largest) - BELOW;
        }
        Some(Self { largest, start })
    }

    /// The typical scale of a block.
    #[inline(always)]
    pub fn middle(&self, block: usize) -> f32 {
        self.largest * POWERS[self.start[block] + BELOW]
    }

    /// Where in a block's points, with sixteen more in front, the point of the grid lies, if it and the next fifteen
    /// reach any of the block's.
    #[inline(always)]
    pub fn window(&self, block: usize, index: isize) -> Option<usize> {
        let start = index + 16 - self.start[block] as isize;
        (0..(POINTS + 16) as isize).contains(&start).then_some(start as usize)
    }
}

/// Places on the way from the middle scale, as scales. (A loop: a closure would be compiled for the oldest CPU.)
#[inline(always)]
pub(crate) fn times<const L: usize>(rungs: &[f32; L], middle: f32) -> [f32; L] {
    let mut scales = [0.0; L];
    for l in 0..L {
        scales[l] = rungs[l] * middle;
    }
    scales
}

/// About the index into POWERS of a scale that is this part of the largest: up to two points off, since the bits of a
/// float rise straight between powers of two where its logarithm bends. A search of the table cost more than the rest.
#[inline(always)]
fn position(part: f32) -> usize {
    const POINTS_PER_OCTAVE: f32 = 19.815; // 1 / log2(RATIO)
    let octaves = (part.to_bits() as i32 - 1.0_f32.to_bits() as i32) as f32 * (1.0 / (1 << 23) as f32);
    BELOW + (DEPTH as i32 + (octaves * POINTS_PER_OCTAVE + 1.5) as i32).clamp(0, DEPTH as i32) as usize
}

/// The importance-weighted root mean square.
#[inline(always)]
fn root_mean_square<S: Simd>(simd: S, x: &[f32], importance: &[f32]) -> f32 {
    let mut xx = f32x16::splat(simd, 0.0);
    let mut total = xx;
    let (xs, _) = x.as_chunks::<16>();
    let (ws, _) = importance.as_chunks::<16>();
    for (x, w) in xs.iter().zip(ws) {
        let x = f32x16::load_array_ref(simd, x);
        let w = f32x16::load_array_ref(simd, w);
        xx += w * x * x;
        total += w;
    }
    let total = total.reduce_sum();
    if total > 0.0 { (xx.reduce_sum() / total).sqrt() } else { 0.0 }
}
