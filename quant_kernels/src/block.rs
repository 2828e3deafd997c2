//! What a block format is: N weights to a fixed number of bytes, and back.

use bytemuck::Pod;
use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch, f32x16};

use crate::feedback::{LANES, Side};
use crate::scale::Scale;
use crate::search::scale::peak;

/// One block of a format: `N` weights in `size_of::<Self>()` bytes.
///
/// Everything below `quantize` is `#[inline(always)]`, or it is compiled for the oldest CPU.
pub(crate) trait Block<const N: usize>: Pod {
    /// The block that stands for `x`. Weights are finite and within [`LARGEST`](crate::LARGEST); the largest
    /// importance is 1 and none is less than [`LEAST`].
    fn quantize<S: Simd>(simd: S, x: &[f32; N], importance: &[f32; N]) -> Self;

    /// The same where only the scales matter, since the codes will be chosen with feedback: they may be a little off.
    #[inline(always)]
    fn prepare<S: Simd>(simd: S, x: &[f32; N], importance: &[f32; N]) -> Self {
        Self::quantize(simd, x, importance)
    }

    /// Changes the half-precision scales that the weights are proportional to, all of them: d, and the minimums' as
    /// well. By default there are none that may be changed.
    #[inline(always)]
    fn map_scales(&mut self, _change: impl Fn(Scale) -> Scale) {}

    /// The same block with all weights times a factor near 1. A scale that would not be finite stays as it is.
    #[inline(always)]
    fn scaled(mut self, factor: f32) -> Self {
        self.map_scales(|scale| scale.times(factor));
        self
    }

    /// Whether `quantize` leaves the weights smaller than they were, so that each row has to be
    /// [`scaled`](Self::scaled).
    ///
    /// A search for the least squared error gives sum(w y y) = sum(w x y) < sum(w x x): the weights come out smaller,
    /// and every output with them, which costs a model far more than the error itself. So `quantize` is left to find
    /// the best direction, and each row is scaled to the gain 1. Per row and not per block: the
    /// direction of the row is what was searched for, and it stays as it is.
    const SHRINKS: bool = false;

    /// Whether every weight goes to the nearest of levels of which zero is one, so that none comes back worse than
    /// zero.
    const NEAREST: bool = false;

    /// How much more large weights count than their importance says. None in formats that use no importances, and in
    /// the ternary ones, whose three levels cannot follow large weights, so that the gain suffers.
    const TEMPER: Option<Temper> = Some(Temper::Square(1.0));

    /// For rows whose inputs are even (see [`Importances::even`]): their importances as they are, untempered, and how
    /// many times more a loss of length counts than the importances say ([`Sums::factor`]). None if it makes no
    /// difference whether inputs are even.
    const COHERENCE: Option<f64> = None;

    /// The weights that a reader of GGUF sees, equal to ggml's to the bit.
    fn dequantize<S: Simd>(&self, simd: S, y: &mut [f32; N]);

    /// How many weights share a code that [`feed`](Self::feed) chooses; none if it chooses no other codes.
    const GROUP: Option<usize> = None;

    /// Chooses the codes of the weights anew, with error feedback, in one block of each of at most sixteen rows; the
    /// scales of the super-blocks stay. By default the codes stay as well, and only their errors are noted.
    #[inline(always)]
    fn feed<S: Simd>(simd: S, blocks: &mut [Self], rows: &mut Side<'_>) {
        let mut decoded = [[0.0; N]; LANES];
        for (block, decoded) in blocks.iter().zip(&mut decoded) {
            block.dequantize(simd, decoded);
        }
        for i in 0..N {
            let mut lanes = [0.0; LANES];
            lanes.iter_mut().zip(&decoded).for_each(|(lane, decoded)| *lane = decoded[i]);
            rows.note(simd, 0, i, f32x16::load_array_ref(simd, &lanes));
        }
    }

    /// Whether the block says that it is no number, where decoders do not show that.
    #[inline(always)]
    fn is_nan(&self) -> bool {
        false
    }
}

/// Importances are multiplied by a root of c + x^2 / mean x^2. What rounding takes from a large weight is missing in
/// the layer's output, while errors of small ones average out; so large weights count for more than the squared error
/// says.
///
/// Which root and which c is a compromise, measured for each format (docs/records/2026-11-weighting.md): the larger
/// c, the less the weighted error; the smaller, the less the divergence of the model.
#[derive(Clone, Copy)]
pub(crate) enum Temper {
    /// The square root, with this c.
    Square(f32),
    /// The fourth root, which spreads less, with this c.
    Fourth(f32),
}

/// The least importance relative to the block's largest: with zeros, scales could be
/// undefined, and with much less, differences of sums lose their digits.
pub(crate) const LEAST: f32 = 1e-5;

/// The importances of a row's blocks, each relative to its block's largest, so that sums neither overflow nor vanish.
struct Importances<const N: usize> {
    blocks: Vec<[f32; N]>,
    /// Each block's largest relative to the row's.
    shares: Vec<f32>,
    /// Whether some are so far apart that a block may be lost to a few of its weights.
    spread: bool,
    /// Whether many columns carry the row's input, as behind a norm: the effective number of columns, (sum w)^2 /
    /// sum w^2, is at least half of all. The errors of many columns average out, so there is no need for large weights
    /// to count for more.
    even: bool,
}

/// Importances are far apart if one is less than this share of its block's largest.
const SPREAD: f32 = 1e-3;

/// Rows whose largest weight is below this need scales that half precision has few of.
const FAINT_PEAK: f32 = 1e-3;

impl<const N: usize> Importances<N> {
    /// Those of a row, or even ones; a block or a row of zeros has even ones too.
    fn new(importance: Option<&[f32]>, columns: usize) -> Self {
        let Some(importance) = importance else {
            let (blocks, shares) = (vec![[1.0; N]; columns / N], vec![1.0; columns / N]);
            return Self { blocks, shares, spread: false, even: true };
        };
        let largest = |w: &[f32]| w.iter().fold(0.0f32, |largest, &w| largest.max(w));
        let over = |w: f32, of: f32| if of > 0.0 { (w / of).max(LEAST) } else { 1.0 };
        let (blocks, _) = importance.as_chunks::<N>();
        let of_row = largest(importance);
        let shares = blocks.iter().map(|block| over(largest(block), of_row)).collect();
        let relative = |block: &[f32; N]| {
            let of_block = largest(block);
            block.map(|w| over(w, of_block))
        };
        let blocks: Vec<[f32; N]> = blocks.iter().map(relative).collect();
        let spread = blocks.as_flattened().iter().any(|&w| w < SPREAD);
        let [sum, squares] = importance.iter().fold([0.0; 2], |[sum, squares], &w| {
            let w = f64::from(w);
            [sum + w, squares + w * w]
        });
        Self { blocks, shares, spread, even: 2.0 * sum * sum >= squares * importance.len() as f64 }
    }
}

/// What is wanted of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    Whole,
    /// Its scales; codes will be chosen with feedback.
    Scales,
}

/// Encodes rows of `columns` weights, each with the same importances (of one row), at this SIMD level.
pub(crate) fn quantize_rows<const N: usize, B: Block<N>>(
    level: Level,
    wanted: Wanted,
    rows: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(blocks);
    let importances = Importances::new(importance, columns);
    for (row, blocks) in rows.chunks_exact(columns).zip(blocks.chunks_exact_mut(columns / N)) {
        let (x, _) = row.as_chunks::<N>();
        dispatch!(level, simd => match wanted {
            Wanted::Whole => quantize_row::<N, true, B, _>(simd, x, &importances, blocks),
            Wanted::Scales => quantize_row::<N, false, B, _>(simd, x, &importances, blocks),
        });
    }
}

#[inline(always)]
fn quantize_row<const N: usize, const WHOLE: bool, B: Block<N>, S: Simd>(
    simd: S,
    x: &[[f32; N]],
    importances: &Importances<N>,
    blocks: &mut [B],
) {
    let coherence = B::COHERENCE.filter(|_| importances.even);
    let temper = B::TEMPER.filter(|_| coherence.is_none());
    for ((block, x), importance) in blocks.iter_mut().zip(x).zip(&importances.blocks) {
        let importance = match temper {
            Some(temper) => &tempered(simd, x, importance, temper),
            None => importance,
        };
        *block = if WHOLE { B::quantize(simd, x, importance) } else { B::prepare(simd, x, importance) };
    }
    // What surely is better than zeros is not looked at again.
    if B::NEAREST || !B::SHRINKS && !importances.spread && peak(simd, x.as_flattened()).abs() >= FAINT_PEAK {
        return;
    }
    let mut sums = Sums::of(simd, x, importances, blocks);
    if B::SHRINKS {
        let (factor, sure) = sums.factor(x.len() * N, coherence);
        for block in &mut *blocks {
            *block = block.scaled(factor);
        }
        if sure {
            return;
        }
        sums = Sums::of(simd, x, importances, blocks);
    }
    if sums.is_worse_than_zeros(1.0) {
        for (i, block) in blocks.iter_mut().enumerate() {
            if Sums::of_block(simd, &x[i], &importances.blocks[i], block).is_worse_than_zeros(1.0) {
                *block = B::zeroed();
            }
        }
    }
}

/// Importances times the root that the format takes, relative to the largest again.
#[inline(always)]
fn tempered<const N: usize, S: Simd>(
    simd: S,
    x: &[f32; N],
    importance: &[f32; N],
    temper: Temper,
) -> [f32; N] {
    let root = |v: f32x16<S>| match temper {
        Temper::Square(c) => (v + c).sqrt(),
        Temper::Fourth(c) => (v + c).sqrt().sqrt(),
    };
    let (xs, _) = x.as_chunks::<16>();
    let (ws, _) = importance.as_chunks::<16>();
    let mut energy = f32x16::splat(simd, 0.0);
    for x in xs {
        let x = f32x16::load_array_ref(simd, x);
        energy += x * x;
    }
    let mean = energy.reduce_sum() / N as f32;
    // Weights so small that squares vanish count alike.
    let inverse = if mean > f32::MIN_POSITIVE { 1.0 / mean } else { 0.0 };
    let mut tempered = [0.0; N];
    let (out, _) = tempered.as_chunks_mut::<16>();
    let mut largest = f32x16::splat(simd, 0.0);
    for ((out, x), w) in out.iter_mut().zip(xs).zip(ws) {
        let x = f32x16::load_array_ref(simd, x);
        let w = f32x16::load_array_ref(simd, w) * root(x * x * inverse);
        largest = largest.max(w);
        w.store_array(out);
    }
    let scale = 1.0 / largest.reduce_max();
    for out in out {
        (f32x16::load_array_ref(simd, out) * scale).max(LEAST).store_array(out);
    }
    tempered
}

/// Sums over weights x, what comes back of them, y, and their importances w.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// w x x
    xx: f64,
    /// w x y
    xy: f64,
    /// w y y
    yy: f64,
}

/// Below this mean square of a row, scales are so small that they are no longer what they were multiplied by.
const FAINT: f64 = 1e-10;

impl Sums {
    /// The sums of a row.
    #[inline(always)]
    fn of<const N: usize, B: Block<N>, S: Simd>(
        simd: S,
        x: &[[f32; N]],
        importances: &Importances<N>,
        blocks: &[B],
    ) -> Self {
        let mut row = Self::default();
        for (i, block) in blocks.iter().enumerate() {
            let of_block = Self::of_block(simd, &x[i], &importances.blocks[i], block);
            let share = f64::from(importances.shares[i]);
            row.xx += share * of_block.xx;
            row.xy += share * of_block.xy;
            row.yy += share * of_block.yy;
        }
        row
    }

    /// The sums of a block, with its own importances.
    #[inline(always)]
    fn of_block<const N: usize, B: Block<N>, S: Simd>(
        simd: S,
        x: &[f32; N],
        importance: &[f32; N],
        block: &B,
    ) -> Self {
        let mut y = [0.0; N];
        block.dequantize(simd, &mut y);
        let (x, _) = x.as_chunks::<16>();
        let (y, _) = y.as_chunks::<16>();
        let (w, _) = importance.as_chunks::<16>();
        let mut sums = [f32x16::splat(simd, 0.0); 3];
        for j in 0..x.len() {
            let x = f32x16::load_array_ref(simd, &x[j]);
            let y = f32x16::load_array_ref(simd, &y[j]);
            let w = f32x16::load_array_ref(simd, &w[j]);
            let weighted = x * w;
            sums[0] += weighted * x;
            sums[1] += weighted * y;
            sums[2] += w * y * y;
        }
        let [xx, xy, yy] = sums.map(|sum| f64::from(sum.reduce_sum()));
        Self { xx, xy, yy }
    }

    /// What the blocks of a row of so many weights are multiplied by, and whether that surely leaves them better than
    /// zeros: for sum(w x y) = sum(w x x), unless more would then be wrong than zeros have wrong (where less than half
    /// of the direction is kept, as of sparse rows). The least squared error is all that can be had there.
    ///
    /// With a coherence k the factor is that of the least squared error of the row's output where the output has k
    /// times the energy that importances give it (inputs are correlated, and rows lie along what they have in common),
    /// while rounding errors, in random directions, have what importances say: y is then a x plus noise, of energies
    /// k a^2 xx and yy - a^2 xx, with a = xy / xx. With k = 1 that is the least squared error, without end the unit gain.
    #[inline(always)]
    fn factor(&self, weights: usize, coherence: Option<f64>) -> (f32, bool) {
        let Self { xx, xy, yy } = *self;
        // Far from 1 only for rows of nothing.
        let unit = match coherence {
            _ if xx >= 2.0 * xy || xy >= 2.0 * xx => 1.0,
            Some(k) => (k * xx * xy / ((k - 1.0) * xy * xy + xx * yy)) as f32,
            None => (xx / xy) as f32,
        };
        if self.is_worse_than_zeros(unit.into()) {
            (if xy > 0.0 { (xy / yy) as f32 } else { 0.0 }, false)
        } else {
            (unit, xx > FAINT * weights as f64)
        }
    }

    /// Whether zeros would have less error than the blocks times this factor, or nearly.
    #[inline(always)]
    fn is_worse_than_zeros(&self, factor: f64) -> bool {
        // factor^2 yy - 2 factor xy + xx > xx, in terms that do not cancel.
        factor * self.yy > 1.9999 * self.xy
    }
}

/// Decodes whole blocks at this SIMD level.
pub(crate) fn dequantize_blocks<const N: usize, B: Block<N>>(
    level: Level,
    blocks: &[u8],
    weights: &mut [f32],
) {
    let blocks: &[B] = bytemuck::cast_slice(blocks);
    let (weights, _) = weights.as_chunks_mut::<N>();
    dispatch!(level, simd => {
        for (block, weights) in blocks.iter().zip(weights) {
            block.dequantize(simd, weights);
        }
    });
}
