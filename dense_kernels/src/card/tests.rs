//! The kernels of the card, compiled for this processor, against those of the processor: the same bits.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::driver::{Argument, Driver, Fault, Shape};
use super::{Card, Declined, OnCard, Share, in_use, use_card};
use crate::product::one_thread;
use crate::{Accum, Dense, Panels, View, gram, product, upper_factor, upper_inverse, with_panels};

/// A card's shared memory, more or less.
const SHARED: usize = 200 << 10;

/// A program that is a card.
#[derive(Debug)]
struct Host {
    child: Mutex<Child>,
    /// Bytes of shared memory.
    shared: usize,
    /// How many it still starts.
    kernels: AtomicUsize,
}

/// The C++ compiler.
fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

/// Whether there is a C++ compiler; if not, that the test is skipped is said where the tests' output is not caught.
fn has_compiler() -> bool {
    let found =
        Command::new(compiler()).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        let line = format!("SKIPPED a test of the card's kernels: there is no {}\n", compiler());
        std::io::stderr().write_all(line.as_bytes()).expect("written");
    }
    found.is_ok()
}

/// The kernels as a program, beside that of the tests; made once a process.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host.cpp");
        let tests = std::env::current_exe().expect("this program");
        let program = tests.with_file_name("dense_kernels_host");
        let new = tests.with_file_name(format!("dense_kernels_host-{}", std::process::id()));
        let compiler = compiler();
        // The exceptions to the standard are CUDA's: a float4 lies over four floats.
        let made = Command::new(&compiler)
            .args(["-O2", "-std=c++17", "-Wall", "-Werror", "-Wno-unknown-pragmas"])
            .args(["-ffp-contract=off", "-fno-strict-aliasing", "-o"])
            .args([&new, &source])
            .status();
        let made = made.expect("the compiler starts");
        assert!(made.success(), "{compiler} compiles the kernels");
        // Whoever else makes it makes the same.
        std::fs::rename(new, &program).expect("renamed");
        program
    })
}

impl Host {
    fn start(shared: usize) -> Self {
        Self::failing(shared, usize::MAX)
    }

    /// One that starts so many kernels and no more.
    fn failing(shared: usize, kernels: usize) -> Self {
        let child = Command::new(program()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let child = Mutex::new(child.expect("the program starts"));
        Self { child, shared, kernels: AtomicUsize::new(kernels) }
    }

    fn say(child: &mut Child, command: char, of: [u64; 3], more: &[u8]) {
        let mut bytes: Vec<u8> = (command as u64).to_le_bytes().to_vec();
        of.iter().for_each(|of| bytes.extend(of.to_le_bytes()));
        bytes.extend(more);
        child.stdin.as_mut().expect("piped").write_all(&bytes).expect("the program listens");
    }

    fn hear(child: &mut Child, bytes: usize) -> Vec<u8> {
        let mut heard = vec![0; bytes];
        child.stdout.as_mut().expect("piped").read_exact(&mut heard).expect("the program answers");
        heard
    }
}

impl Driver for Host {
    fn allocate(&self, bytes: usize) -> Result<u64, Fault> {
        let mut child = self.child.lock().expect("not poisoned");
        Self::say(&mut child, 'a', [bytes as u64, 0, 0], &[]);
        Ok(u64::from_le_bytes(Self::hear(&mut child, 8).try_into().expect("eight")))
    }

    fn free(&self, place: u64) {
        Self::say(&mut self.child.lock().expect("not poisoned"), 'f', [place, 0, 0], &[]);
    }

    fn upload(&self, place: u64, apart: usize, values: &[f32], rows: Shape) -> Result<(), Fault> {
        let mut child = self.child.lock().expect("not poisoned");
        for row in 0..rows.rows {
            let values = &values[row * rows.apart..][..rows.columns];
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            Self::say(&mut child, 'u', [place + 4 * (row * apart) as u64, bytes.len() as u64, 0], &bytes);
        }
        Ok(())
    }

    fn download(&self, place: u64, apart: usize, values: &mut [f32], rows: Shape) -> Result<(), Fault> {
        let mut child = self.child.lock().expect("not poisoned");
        for row in 0..rows.rows {
            let from = place + 4 * (row * apart) as u64;
            Self::say(&mut child, 'd', [from, 4 * rows.columns as u64, 0], &[]);
            let bytes = Self::hear(&mut child, 4 * rows.columns);
            let values = &mut values[row * rows.apart..][..rows.columns];
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes(bytes.try_into().expect("four"));
            }
        }
        Ok(())
    }

    fn shared(&self) -> usize {
        self.shared
    }

    fn launch(
        &self,
        kernel: &str,
        [across, down]: [usize; 2],
        threads: usize,
        _shared: usize,
        arguments: &[Argument],
    ) -> Result<(), Fault> {
        if self.kernels.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.kernels.store(0, Ordering::Relaxed);
            return Err(Fault("it has fallen off the bus".to_owned()));
        }
        let mut more = kernel.as_bytes().to_vec();
        more.resize(32, 0);
        more.extend((arguments.len() as u64).to_le_bytes());
        for argument in arguments {
            let number = match argument {
                Argument::Place(place) => *place,
                Argument::Number(number) => *number as u64,
            };
            more.extend(number.to_le_bytes());
        }
        let of = [across, down, threads].map(|n| n as u64);
        Self::say(&mut self.child.lock().expect("not poisoned"), 'l', of, &more);
        Ok(())
    }
}

/// One card for all tests.
fn card() -> Card {
    static CARD: OnceLock<Card> = OnceLock::new();
    let new = || Card::of_driver("this processor".to_owned(), Box::new(Host::start(SHARED)), 1 << 30, |_| ());
    CARD.get_or_init(new).clone()
}

/// Numbers of many magnitudes, with zeros of both signs among them, and some whose products are subnormal.
fn numbers(rows: usize, columns: usize, seed: u64) -> Dense {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        match state >> 33 & 63 {
            0 => 0.0 * x,
            1 => x * 1e-22,
            2 => x * 1e-40,
            3 => x * 3e4,
            _ => x,
        }
    };
    Dense::new(columns, (0..rows * columns).map(|_| number()).collect())
}

/// The same bits, or no numbers both.
fn same(found: &Dense, expected: &Dense, what: &str) {
    assert_eq!((found.rows(), found.columns()), (expected.rows(), expected.columns()), "{what}");
    for row in 0..found.rows() {
        for (column, (x, y)) in found.row(row).iter().zip(expected.row(row)).enumerate() {
            let same = x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
            assert!(same, "{what}: {x:e} and not {y:e} at {row}, {column}");
        }
    }
}

/// A matrix, or one that has it as its transposed, which is kept here.
fn stored(matrix: &Dense, turned: bool) -> Dense {
    if !turned {
        return matrix.clone();
    }
    let (rows, columns) = (matrix.rows(), matrix.columns());
    Dense::new(rows, (0..rows * columns).map(|i| matrix.row(i % rows)[i / rows]).collect())
}

fn seen(stored: &Dense, turned: bool) -> View<'_> {
    if turned { stored.view().transposed() } else { stored.view() }
}

#[test]
fn products_have_the_bits_of_the_processor() {
    if !has_compiler() {
        return;
    }
    let sizes = [
        (1, 1, 1),
        (5, 7, 3),
        (64, 16, 64),
        (65, 33, 130),
        (200, 100, 67),
        (3, 257, 129),
        (129, 48, 1),
        (40, 1, 30),
    ];
    for (case, (m, k, n)) in sizes.into_iter().enumerate() {
        let (mut a, mut b) = (numbers(m, k, case as u64), numbers(k, n, 100 + case as u64));
        if case == 3 {
            (a.row_mut(1)[2], b.row_mut(4)[5]) = (f32::INFINITY, f32::NEG_INFINITY);
        }
        for (a_turned, b_turned) in [(false, false), (false, true), (true, false), (true, true)] {
            let (a, b) = (stored(&a, a_turned), stored(&b, b_turned));
            let (a, b) = (seen(&a, a_turned), seen(&b, b_turned));
            for accum in [Accum::Replace, Accum::Add] {
                let mut expected = numbers(m, n, 200);
                let mut found = expected.clone();
                one_thread(expected.view_mut(), accum, a, b);
                card().product(&mut found.view_mut(), accum, a, b, 1 + case % 3).expect("room");
                same(&found, &expected, &format!("{m} x {k} x {n}, {a_turned}, {b_turned}, {accum:?}"));
            }
        }
    }
}

#[test]
fn large_tiles_and_parts_have_them_too() {
    if !has_compiler() {
        return;
    }
    // So many tiles that the card would take large ones, of parts whose rows lie further apart than they are long.
    let (a, b) = (numbers(1290, 44, 1), numbers(40, 1300, 2));
    let (a, b) = (a.view().part(3..1289, 2..39), b.view().part(1..38, 8..1295));
    for (a_turned, b_turned) in [(false, false), (true, true)] {
        let copy = |view: View<'_>, turned| {
            let mut copy = Dense::zeros(view.rows(), view.columns());
            copy.view_mut().copy_from(view);
            stored(&copy, turned)
        };
        let (left, right) = (copy(a, a_turned), copy(b, b_turned));
        let left = if a_turned { seen(&left, true) } else { a };
        let right = if b_turned { seen(&right, true) } else { b };
        let mut expected = Dense::zeros(a.rows(), b.columns());
        product(expected.view_mut(), Accum::Replace, left, right);
        let mut found = Dense::zeros(a.rows(), b.columns());
        card().product(&mut found.view_mut(), Accum::Replace, left, right, 1).expect("room");
        same(&found, &expected, "large tiles");
    }
}

#[test]
fn gram_matrices_have_them_on_and_right_of_the_diagonal() {
    if !has_compiler() {
        return;
    }
    for (rows, n) in [(9, 5), (130, 131), (40, 300)] {
        let x = numbers(rows, n, 7);
        let (mut expected, mut found) = (numbers(n, n, 8), numbers(n, n, 8));
        gram(expected.view_mut(), Accum::Add, x.view());
        card().gram(&mut found.view_mut(), Accum::Add, x.view()).expect("room");
        for i in 0..n {
            expected.row_mut(i)[..i].fill(0.0);
            found.row_mut(i)[..i].fill(0.0);
        }
        same(&found, &expected, &format!("{rows} x {n}"));
    }
}

#[test]
fn signs_of_zeros_are_the_processors() {
    if !has_compiler() {
        return;
    }
    // Of nothing the sum is -0.0, and so is that of negative zeros.
    let zero = |i: usize| if i.is_multiple_of(3) { -0.0 } else { 0.0 };
    let mut expected = Dense::new(130, (0..130 * 130).map(zero).collect());
    (0..130).for_each(|i| expected.row_mut(i)[i] = 2.0);
    let mut found = expected.clone();
    same(&card().upper_inverse(found.view()).expect("room"), &upper_inverse(expected.view()), "inverse");
    upper_factor(&mut expected).expect("positive");
    card().upper_factor(&mut found).expect("room").expect("positive");
    same(&found, &expected, "factor");
}

/// A positive definite matrix.
fn positive(n: usize) -> Dense {
    let x = numbers(n + n / 2, n, n as u64);
    let mut h = Dense::zeros(n, n);
    gram(h.view_mut(), Accum::Add, x.view());
    let mean = (0..n).map(|i| h.row(i)[i]).sum::<f32>() / n as f32;
    (0..n).for_each(|i| h.row_mut(i)[i] += 0.01 * mean);
    h
}

#[test]
fn factors_and_inverses_have_them() {
    if !has_compiler() {
        return;
    }
    let less = Card::of_driver("less".to_owned(), Box::new(Host::start(48 << 10)), 1 << 30, |_| ());
    for n in [1, 3, 127, 128, 129, 300, 650] {
        let mut expected = positive(n);
        for i in 0..n {
            (0..i).for_each(|j| expected.row_mut(i)[j] = (i * n + j) as f32);
        }
        let mut found = expected.clone();
        upper_factor(&mut expected).expect("positive");
        let mut with_less = found.clone();
        card().upper_factor(&mut found).expect("room").expect("positive");
        same(&found, &expected, &format!("factor of {n}"));
        less.upper_factor(&mut with_less).expect("room").expect("positive");
        same(&with_less, &expected, &format!("factor of {n} with little shared memory"));
        let inverse = card().upper_inverse(found.view()).expect("room");
        same(&inverse, &upper_inverse(expected.view()), &format!("inverse of {n}"));
    }
}

#[test]
fn what_is_not_positive_has_its_column() {
    if !has_compiler() {
        return;
    }
    for (n, at) in [(300, 150), (300, 299), (128, 0), (140, 7)] {
        for pivot in [-1.0, 0.0, f32::NAN, f32::INFINITY] {
            let mut h = Dense::zeros(n, n);
            (0..n).for_each(|i| h.row_mut(i)[i] = 1.0);
            h.row_mut(at)[at] = pivot;
            let expected = upper_factor(&mut h.clone());
            assert_eq!(expected.map_err(|e| e.0), Err(at), "{pivot}");
            assert_eq!(card().upper_factor(&mut h).expect("room"), expected, "{pivot}");
        }
    }
}

#[test]
fn what_has_no_room_is_declined_and_memory_comes_back() {
    if !has_compiler() {
        return;
    }
    let card = Card::of_driver("small".to_owned(), Box::new(Host::start(SHARED)), 10_000, |_| ());
    let (a, mut out) = (numbers(30, 30, 1), Dense::zeros(30, 30));
    let before = out.values().to_vec();
    let declined = card.product(&mut out.view_mut(), Accum::Add, a.view(), a.view(), 1);
    assert!(matches!(declined, Err(Declined::NoRoom)), "{declined:?}");
    assert_eq!(out.values(), before);
    for _ in 0..4 {
        let small = a.view().part(0..20, 0..20);
        card.product(&mut out.part_mut(0..20, 0..20), Accum::Add, small, small, 1).expect("room");
    }
    // Half of it may be kept.
    let kept = card.kept(a.view()).expect("room");
    assert!(matches!(card.kept(a.view()), Err(Declined::NoRoom)));
    drop(kept);
    card.kept(a.view()).expect("room again");
    OnCard::of(&card, a.view()).expect("room again");
}

#[test]
fn a_card_that_fails_leaves_what_was_there_and_is_told_of_once() {
    if !has_compiler() {
        return;
    }
    static TOLD: AtomicU32 = AtomicU32::new(0);
    let told = |fault: &Fault| {
        assert!(fault.0.contains("bus"), "{fault}");
        TOLD.fetch_add(1, Ordering::Relaxed);
    };
    // A factor of 300 columns takes nine kernels.
    for kernels in [0, 1, 5, 7] {
        let host = Box::new(Host::failing(SHARED, kernels));
        let card = Card::of_driver("failing".to_owned(), host, 1 << 30, told);
        let before = positive(300);
        let mut h = before.clone();
        let found = card.upper_factor(&mut h);
        assert!(matches!(found, Err(Declined::Fault(_))), "{found:?}");
        same(&h, &before, "what was there");
        let mut out = before.clone();
        let found = card.product(&mut out.view_mut(), Accum::Add, h.view(), h.view(), 2);
        same(&out, &before, "what was there");
        assert!(card.done(found).is_none() && card.done(card.upper_inverse(h.view())).is_none());
    }
    assert_eq!(TOLD.load(Ordering::Relaxed), 4);
}

/// What the crate's functions make, by their names alone.
fn through_all() -> Vec<Dense> {
    let (a, b) = (numbers(70, 50, 1), numbers(50, 90, 2));
    let mut all = vec![numbers(70, 90, 3), numbers(70, 90, 4), numbers(50, 50, 5), positive(200)];
    product(all[0].view_mut(), Accum::Add, a.view(), b.view());
    with_panels(all[1].view_mut(), Accum::Add, a.view(), &Panels::new(b.view()));
    gram(all[2].view_mut(), Accum::Add, a.view());
    for square in &mut all[2..] {
        (0..square.rows()).for_each(|i| square.row_mut(i)[..i].fill(0.0));
    }
    upper_factor(&mut all[3]).expect("positive");
    all.push(upper_inverse(all[3].view()));
    all
}

/// The card is the process's, so this one is another process: the same test, told to use the card.
#[test]
fn the_functions_of_the_crate_use_the_card_and_nothing_is_to_be_seen_of_it() {
    if !has_compiler() {
        return;
    }
    const ON_CARD: &str = "DENSE_KERNELS_ON_CARD";
    let name = "card::tests::the_functions_of_the_crate_use_the_card_and_nothing_is_to_be_seen_of_it";
    let print = |all: &[Dense]| {
        let values = all.iter().flat_map(Dense::values);
        values.fold(0u64, |hash, x| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3))
    };
    if std::env::var_os(ON_CARD).is_some() {
        let host = Box::new(Host::failing(SHARED, 1000));
        use_card(Card::of_driver("this processor".to_owned(), host, 1 << 30, |_| ()), Share::All);
        println!("made {:x}", print(&through_all()));
        let (card, _) = in_use().expect("it has not failed");
        println!("by {card:?}");
        return;
    }
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).args(["--exact", name, "--nocapture"]).env(ON_CARD, "1").output();
    let output = output.expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&format!("made {:x}", print(&through_all()))), "{said}");
    // Two products, two gram matrices, six kernels of a factor, an inverse.
    assert!(said.contains("kernels: 989"), "{said}");
}
