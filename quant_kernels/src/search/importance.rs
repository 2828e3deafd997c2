//! Importances of one super-block, made safe to multiply.

/// The importances divided by their largest, so that products with squares of weights stay finite; even ones when
/// all are zero.
#[inline(always)]
pub(crate) fn normalized<const N: usize>(importance: &[f32; N]) -> [f32; N] {
    let mut largest = 0.0_f32;
    for &w in importance {
        largest = largest.max(w);
    }
    let mut weights = [1.0; N];
    if largest > 0.0 {
        for (weight, &w) in weights.iter_mut().zip(importance) {
            *weight = w / largest;
        }
    }
    weights
}
