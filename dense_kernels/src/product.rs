//! Products of matrices, in tiles that one thread works on each.

use std::cell::RefCell;
use std::ops::Range;

use fearless_simd::Level;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use work_trace::fork;

use super::card::{on_card, worth};
use super::kernel::{LANES, ROWS, Tile, multiply};
use super::matrix::{Rows, View};
use super::panels::{Panels, in_strips};
use super::strips::Strips;

/// Rows of a tile of the result.
const HEIGHT: usize = 10 * ROWS;

/// Columns of it.
const WIDTH: usize = 32 * LANES;

/// Steps of a sum that are taken together: strips and a panel of as many stay in the nearest caches.
pub(crate) const DEPTH: usize = 256;

/// Tiles a thread that a stripe has, if the result is large enough: all wait for its last one.
const TILES: usize = 4;

/// Values of the right side that are in panels at once, unless two tiles beside one another need more.
const PANELS: usize = 1 << 26;

/// Whether a product replaces the values of the result or is added to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accum {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

/// `out` = a b, or with [`Accum::Add`] + a b, on all threads of the pool or on the card that is used.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(mut out: Rows<'_>, accum: Accum, a: View<'_>, b: View<'_>) {
    let (m, k, n, threads) = (a.rows(), a.columns(), b.columns(), rayon::current_num_threads());
    let faster = || worth(operations(m, k, n), m * k + k * n + m * n, threads);
    if on_card(faster, |card| card.product(&mut out, accum, a, b, threads)) {
        return;
    }
    let all = |_: &Range<usize>, _: &Range<usize>| true;
    in_tiles(out, accum, a, b, all);
}

/// The tiles of `out` = x^T x, or with [`Accum::Add`] + x^T x, that reach its diagonal or what is right of it, on all threads
/// of the pool or on the card that is used. Values left of it are of no meaning.
///
/// # Panics
/// If the shapes do not fit.
pub fn gram(mut out: Rows<'_>, accum: Accum, x: View<'_>) {
    let (rows, n) = (x.rows(), x.columns());
    let faster = || worth(operations(n, rows, n) / 2.0, rows * n + n * n / 2, rayon::current_num_threads());
    if on_card(faster, |card| card.gram(&mut out, accum, x)) {
        return;
    }
    let upper = |rows: &Range<usize>, columns: &Range<usize>| rows.start < columns.end;
    in_tiles(out, accum, x.transposed(), x, upper);
}

/// Of a product: a multiply-add is two.
fn operations(rows: usize, steps: usize, columns: usize) -> f64 {
    2.0 * rows as f64 * steps as f64 * columns as f64
}

/// [`product`] on the calling thread.
///
/// # Panics
/// If the shapes do not fit.
pub fn one_thread(out: Rows<'_>, accum: Accum, a: View<'_>, b: View<'_>) {
    with_panels(out, accum, a, &Panels::packed(b));
}

/// [`one_thread`] with a right side that is in panels already, or on the card that is used.
///
/// # Panics
/// If the shapes do not fit.
pub fn with_panels(mut out: Rows<'_>, accum: Accum, a: View<'_>, b: &Panels) {
    if let Some(kept) = b.kept() {
        let (m, k, n) = (a.rows(), a.columns(), b.columns());
        let faster = || worth(operations(m, k, n), m * k + m * n, 1);
        if m > 0 && kept.product(faster, &mut out, accum, a) {
            return;
        }
    }
    at(Level::new(), out, accum, a, b);
}

fn at(level: Level, out: Rows<'_>, accum: Accum, a: View<'_>, b: &Panels) {
    let columns = check(&out, a, b.rows(), b.columns());
    for (rows, columns, mut tile) in tiles(out, columns) {
        one(level, &mut tile, accum, Left::Matrix(a.some_rows(rows)), b, columns);
    }
}

/// The product of as many of the first columns as b has rows, on the calling thread.
pub(crate) fn left_in_strips(out: Rows<'_>, accum: Accum, a: &Strips, b: &Panels) {
    assert_eq!(out.0.len(), a.rows(), "rows of the result and of the left side");
    assert!(out.0.iter().all(|row| row.len() == b.columns()), "columns of the result: {}", b.columns());
    for (rows, columns, mut tile) in tiles(out, b.columns()) {
        one(Level::new(), &mut tile, accum, Left::Strips(a, rows), b, columns);
    }
}

/// Rows of a left side.
enum Left<'a> {
    /// Of a matrix, still to be brought in order.
    Matrix(View<'a>),
    /// These, in order.
    Strips(&'a Strips, Range<usize>),
}

impl Left<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.rows(),
            Self::Strips(_, rows) => rows.len(),
        }
    }
}

fn in_tiles(
    out: Rows<'_>,
    accum: Accum,
    a: View<'_>,
    b: View<'_>,
    wanted: impl Fn(&Range<usize>, &Range<usize>) -> bool,
) {
    let columns = check(&out, a, b.rows(), b.columns());
    let step = stripe(a.rows(), b.rows(), rayon::current_num_threads());
    let mut rest = out;
    for start in (0..columns).step_by(step) {
        let width = step.min(columns - start);
        let (stripe, right) = split(rest, width);
        rest = right;
        let of_stripe = tiles(stripe, width);
        let of_stripe: Vec<_> = of_stripe
            .into_iter()
            .filter(|(rows, columns, _)| wanted(rows, &(start + columns.start..start + columns.end)))
            .collect();
        if of_stripe.is_empty() {
            continue;
        }
        let panels = Panels::on_all_threads(b.some_columns(start..start + width));
        fork("tiles", |fork| {
            of_stripe.into_par_iter().with_max_len(1).for_each(|(rows, columns, mut tile)| {
                fork.child(|| {
                    one(Level::new(), &mut tile, accum, Left::Matrix(a.some_rows(rows)), &panels, columns);
                });
            });
        });
    }
}

/// Columns of the result that are computed together, and of the right side that are in panels.
fn stripe(rows: usize, steps: usize, threads: usize) -> usize {
    let high = rows.div_ceil(HEIGHT).max(1);
    let room = PANELS / (WIDTH * steps.max(1));
    WIDTH * (TILES * threads).div_ceil(high).min(room).max(2)
}

/// The columns of the result, whose shapes are checked.
fn check(out: &Rows<'_>, a: View<'_>, rows: usize, columns: usize) -> usize {
    assert_eq!(a.columns(), rows, "columns on the left, rows on the right");
    assert_eq!(out.0.len(), a.rows(), "rows of the result and of the left side");
    assert!(out.0.iter().all(|row| row.len() == columns), "columns of the result: {columns}");
    columns
}

/// The first columns, and the others.
fn split(rows: Rows<'_>, width: usize) -> (Rows<'_>, Rows<'_>) {
    let (left, right) = rows.0.into_iter().map(|row| row.split_at_mut(width)).unzip();
    (Rows(left), Rows(right))
}

/// A result in tiles: their rows, their columns, their values.
fn tiles(out: Rows<'_>, columns: usize) -> Vec<(Range<usize>, Range<usize>, Rows<'_>)> {
    let mut tiles = Vec::new();
    let mut row = 0;
    let mut rows = out.0.into_iter().peekable();
    while rows.peek().is_some() {
        let mut parts: Vec<Vec<&mut [f32]>> = (0..columns.div_ceil(WIDTH)).map(|_| Vec::new()).collect();
        let mut height = 0;
        for values in rows.by_ref().take(HEIGHT) {
            height += 1;
            for (part, values) in parts.iter_mut().zip(values.chunks_mut(WIDTH)) {
                part.push(values);
            }
        }
        for (part, values) in parts.into_iter().enumerate() {
            let first = part * WIDTH;
            tiles.push((row..row + height, first..columns.min(first + WIDTH), Rows(values)));
        }
        row += height;
    }
    tiles
}

/// One tile: rows of the left side times these columns of the panels.
fn one(level: Level, out: &mut Rows<'_>, accum: Accum, a: Left<'_>, b: &Panels, columns: Range<usize>) {
    SCRATCH.with_borrow_mut(|scratch| one_in(scratch, level, out, accum, &a, b, columns));
}

/// A thread's scratch memory, kept between products: newly allocated memory is cleared each time.
#[derive(Default)]
struct Scratch {
    strips: Vec<[f32; ROWS]>,
    sums: Vec<Tile>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn one_in(
    Scratch { strips, sums }: &mut Scratch,
    level: Level,
    out: &mut Rows<'_>,
    accum: Accum,
    a: &Left<'_>,
    b: &Panels,
    columns: Range<usize>,
) {
    work_trace::count(operations(a.rows(), b.rows(), columns.len()) as u64, 0);
    let height = a.rows().div_ceil(ROWS);
    let panels = columns.start / LANES..columns.end.div_ceil(LANES);
    sums.clear();
    sums.resize(height * panels.len(), [[0.0; LANES]; ROWS]);
    for start in (0..b.rows()).step_by(DEPTH) {
        let steps = start..b.rows().min(start + DEPTH);
        let strips = match a {
            Left::Matrix(matrix) => {
                strips.clear();
                strips.resize(height * steps.len(), [0.0; ROWS]);
                in_strips(*matrix, steps.clone(), strips);
                &strips[..]
            }
            Left::Strips(of, rows) => of.some(rows.clone(), steps.clone()),
        };
        multiply(level, steps.len(), strips, &b.some(panels.clone(), steps), sums);
    }
    for (row, out) in out.0.iter_mut().enumerate() {
        for (panel, out) in out.chunks_mut(LANES).enumerate() {
            let sums = &sums[panel * height + row / ROWS][row % ROWS];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if accum == Accum::Add { *out + sum } else { *sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rayon::ThreadPoolBuilder;

    use super::*;
    use crate::Dense;

    fn numbers(rows: usize, columns: usize, seed: usize) -> Dense {
        let number = |i: usize| ((i * 7919 + seed * 131) % 1009) as f32 / 1009.0 - 0.5;
        Dense::new(columns, (0..rows * columns).map(number).collect())
    }

    /// The definition: one chain of fused multiply-adds for each element.
    fn chain(a: View<'_>, b: View<'_>, row: usize, column: usize) -> f32 {
        (0..a.columns()).fold(0.0, |sum, k| b.at(k, column).mul_add(a.at(row, k), sum))
    }

    #[test]
    fn every_element_is_its_chain_on_every_level_and_any_number_of_threads() {
        // More than one tile, stripe and depth, and no whole number of any of them.
        let (a, b) = (numbers(133, 300, 1), numbers(1100, 300, 2));
        let (a, b) = (a.view(), b.view().transposed());
        let mut expected = Dense::zeros(133, 1100);
        for row in 0..133 {
            for column in 0..1100 {
                expected.row_mut(row)[column] = chain(a, b, row, column);
            }
        }
        for threads in [1, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let mut out = Dense::zeros(133, 1100);
            pool.install(|| product(out.view_mut(), Accum::Replace, a, b));
            assert_eq!(out.values(), expected.values(), "{threads} threads");
        }
        let best = Level::new();
        let levels = std::iter::once(best);
        #[cfg(target_arch = "x86_64")]
        let levels = levels
            .chain(best.as_sse2().map(Level::Sse2))
            .chain(best.as_sse4_2().map(Level::Sse4_2))
            .chain(best.as_avx2().map(Level::Avx2));
        for level in levels {
            let mut out = Dense::zeros(133, 1100);
            at(level, out.view_mut(), Accum::Replace, a, &Panels::packed(b));
            assert_eq!(out.values(), expected.values(), "{level:?}");
        }
    }

    #[test]
    fn sums_are_added_to_what_is_there() {
        let (a, b) = (numbers(5, 7, 1), numbers(7, 3, 2));
        let mut out = Dense::new(4, vec![1.0; 24]);
        one_thread(out.part_mut(1..6, 1..4), Accum::Add, a.view(), b.view());
        assert_eq!(out.row(0), [1.0; 4]);
        assert_eq!((out.row(3)[0], out.row(3)[2]), (1.0, 1.0 + chain(a.view(), b.view(), 2, 1)));
    }

    #[test]
    fn a_gram_matrix_is_right_on_and_above_its_diagonal() {
        let x = numbers(9, 700, 3);
        let mut out = Dense::zeros(700, 700);
        gram(out.view_mut(), Accum::Add, x.view());
        for (row, column) in [(0, 0), (0, 699), (350, 512), (699, 699)] {
            assert_eq!(out.row(row)[column], chain(x.view().transposed(), x.view(), row, column));
        }
        assert_eq!(out.row(699)[0], 0.0);
    }
}
