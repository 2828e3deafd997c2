//! Feedback in formats whose weights share entries of a codebook: IQ1_*, IQ2_* and IQ3_*.
//!
//! Before the first of the groups that share a scale, the codes near the block's are tried on the weights as the
//! feedback left them, and the best is kept.

use fearless_simd::Simd;

use super::{LANES, Side};
use crate::codes::{Shared, VectorBlock};

#[inline(always)]
pub(crate) fn feed<B: VectorBlock, S: Simd>(simd: S, blocks: &mut [B], rows: &mut Side<'_>) {
    let (ws, _) = rows.importance.as_chunks::<8>();
    for b in 0..32 / B::SHARING {
        let groups = b * B::SHARING..(b + 1) * B::SHARING;
        let mut shared = [Shared { code: 0, down: false }; LANES];
        for (row, block) in blocks.iter_mut().enumerate() {
            if block.d() != 0.0 {
                shared[row] = best(simd, block, b, |i| (rows.weights(row, 8 * i), &ws[i]));
                block.set_shared(b, shared[row]);
            }
        }
        for i in groups {
            let mut decoded = [[0.0; LANES]; 8];
            for (row, block) in blocks.iter_mut().enumerate() {
                let d = block.d();
                if d != 0.0 {
                    let scale = B::scale(d, shared[row].code);
                    let x = rows.weights(row, 8 * i);
                    let group = B::choose(simd, &x, &ws[i], scale, shared[row].down).group;
                    let values = B::values(group, scale);
                    decoded.iter_mut().zip(values).for_each(|(lanes, value)| lanes[row] = value);
                    block.set_group(i, group);
                }
            }
            rows.settle(simd, 8 * i, &decoded);
        }
    }
}

/// What costs the `b`-th groups that share a scale the least, of the codes near to what the block has and both shifts.
#[inline(always)]
fn best<'a, B: VectorBlock, S: Simd>(
    simd: S,
    block: &B,
    b: usize,
    group: impl Fn(usize) -> ([f32; 8], &'a [f32; 8]),
) -> Shared {
    let before = block.shared(b);
    let codes = [before.code.saturating_sub(1), before.code, (before.code + 1).min(B::TOP)];
    let scales = codes.map(|code| B::scale(block.d(), code));
    let mut costs = [[0.0; 3]; 2];
    for i in b * B::SHARING..(b + 1) * B::SHARING {
        let (x, w) = group(i);
        let of_group = B::costs(simd, &x, w, &scales);
        for down in 0..2 {
            for k in 0..3 {
                costs[down][k] += of_group[down][k];
            }
        }
    }
    let (mut least, mut best) = (f32::INFINITY, before);
    for (down, costs) in [false, true].into_iter().zip(costs) {
        for (code, cost) in codes.into_iter().zip(costs) {
            if cost < least {
                (least, best) = (cost, Shared { code, down });
            }
        }
    }
    best
}
