//! The codes of a block one by one, as error feedback reads and writes them. Where they lie only their format's file
//! knows.

use fearless_simd::Simd;

use crate::block::Block;
use crate::search::one_group::Choice;

/// A format in which each weight has a level of its own (scalar quantization).
pub(crate) trait ScalarBlock<const N: usize>: Block<N> {
    /// The highest level, counted from zero.
    const TOP: u8;

    /// What the levels are in units of the weight's scale, where they are listed; one of them is 1. In the other formats
    /// they rise in even steps.
    const LIST: Option<&'static [i8]> = None;

    /// Gives weight `i` a level.
    fn set_level(&mut self, i: usize, level: u8);
}

/// A format in which weights share entries of a codebook (vector quantization): eight of them, a group, have one entry,
/// or two of four weights each.
pub(crate) trait VectorBlock: Block<256> {
    /// How many groups in a row share a scale code.
    const SHARING: usize;

    /// The highest scale code.
    const TOP: u8;

    /// The super-block's scale.
    fn d(&self) -> f32;

    /// The scale of weights with this code where the super-block has this `d`.
    fn scale(d: f32, code: u8) -> f32;

    /// What the `b`-th so many groups share.
    fn shared(&self, b: usize) -> Shared;

    /// Writes it.
    fn set_shared(&mut self, b: usize, shared: Shared);

    /// The codes of the `i`-th group.
    fn group(&self, i: usize) -> Group;

    /// Writes them, but for a shift that is shared.
    fn set_group(&mut self, i: usize, group: Group);

    /// The weights of a group at a scale.
    fn values(group: Group, scale: f32) -> [f32; 8];

    /// Good codes for the weights `x` of importance `w` at a scale, where a shared shift is `down`.
    fn choose<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scale: f32, down: bool) -> Choice;

    /// What a group costs at three neighbouring scales: codes for all of them may be sought together, so that a little less
    /// than the best is found. Where groups share a shift there are costs for both, up and down; else the latter are infinite.
    #[inline(always)]
    fn costs<S: Simd>(simd: S, x: &[f32; 8], w: &[f32; 8], scales: &[f32; 3]) -> [[f32; 3]; 2] {
        let mut costs = [[f32::INFINITY; 3]; 2];
        for k in 0..3 {
            costs[0][k] = Self::choose(simd, x, w, scales[k], false).cost;
        }
        costs
    }
}

/// What neighbouring groups share.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    /// The scale's code.
    pub code: u8,
    /// Which way the values are shifted, where groups share that.
    pub down: bool,
}

/// The codes of eight weights.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// The entry of all eight weights, or those of the first and the last four.
    pub entries: [u16; 2],
    /// Bit t is set where weight t is below zero.
    pub signs: u8,
    /// Which way the values are shifted, in formats that do so.
    pub down: bool,
}

impl Group {
    /// One entry for all eight weights.
    #[inline(always)]
    pub fn eight(entry: u16, signs: u8) -> Self {
        Self { entries: [entry, 0], signs, down: false }
    }

    /// One entry whose values have signs of their own and are shifted.
    #[inline(always)]
    pub fn shifted(entry: u16, down: bool) -> Self {
        Self { entries: [entry, 0], signs: 0, down }
    }
}

/// Decodes all groups of a block.
#[inline(always)]
pub(crate) fn decode<B: VectorBlock>(block: &B, y: &mut [f32; 256]) {
    let d = block.d();
    let (eights, _) = y.as_chunks_mut::<8>();
    for (b, eights) in eights.chunks_exact_mut(B::SHARING).enumerate() {
        let scale = B::scale(d, block.shared(b).code);
        for (g, y) in eights.iter_mut().enumerate() {
            *y = B::values(block.group(b * B::SHARING + g), scale);
        }
    }
}
