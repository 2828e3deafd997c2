//! Products and factors on one thread: `cargo bench -p dense_kernels`. An element is a multiply-add: 100 G of them a
//! second are 200 GFLOPS.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dense_kernels::{Accum, Dense, Panels, gram, one_thread, upper_factor, with_panels};

fn numbers(rows: usize, columns: usize) -> Dense {
    let number = |i: usize| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5;
    Dense::new(columns, (0..rows * columns).map(number).collect())
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("products");
    group.sample_size(10);
    for (m, k, n) in [(256, 7168, 256), (256, 3584, 256), (2048, 2048, 2048), (8, 7168, 256)] {
        let (a, b) = (numbers(m, k), numbers(n, k));
        let mut out = Dense::zeros(m, n);
        group.throughput(Throughput::Elements((m * k * n) as u64));
        let shape = format!("{m} x {k} x {n}");
        group.bench_function(BenchmarkId::new("product", &shape), |bencher| {
            bencher.iter(|| one_thread(out.view_mut(), Accum::Replace, a.view(), b.view().transposed()));
        });
        let panels = Panels::new(b.view().transposed());
        group.bench_function(BenchmarkId::new("with panels", &shape), |bencher| {
            bencher.iter(|| with_panels(out.view_mut(), Accum::Replace, a.view(), &panels));
        });
    }
    let n = 2048;
    let rows = numbers(3 * n, n);
    let mut h = Dense::zeros(n, n);
    group.throughput(Throughput::Elements((3 * n * n * n / 2) as u64));
    group.bench_function("gram 6144 x 2048", |bencher| {
        bencher.iter(|| gram(h.view_mut(), Accum::Add, rows.view()))
    });
    (0..n).for_each(|i| h.row_mut(i)[i] *= 2.0);
    group.throughput(Throughput::Elements((n * n * n / 6) as u64));
    group.bench_function("factor 2048", |bencher| {
        bencher.iter_batched(|| h.clone(), |mut h| upper_factor(&mut h), criterion::BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
