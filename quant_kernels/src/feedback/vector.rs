//! Feedback in formats whose weights share entries of a codebook: IQ1_*, IQ2_* and IQ3_*.
//!
//! Before the first of the groups that share a scale, the codes near the block's are tried on the weights as the
//! feedback left them, and the best is kept.

use fearless_simd::Simd;

use super::Feed;
use crate::codes::{Shared, VectorBlock};

#[inline(always)]
pub(crate) fn feed<B: VectorBlock, S: Simd>(simd: S, block: &mut B, weights: &mut Feed<'_>) {
    let d = block.d();
    if d == 0.0 {
        return weights.settle(simd, 0, &[0.0; 256]);
    }
    let (ws, _) = weights.importance.as_chunks::<8>();
    for b in 0..32 / B::SHARING {
        let groups = b * B::SHARING..(b + 1) * B::SHARING;
        let before = block.shared(b);
        let (mut least, mut best) = (f32::INFINITY, before);
        for turn in 0..if B::SHARED_SHIFT { 2 } else { 1 } {
            for code in before.code.saturating_sub(1)..=(before.code + 1).min(B::TOP) {
                let shared = Shared { code, down: before.down != (turn == 1) };
                let scale = B::scale(d, code);
                let (xs, _) = weights.moved.as_chunks::<8>();
                let mut cost = 0.0;
                for i in groups.clone() {
                    cost += B::choose(simd, &xs[i], &ws[i], scale, shared.down).cost;
                }
                if cost < least {
                    (least, best) = (cost, shared);
                }
            }
        }
        block.set_shared(b, best);
        let scale = B::scale(d, best.code);
        for i in groups {
            let (xs, _) = weights.moved.as_chunks::<8>();
            let group = B::choose(simd, &xs[i], &ws[i], scale, best.down).group;
            weights.settle(simd, 8 * i, &B::values(group, scale));
            block.set_group(i, group);
        }
    }
}
