//! Repeatable rows that look like a layer's weights, for measuring where no data is given.

/// Gaussian weights (a sum of twelve even numbers) of standard deviation 0.02, and lognormal importances.
pub fn noise(rows: usize, columns: usize) -> (Vec<f32>, Vec<f32>) {
    let mut state = 1u64;
    let mut even = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut normal = || (0..12).map(|_| even()).sum::<f32>() - 6.0;
    let importance = (0..columns).map(|_| normal().exp()).collect();
    ((0..rows * columns).map(|_| normal() * 0.02).collect(), importance)
}
