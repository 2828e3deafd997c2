//! Importances of one super-block, made safe to multiply.

use fearless_simd::{Simd, SimdBase, f32x16};

/// The importances divided by their largest, so that products with squares of weights stay finite; even ones when
/// all are zero.
#[inline(always)]
pub(crate) fn normalized<S: Simd>(simd: S, importance: &[f32; 256]) -> [f32; 256] {
    let (chunks, _) = importance.as_chunks::<16>();
    let mut largest = f32x16::splat(simd, 0.0);
    for w in chunks {
        largest = largest.max(f32x16::load_array_ref(simd, w));
    }
    let largest = largest.reduce_max();
    let mut weights = [1.0; 256];
    if largest > 0.0 {
        let (out, _) = weights.as_chunks_mut::<16>();
        for (out, w) in out.iter_mut().zip(chunks) {
            (f32x16::load_array_ref(simd, w) / largest).store_array(out);
        }
    }
    weights
}
