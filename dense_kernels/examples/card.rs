//! A CUDA card against the processor: the same bits, and how fast. Needs a card.
//!
//! ```sh
//! cargo run --release -p dense_kernels --example card -- 1e9
//! ```
//!
//! The number is how many elements of each operation are compared; 0 measures speeds alone. The tables are Markdown.

use std::hint::black_box;
use std::time::Instant;

use dense_kernels::card::{Card, OnCard};
use dense_kernels::{Accum, Dense, View, gram, one_thread, product, upper_factor, upper_inverse};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

/// Numbers that no program guesses, of many magnitudes, with zeros of both signs.
fn numbers(rows: usize, columns: usize, seed: u64) -> Dense {
    let mut matrix = Dense::zeros(rows, columns);
    matrix.values_mut().par_chunks_mut(1 << 16).enumerate().for_each(|(chunk, values)| {
        let mut state = (seed << 32 | chunk as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for value in values {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let x = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            *value = match state >> 33 & 255 {
                0 => 0.0 * x,
                1 => x * 1e-22,
                2 => x * 1e-40,
                3 => x * 100.0,
                _ => x,
            };
        }
    });
    matrix
}

fn same(found: &[f32], expected: &[f32], what: &str) {
    let differ = |(x, y): (&f32, &f32)| x.to_bits() != y.to_bits() && !(x.is_nan() && y.is_nan());
    let chunks = found.par_chunks(1 << 16).zip(expected.par_chunks(1 << 16));
    let wrong: usize = chunks.map(|(x, y)| x.iter().zip(y).filter(|&pair| differ(pair)).count()).sum();
    assert_eq!(wrong, 0, "{what}: {wrong} of {} elements differ", found.len());
}

/// Both triangles of a positive definite matrix, whose rows and columns have scales of their own.
fn positive(base: &Dense, seed: usize) -> Dense {
    let n = base.rows();
    let scale = |i: usize| 0.5 + ((i * 7919 + seed * 104_729) % 1013) as f32 / 1013.0;
    let mut h = Dense::zeros(n, n);
    h.values_mut().par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        for (j, x) in row.iter_mut().enumerate() {
            *x = base.row(i.min(j))[i.max(j)] * scale(i) * scale(j);
        }
    });
    h
}

fn base(n: usize) -> Dense {
    let mut h = Dense::zeros(n, n);
    gram(h.view_mut(), Accum::Add, numbers(n / 2 + 9, n, 5).view());
    let mean = (0..n).map(|i| h.row(i)[i]).sum::<f32>() / n as f32;
    (0..n).for_each(|i| h.row_mut(i)[i] += 0.01 * mean);
    h
}

/// The sizes of a problem, none of them round.
fn ragged(around: usize, case: usize) -> usize {
    around - case * 37 % (around / 3)
}

fn bits(card: &Card, wanted: usize) {
    let threads = rayon::current_num_threads();
    println!("| operation | elements | problems | seconds |\n|---|---|---|---|");
    let row = |what: &str, elements: usize, problems: usize, start: Instant| {
        let seconds = start.elapsed().as_secs_f64();
        println!("| {what} | {elements} | {problems} | {seconds:.1} |");
    };
    let around = if wanted > 100_000_000 { 8190 } else { 2000 };
    for (form, (a_turned, b_turned)) in
        [(false, true), (false, false), (true, false), (true, true)].into_iter().enumerate()
    {
        let start = Instant::now();
        let (mut elements, mut case) = (0, 0);
        while elements < wanted {
            let (m, k, n) = (ragged(around, case + form), 1 + case * 61 % 257, ragged(around, case * 3));
            let stored = |rows, columns, turned, seed| {
                if turned { numbers(columns, rows, seed) } else { numbers(rows, columns, seed) }
            };
            let (a, b) = (stored(m, k, a_turned, case as u64), stored(k, n, b_turned, 1000 + case as u64));
            let seen = |matrix, turned| -> View<'_> {
                let view = Dense::view(matrix);
                if turned { view.transposed() } else { view }
            };
            let (a, b) = (seen(&a, a_turned), seen(&b, b_turned));
            let accum = if case % 2 == 0 { Accum::Replace } else { Accum::Add };
            let mut expected = if accum == Accum::Add { numbers(m, n, 7) } else { Dense::zeros(m, n) };
            let mut found = expected.clone();
            product(expected.view_mut(), accum, a, b);
            card.product(&mut found.view_mut(), accum, a, b, threads).expect("the card multiplies");
            same(found.values(), expected.values(), &format!("{m} x {k} x {n}"));
            (elements, case) = (elements + m * n, case + 1);
        }
        let name = ["a b^T", "a b", "a^T b", "a^T b^T"][form];
        row(name, elements, case, start);
    }

    let start = Instant::now();
    let (mut elements, mut case) = (0, 0);
    while elements < wanted {
        let (rows, n) = (ragged(if wanted > 100_000_000 { 600 } else { 200 }, case), ragged(around, case));
        let x = numbers(rows, n, 3 + case as u64);
        let (mut expected, mut found) = (numbers(n, n, 9), numbers(n, n, 9));
        gram(expected.view_mut(), Accum::Add, x.view());
        card.gram(&mut found.view_mut(), Accum::Add, x.view()).expect("the card multiplies");
        for i in 0..n {
            expected.row_mut(i)[..i].fill(0.0);
            found.row_mut(i)[..i].fill(0.0);
        }
        same(found.values(), expected.values(), &format!("gram of {rows} x {n}"));
        (elements, case) = (elements + n * (n + 1) / 2, case + 1);
    }
    row("gram", elements, case, start);

    let start = Instant::now();
    let bases: Vec<Dense> = [around - 1021, around / 2 + 3, 700].into_iter().map(base).collect();
    let (mut elements, mut case) = (0, 0);
    while elements < wanted {
        let base = &bases[if case % 8 < 6 { 0 } else { case % 8 - 5 }];
        let mut expected = positive(base, case);
        let mut found = expected.clone();
        upper_factor(&mut expected).expect("positive");
        card.upper_factor(&mut found).expect("the card factors").expect("positive");
        same(found.values(), expected.values(), &format!("factor of {}", base.rows()));
        (elements, case) = (elements + base.rows() * (base.rows() + 1) / 2, case + 1);
    }
    row("factor", elements, case, start);

    let start = Instant::now();
    let mut factor = bases[2].clone();
    upper_factor(&mut factor).expect("positive");
    let (mut elements, mut case) = (0, 0);
    while elements < wanted {
        let of_round: usize = (case..case + 1024)
            .into_par_iter()
            .map(|case| {
                let (n, first) = (256 - case % 150, case % 400);
                let mut matrix = Dense::zeros(n, n);
                for i in 0..n {
                    let own = 1.0 + (case * 7919 % 1009) as f32 / 1009.0;
                    let row = &factor.row(first + i)[first..first + n];
                    matrix.row_mut(i).iter_mut().zip(row).for_each(|(x, r)| *x = r * own);
                }
                let expected = upper_inverse(matrix.view());
                let found = card.upper_inverse(matrix.view()).expect("the card inverts");
                let wrong = found.values().iter().zip(expected.values());
                assert!(wrong.into_iter().all(|(x, y)| x.to_bits() == y.to_bits()), "inverse of {n}");
                n * (n + 1) / 2
            })
            .sum();
        (elements, case) = (elements + of_round, case + 1024);
    }
    row("inverse", elements, case, start);
}

/// Numbers whose products are no subnormal ones, which take some processors a hundred times as long.
fn ordinary(rows: usize, columns: usize, seed: usize) -> Dense {
    let number = |i: usize| (i.wrapping_mul(7919) + seed * 131) % 1009;
    Dense::new(columns, (0..rows * columns).map(|i| number(i) as f32 / 1009.0 - 0.4997).collect())
}

/// Seconds of the middle one of three runs, after one that is not counted.
fn seconds(mut work: impl FnMut()) -> f64 {
    work();
    let mut times: Vec<f64> = (0..3)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[1]
}

/// A covariance of ordinary numbers, damped.
fn covariance(n: usize) -> Dense {
    let mut h = Dense::zeros(n, n);
    gram(h.view_mut(), Accum::Add, ordinary(n / 2 + 9, n, 5).view());
    let mean = (0..n).map(|i| h.row(i)[i]).sum::<f32>() / n as f32;
    (0..n).for_each(|i| h.row_mut(i)[i] += 0.01 * mean);
    h
}

fn speed(card: &Card) {
    let threads = rayon::current_num_threads();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    println!(
        "\n| operation | one thread | {threads} threads | card, with copies | card alone | to one thread | to {threads} |"
    );
    println!("|---|---|---|---|---|---|---|");
    let row = |what: &str, operations: f64, [single, all, copies, alone]: [f64; 4]| {
        let tera = |seconds: f64| operations / seconds / 1e12;
        println!(
            "| {what} | {:.3} TFLOP/s | {:.2} | {:.2} | {:.1} | {:.0} | {:.0} |",
            tera(single),
            tera(all),
            tera(copies),
            tera(alone),
            single / alone,
            all / alone
        );
    };
    for (m, k, n) in [(2048, 7168, 2048), (4096, 7168, 7168), (256, 3584, 256)] {
        let (a, b) = (ordinary(m, k, 1), ordinary(n, k, 2));
        let (a, b) = (a.view(), b.view().transposed());
        let mut out = Dense::zeros(m, n);
        let operations = 2.0 * (m * k * n) as f64;
        // A part of it is enough for one thread.
        let part = m.min(256);
        let single = m as f64 / part as f64
            * seconds(|| one_thread(out.part_mut(0..part, 0..n), Accum::Replace, a.some_rows(0..part), b));
        let all = seconds(|| product(out.view_mut(), Accum::Replace, a, b));
        let copies = seconds(|| {
            card.product(&mut out.view_mut(), Accum::Replace, a, b, threads).expect("the card multiplies");
        });
        let (a, b) = (OnCard::of(card, a).expect("room"), OnCard::of(card, b).expect("room"));
        let out = a.times(&b).expect("room");
        let rounds = 20;
        let alone = seconds(|| {
            (0..rounds).for_each(|_| a.times_into(&b, &out).expect("the card multiplies"));
            out.wait().expect("the card multiplies");
        });
        row(&format!("{m} x {k} x {n}"), operations, [single, all, copies, alone / f64::from(rounds)]);
    }
    for (rows, n) in [(3125, 7168), (3125, 2048)] {
        let x = ordinary(rows, n, 3);
        let mut h = Dense::zeros(n, n);
        let operations = rows as f64 * (n * (n + 1)) as f64;
        let part = View::new(n, &x.values()[..128 * n]);
        let single = rows as f64 / 128.0 * one.install(|| seconds(|| gram(h.view_mut(), Accum::Add, part)));
        let all = seconds(|| gram(h.view_mut(), Accum::Add, x.view()));
        let copies =
            seconds(|| card.gram(&mut h.view_mut(), Accum::Add, x.view()).expect("the card multiplies"));
        let x = OnCard::of(card, x.view()).expect("room");
        let sums = OnCard::of(card, h.view()).expect("room");
        let alone = seconds(|| {
            x.gram_into(&sums).expect("the card multiplies");
            sums.wait().expect("the card multiplies");
        });
        row(&format!("gram {rows} x {n}"), operations, [single, all, copies, alone]);
    }
    for n in [2048, 7168] {
        let h = covariance(n);
        let operations = (n as f64).powi(3) / 3.0;
        let mut work = h.clone();
        let mut timed = |factor: &mut dyn FnMut(&mut Dense)| {
            let mut times: Vec<f64> = (0..3)
                .map(|_| {
                    work.view_mut().copy_from(h.view());
                    let start = Instant::now();
                    factor(&mut work);
                    start.elapsed().as_secs_f64()
                })
                .collect();
            times.sort_by(f64::total_cmp);
            times[1]
        };
        // 1.2e11 operations are too many for three runs of one thread.
        let single = if n > 4000 {
            f64::NAN
        } else {
            one.install(|| timed(&mut |h| upper_factor(h).expect("positive")))
        };
        let all = timed(&mut |h| upper_factor(h).expect("positive"));
        let copies = timed(&mut |h| card.upper_factor(h).expect("the card factors").expect("positive"));
        let mut times = Vec::new();
        for _ in 0..3 {
            let mut factor = OnCard::of(card, h.view()).expect("room");
            let start = Instant::now();
            factor.factor().expect("room").finish().expect("the card factors").expect("positive");
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        row(&format!("factor {n}"), operations, [single, all, copies, times[1]]);
    }
    let matrix = ordinary(8192, 8192, 1);
    let up = seconds(|| drop(black_box(OnCard::of(card, matrix.view()).expect("room"))));
    let on_card = OnCard::of(card, matrix.view()).expect("room");
    let down = seconds(|| drop(black_box(on_card.values().expect("copied"))));
    let gb = 8192.0 * 8192.0 * 4.0 / 1e9;
    println!("\ncopies of 268 MB by one thread: up {:.1} GB/s, down {:.1}", gb / up, gb / down);
    let up = seconds(|| {
        (0..threads).into_par_iter().for_each(|i| {
            let rows = i * 8192 / threads..(i + 1) * 8192 / threads;
            drop(black_box(OnCard::of(card, matrix.view().some_rows(rows)).expect("room")));
        });
    });
    println!("by all: up {:.1} GB/s", gb / up);
}

fn main() {
    let wanted = std::env::args().nth(1).map_or(1e7, |n| n.parse().expect("a number of elements"));
    let start = Instant::now();
    let card = match Card::open(0, None, |fault| eprintln!("{fault}")) {
        Ok(card) => card,
        Err(fault) => return eprintln!("{fault}"),
    };
    println!(
        "{}, {} threads; opened in {:.1} s",
        card.name(),
        rayon::current_num_threads(),
        start.elapsed().as_secs_f64()
    );
    if wanted > 0.0 {
        bits(&card, wanted as usize);
    }
    speed(&card);
}
