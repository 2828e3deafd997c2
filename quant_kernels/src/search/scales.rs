//! Where to look for the scale of a block.

/// The importance-weighted root mean square.
#[inline(always)]
pub(crate) fn root_mean_square(x: &[f32], importance: &[f32]) -> f32 {
    let (mut xx, mut total) = (0.0, 0.0);
    for (&x, &w) in x.iter().zip(importance) {
        xx += w * x * x;
        total += w;
    }
    if total > 0.0 { (xx / total).sqrt() } else { 0.0 }
}

/// N rising scales, each `ratio` times the one before, `middle` in the middle.
#[inline(always)]
pub(crate) fn around<const N: usize>(middle: f32, ratio: f32) -> [f32; N] {
    let mut scales = [middle; N];
    for k in (0..N / 2).rev() {
        scales[k] = scales[k + 1] / ratio;
    }
    for k in N / 2 + 1..N {
        scales[k] = scales[k - 1] * ratio;
    }
    scales
}
