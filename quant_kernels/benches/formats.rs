//! Encoding, decoding and feedback of every format on one thread: `cargo bench -p quant_kernels [-- IQ2_XXS]`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quant_kernels::{Feed, Format, dequantize, feed, feeds, prepare, quantize};

const COLUMNS: usize = 7168;
const ROWS: usize = 8;

/// Rows that are fed together.
const FED: usize = 128;

/// About normal numbers, the same in every run.
fn normal(count: usize, mut state: u64) -> Vec<f32> {
    let mut even = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| even()).sum::<f32>() - 6.0).collect()
}

fn formats(criterion: &mut Criterion) {
    let rows: Vec<f32> = normal(ROWS * COLUMNS, 1).iter().map(|x| 0.02 * x).collect();
    let importance: Vec<f32> = normal(COLUMNS, 2).iter().map(|x| x.exp()).collect();
    for format in Format::all() {
        let mut blocks = vec![0; ROWS * format.row_bytes(COLUMNS as u64) as usize];
        let mut decoded = vec![0.0; rows.len()];
        quantize(format, &rows, COLUMNS, Some(&importance), &mut blocks);
        dequantize(format, &blocks, &mut decoded);
        // Wrong answers are not worth timing.
        let (energy, error) = rows
            .iter()
            .zip(&decoded)
            .fold((0.0, 0.0), |(energy, error), (x, y)| (energy + x * x, error + (x - y) * (x - y)));
        assert!(error < 0.5 * energy, "{format} loses {error} of {energy}");

        let mut group = criterion.benchmark_group("formats");
        group.throughput(Throughput::Elements(rows.len() as u64));
        group.bench_function(BenchmarkId::new("encode", format), |bencher| {
            bencher.iter(|| quantize(format, &rows, COLUMNS, Some(&importance), &mut blocks));
        });
        group.bench_function(BenchmarkId::new("decode", format), |bencher| {
            bencher.iter(|| dequantize(format, &blocks, &mut decoded));
        });
        // Of many rows the same columns.
        let (n, bytes) = (format.block_len(), format.block_bytes());
        let part = &rows[..FED * n];
        let t: Vec<f32> = normal(n * n, 3).iter().map(|x| 0.05 * x).collect();
        let mut errors = vec![0.0; FED * n];
        group.throughput(Throughput::Elements((FED * n) as u64));
        if feeds(format) {
            group.bench_function(BenchmarkId::new("prepare", format), |bencher| {
                let blocks = &mut blocks[..FED * bytes];
                bencher.iter(|| prepare(format, part, n, Some(&importance[..n]), blocks));
            });
            group.bench_function(BenchmarkId::new("feed", format), |bencher| {
                bencher.iter(|| {
                    let weights = Feed {
                        moved: part,
                        t: &t,
                        importance: &importance[..n],
                        before: None,
                        errors: &mut errors,
                    };
                    feed(format, &mut blocks[..FED * bytes], weights);
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, formats);
criterion_main!(benches);
