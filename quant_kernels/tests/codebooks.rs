//! The codebook formats from outside: signs, gain, every SIMD level, and blocks that nobody trained.

use fearless_simd::Simd;
use quant_kernels::{Format, LARGEST, Level, dequantize, quantize, quantize_at};

const FORMATS: [Format; 7] = [
    Format::IQ1_S,
    Format::IQ1_M,
    Format::IQ2_XXS,
    Format::IQ2_XS,
    Format::IQ2_S,
    Format::IQ3_XXS,
    Format::IQ3_S,
];

/// Repeatable numbers, about normal.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

fn encode(format: Format, x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut blocks = vec![0; x.len() / format.block_len() * format.block_bytes()];
    quantize(format, x, 256, importance, &mut blocks);
    blocks
}

fn decode(format: Format, blocks: &[u8]) -> Vec<f32> {
    let mut y = vec![0.0; blocks.len() / format.block_bytes() * format.block_len()];
    dequantize(format, blocks, &mut y);
    y
}

/// Blocks with everything that could go wrong, and importances to match the last.
fn hostile() -> Vec<Vec<f32>> {
    let normal = normal(256, 5);
    let with = |f: fn(usize, f32) -> f32| (0..256).map(|i| f(i, normal[i])).collect();
    vec![
        vec![0.0; 256],
        vec![-0.0; 256],
        vec![1.0; 256],
        vec![-LARGEST; 256],
        vec![1e-45; 256],
        vec![3e-8; 256],
        with(|i, _| if i == 77 { LARGEST } else { 0.0 }),
        with(|i, _| if i == 255 { -1e-40 } else { 0.0 }),
        with(|i, x| if i == 3 { LARGEST } else { x * 1e-3 }),
        with(|i, _| if i % 2 == 0 { 0.5 } else { -0.5 }),
        with(|_, x| x.round()),
        with(|_, x| x * 1e-7),
        with(|_, x| x * 1e-42),
        with(|i, x| x * 0.02 * 10_f32.powi((i / 32) as i32 - 4)),
        with(|i, x| if i < 128 { 0.0 } else { x }),
        with(|_, x| (x * 1e4).clamp(-LARGEST, LARGEST)),
    ]
}

fn importances() -> Vec<Option<Vec<f32>>> {
    let normal = normal(256, 9);
    vec![
        None,
        Some(vec![0.0; 256]),
        Some(vec![f32::MAX; 256]),
        Some(vec![1e-45; 256]),
        Some(normal.iter().map(|x| x.exp()).collect()),
        Some(normal.iter().map(|x| x.max(0.0)).collect()),
        Some((0..256).map(|i| if i == 8 { 1e30 } else { 1e-30 }).collect()),
        Some((0..256).map(|i| if i == 3 { 0.0 } else { 1.0 }).collect()),
    ]
}

#[test]
fn hostile_blocks_decode_to_finite_weights() {
    for format in FORMATS {
        for importance in importances() {
            for x in hostile() {
                let y = decode(format, &encode(format, &x, importance.as_deref()));
                let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                for y in y {
                    assert!(y.is_finite() && y.abs() <= 8.0 * largest, "{format} {y} for at most {largest}");
                }
            }
        }
    }
}

#[test]
fn every_level_gives_the_same_bytes() {
    let level = Level::new();
    let mut levels = vec![level];
    levels.extend(level.as_sse2().map(|simd| simd.level()));
    levels.extend(level.as_sse4_2().map(|simd| simd.level()));
    levels.extend(level.as_avx2().map(|simd| simd.level()));
    let mut rows = normal(16 * 256, 1);
    rows.extend(hostile().into_iter().flatten());
    for format in FORMATS {
        for importance in importances() {
            let expected = encode(format, &rows, importance.as_deref());
            for &level in &levels {
                let mut blocks = vec![0; expected.len()];
                quantize_at(level, format, &rows, 256, importance.as_deref(), &mut blocks);
                assert!(blocks == expected, "{format} at {level:?}");
            }
        }
    }
}

#[test]
fn rows_keep_their_gain() {
    let x = normal(4096, 2);
    let w: Vec<f32> = normal(4096, 3).iter().map(|x| x.exp()).collect();
    for format in FORMATS {
        let mut blocks = vec![0; 16 * format.block_bytes()];
        quantize(format, &x, 4096, Some(&w), &mut blocks);
        let y = decode(format, &blocks);
        let sum = |y: &[f32]| -> f32 { (0..4096).map(|i| w[i] * x[i] * y[i]).sum() };
        let gain = sum(&y) / sum(&x);
        assert!((0.998..1.002).contains(&gain), "{format} {gain}");
    }
}

#[test]
fn errors_do_not_grow() {
    // Error at unit gain for normal weights with importances; a change may lower these.
    let bounds = [0.1900, 0.1452, 0.0800, 0.0596, 0.0458, 0.0211, 0.0119];
    let x = normal(16 * 4096, 2);
    let w: Vec<f32> = normal(4096, 3).iter().map(|x| x.exp()).collect();
    for (format, bound) in FORMATS.into_iter().zip(bounds) {
        let mut blocks = vec![0; 256 * format.block_bytes()];
        quantize(format, &x, 4096, Some(&w), &mut blocks);
        let y = decode(format, &blocks);
        let sum = |a: &[f32], b: &[f32]| -> f64 {
            (0..x.len()).map(|i| f64::from(w[i % 4096]) * f64::from(a[i]) * f64::from(b[i])).sum()
        };
        let error = sum(&x, &x) * sum(&y, &y) / sum(&x, &y).powi(2) - 1.0;
        assert!(error < bound, "{format} {error}");
    }
}
