//! Groups of weights and SIMD levels for the searches' tests.

/// Thirty-two weights and importances, seeded; every fifth group is on a coarse grid, where ties are.
pub(crate) fn group(seed: u32) -> ([f32; 32], [f32; 32]) {
    let mut state = u64::from(seed);
    let mut even = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut x = [0.0; 32];
    let mut w = [1.0; 32];
    for i in 0..32 {
        x[i] = 0.1 * (even() + even() + even() - 1.5);
        w[i] = even() + 1e-3;
        if seed.is_multiple_of(5) {
            x[i] = (x[i] * 100.0).round() / 64.0;
        }
    }
    (x, w)
}

/// Runs the code with the token of each level that this CPU has.
macro_rules! at_every_level {
    ($simd:ident => $code:block) => {{
        use fearless_simd::{Level, dispatch};
        let best = Level::new();
        let levels = std::iter::once(best);
        #[cfg(target_arch = "x86_64")]
        let levels = levels
            .chain(best.as_sse2().map(Level::Sse2))
            .chain(best.as_sse4_2().map(Level::Sse4_2))
            .chain(best.as_avx2().map(Level::Avx2));
        for level in levels {
            dispatch!(level, $simd => $code);
        }
    }};
}
pub(crate) use at_every_level;
