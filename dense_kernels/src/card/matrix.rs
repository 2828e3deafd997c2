//! Matrices in a card's memory.

use super::driver::{Argument, Fault, Shape};
use super::room::Use;
use super::{Card, Declined};
use crate::factor::{BLOCK, NotPositive, PANEL};
use crate::matrix::{Dense, View};

use Argument::{Number, Place};

/// Rows begin at multiples of so many values.
const ALIGNED: usize = 4;

/// Threads of a tile.
const THREADS: usize = 256;

/// Columns of an inverse that a block makes.
const COLUMNS: usize = 64;

/// Tiles of 128 x 128 that keep a card busy; of fewer it makes smaller ones.
const BUSY: usize = 100;

/// What a product gives, in the kernels' numbers.
#[derive(Clone, Copy)]
enum Outcome {
    /// Itself.
    Product = 0,
    /// What it leaves of other values.
    Rest = 1,
}

/// Memory on the card.
#[derive(Debug)]
struct Memory {
    card: Card,
    place: u64,
    _grant: super::Grant,
}

impl Memory {
    fn new(card: &Card, bytes: usize, of: Use) -> Result<Self, Declined> {
        let grant = card.0.room.take(bytes as u64, of)?;
        Ok(Self { card: card.clone(), place: card.0.driver.allocate(bytes)?, _grant: grant })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.card.0.driver.free(self.place);
    }
}

/// A matrix in a card's memory.
#[derive(Debug)]
pub struct OnCard {
    memory: Memory,
    /// As it lies there.
    rows: usize,
    columns: usize,
    apart: usize,
    /// Whether its columns are the rows of what it stands for.
    turned: bool,
}

/// Where a part of a matrix begins and how far its rows lie apart; whether neighbours in memory are steps of the inner
/// dimension.
#[derive(Clone, Copy)]
struct Side {
    place: u64,
    apart: usize,
    next: bool,
}

/// A product: where it goes, its rows, columns and steps, and its sides.
struct Product {
    at: [usize; 2],
    sizes: [usize; 3],
    a: Side,
    b: Side,
    /// What the product is taken from, if it is not the result itself.
    own: Option<Side>,
    /// Whether only what reaches the diagonal or is right of it matters.
    upper: bool,
}

/// A number as the kernels take them.
fn number(n: usize) -> Argument {
    Number(i32::try_from(n).expect("matrices of less than 2^31 rows and columns"))
}

impl OnCard {
    pub(super) fn new(card: &Card, rows: usize, columns: usize, of: Use) -> Result<Self, Declined> {
        assert!(rows > 0 && columns > 0, "{rows} x {columns}");
        let apart = columns.next_multiple_of(ALIGNED);
        let memory = Memory::new(card, rows * apart * 4, of)?;
        Ok(Self { memory, rows, columns, apart, turned: false })
    }

    /// A copy of a matrix that has at least one row and one column.
    ///
    /// # Errors
    /// If there is no room, or the card fails.
    pub fn of(card: &Card, matrix: View<'_>) -> Result<Self, Declined> {
        Self::copied(card, matrix, Use::Work)
    }

    /// The same, to be kept.
    pub(super) fn copied(card: &Card, matrix: View<'_>, of: Use) -> Result<Self, Declined> {
        let turned = matrix.line(0).is_none();
        let lines = if turned { matrix.transposed() } else { matrix };
        let new = Self { turned, ..Self::new(card, lines.rows(), lines.columns(), of)? };
        let (values, apart) = lines.lines().expect("a matrix or a transposed one has lines");
        // A single row may be one whose values are rows of one.
        let apart = apart.max(new.columns);
        let shape = Shape { rows: new.rows, columns: new.columns, apart };
        new.memory.card.0.driver.upload(new.memory.place, new.apart, values, shape)?;
        Ok(new)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        if self.turned { self.columns } else { self.rows }
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        if self.turned { self.rows } else { self.columns }
    }

    /// The matrix.
    ///
    /// # Errors
    /// If the card fails.
    pub fn values(&self) -> Result<Dense, Fault> {
        let mut values = Dense::zeros(self.rows, self.columns);
        self.read(0, 0, values.values_mut(), self.shape())?;
        if self.turned {
            let turned = values.view().transposed();
            let at = |i: usize| turned.at(i / self.rows, i % self.rows);
            return Ok(Dense::new(self.rows, (0..self.rows * self.columns).map(at).collect()));
        }
        Ok(values)
    }

    /// Waits until what this thread has asked for is done.
    ///
    /// # Errors
    /// If the card fails.
    pub fn wait(&self) -> Result<(), Fault> {
        self.read(0, 0, &mut [0.0], Shape { rows: 1, columns: 1, apart: 1 })
    }

    fn shape(&self) -> Shape {
        Shape { rows: self.rows, columns: self.columns, apart: self.columns }
    }

    /// Part of it, as it lies there, from a row and column on.
    fn read(&self, row: usize, column: usize, values: &mut [f32], shape: Shape) -> Result<(), Fault> {
        self.memory.card.0.driver.download(self.at(row, column), self.apart, values, shape)
    }

    fn at(&self, row: usize, column: usize) -> u64 {
        self.memory.place + 4 * (row * self.apart + column) as u64
    }

    /// As the left side of a product, or its transposed as the right one.
    fn side(&self, row: usize, column: usize) -> Side {
        Side { place: self.at(row, column), apart: self.apart, next: !self.turned }
    }

    /// a b.
    ///
    /// # Errors
    /// If there is no room, or the card fails.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn times(&self, b: &Self) -> Result<Self, Declined> {
        let out = Self::new(&self.memory.card, self.rows(), b.columns(), Use::Work)?;
        self.times_into(b, &out)?;
        Ok(out)
    }

    /// The same, in the place of what is there.
    ///
    /// # Errors
    /// If the card fails.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn times_into(&self, b: &Self, out: &Self) -> Result<(), Fault> {
        assert_eq!(self.columns(), b.rows(), "columns on the left, rows on the right");
        assert_eq!((out.rows, out.columns, out.turned), (self.rows(), b.columns(), false), "the result");
        self.start(b, out)
    }

    /// Starts the product of as many of the first columns as b has rows, times b.
    fn start(&self, b: &Self, out: &Self) -> Result<(), Fault> {
        out.put(Product {
            at: [0, 0],
            sizes: [out.rows, out.columns, b.rows()],
            a: self.side(0, 0),
            b: Side { next: b.turned, ..b.side(0, 0) },
            own: None,
            upper: false,
        })
    }

    /// x^T x of x = this one: what is on and right of the diagonal of `out`; what is left of it is of no meaning.
    ///
    /// # Errors
    /// If the card fails.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn gram_into(&self, out: &Self) -> Result<(), Fault> {
        let n = self.columns();
        assert_eq!((out.rows, out.columns, out.turned), (n, n, false), "the result");
        let x = Side { next: self.turned, ..self.side(0, 0) };
        out.put(Product { at: [0, 0], sizes: [n, n, self.rows()], a: x, b: x, own: None, upper: true })
    }

    /// Takes columns from `first` on.
    pub(super) fn put_columns(&self, first: usize, columns: View<'_>) -> Result<(), Fault> {
        assert_eq!((self.turned, columns.rows()), (false, self.rows), "rows");
        let (values, apart) = columns.lines().expect("rows whose values are neighbours");
        let shape =
            Shape { rows: self.rows, columns: columns.columns(), apart: apart.max(columns.columns()) };
        self.memory.card.0.driver.upload(self.at(0, first), self.apart, values, shape)
    }

    /// As many of the first columns as b has rows, times b.
    pub(super) fn first_columns_times(&self, b: &Self) -> Result<Self, Declined> {
        assert!(b.rows() <= self.columns && !self.turned, "{} of {} columns", b.rows(), self.columns);
        let out = Self::new(&self.memory.card, self.rows, b.columns(), Use::Work)?;
        self.start(b, &out)?;
        Ok(out)
    }

    /// Starts the kernel of a product whose result is a part of this matrix.
    fn put(&self, product: Product) -> Result<(), Fault> {
        let Product { at: [row, column], sizes: [rows, columns, steps], a, b, own, upper } = product;
        let tiles = |tile: usize| columns.div_ceil(tile) * rows.div_ceil(tile);
        let tile = if tiles(128) >= BUSY { 128 } else { 64 };
        let letter = |side: Side| if side.next { 'n' } else { 't' };
        let kernel = format!("product_{tile}_{}{}", letter(a), letter(b));
        let out = self.side(row, column);
        let outcome = if own.is_some() { Outcome::Rest } else { Outcome::Product };
        let own = own.unwrap_or(out);
        self.memory.card.0.driver.launch(
            &kernel,
            [columns.div_ceil(tile), rows.div_ceil(tile)],
            THREADS,
            0,
            &[
                Place(out.place),
                number(out.apart),
                Place(own.place),
                number(own.apart),
                Place(a.place),
                number(a.apart),
                Place(b.place),
                number(b.apart),
                number(rows),
                number(columns),
                number(steps),
                Number(outcome as i32),
                Number(upper.into()),
            ],
        )
    }

    /// The triangular factor in the place of what is on and above the diagonal, as [`crate::upper_factor`] makes it; the
    /// kernels are started. The answer is in what is returned.
    ///
    /// # Errors
    /// If there is no room, or the card fails.
    ///
    /// # Panics
    /// If it is not square.
    pub fn factor(&mut self) -> Result<Factoring, Declined> {
        let n = self.columns;
        assert_eq!((self.rows, self.turned), (n, false), "rows and columns");
        let card = &self.memory.card;
        // What a corner is computed in: shared memory, if the card has so much.
        let in_f64 = BLOCK * (BLOCK + 1) * 8;
        let shared = if in_f64 <= card.0.driver.shared() { in_f64 } else { 0 };
        let working = Factoring {
            panel: Self::new(card, n, PANEL, Use::Work)?,
            block: Self::new(card, n, BLOCK, Use::Work)?,
            inverse: Self::new(card, BLOCK, BLOCK, Use::Work)?,
            in_f64: if shared > 0 { None } else { Some(Memory::new(card, in_f64, Use::Work)?) },
            failed: Self::of(card, View::new(1, &[f32::from_bits(NOTHING)]))?,
        };
        let Factoring { panel, block, inverse, in_f64, failed } = &working;
        for start in (0..n).step_by(PANEL).rev() {
            let end = n.min(start + PANEL);
            // What the columns on the right leave of this panel's.
            panel.put(Product {
                at: [0, 0],
                sizes: [end, end - start, n - end],
                a: self.side(0, end),
                b: self.side(start, end),
                own: Some(self.side(0, start)),
                upper: false,
            })?;
            for first in (start..end).step_by(BLOCK).rev() {
                let until = end.min(first + BLOCK);
                let width = until - first;
                // What the panel's columns on the right leave of this block's.
                block.put(Product {
                    at: [0, 0],
                    sizes: [until, width, end - until],
                    a: self.side(0, until),
                    b: self.side(first, until),
                    own: Some(panel.side(0, first - start)),
                    upper: false,
                })?;
                card.0.driver.launch(
                    "corner",
                    [1, 1],
                    2 * BLOCK,
                    shared,
                    &[
                        Place(block.at(first, 0)),
                        number(block.apart),
                        number(width),
                        Place(self.at(first, first)),
                        number(self.apart),
                        Place(inverse.memory.place),
                        number(inverse.apart),
                        Place(in_f64.as_ref().map_or(0, |memory| memory.place)),
                        number(first),
                        Place(failed.memory.place),
                    ],
                )?;
                if first > 0 {
                    self.put(Product {
                        at: [0, first],
                        sizes: [first, width, width],
                        a: block.side(0, 0),
                        b: inverse.side(0, 0),
                        own: None,
                        upper: false,
                    })?;
                }
            }
        }
        Ok(working)
    }

    /// The inverse of this upper triangular matrix, as [`crate::upper_inverse`] makes it.
    ///
    /// # Errors
    /// If there is no room, or the card fails.
    ///
    /// # Panics
    /// If it is not square.
    pub fn inverse(&self) -> Result<Self, Declined> {
        let n = self.columns;
        assert_eq!((self.rows, self.turned), (n, false), "rows and columns");
        let card = &self.memory.card;
        let inverse = Self::new(card, n, n, Use::Work)?;
        let in_f64 = Memory::new(card, n * n * 8, Use::Work)?;
        card.0.driver.launch(
            "invert",
            [n.div_ceil(COLUMNS), 1],
            COLUMNS,
            0,
            &[
                Place(self.memory.place),
                number(self.apart),
                number(n),
                Place(inverse.memory.place),
                number(inverse.apart),
                Place(in_f64.place),
            ],
        )?;
        inverse.wait()?;
        Ok(inverse)
    }

    /// Brings back what is on and above the diagonal of some rows.
    pub(super) fn read_upper(&self, rows: std::ops::Range<usize>, values: &mut [f32]) -> Result<(), Fault> {
        let first = rows.start;
        let shape = Shape { rows: rows.len(), columns: self.columns - first, apart: self.columns };
        self.read(first, first, &mut values[first..], shape)
    }
}

/// No column.
const NOTHING: u32 = u32::MAX;

/// A factorisation on its way, with the memory that it works in.
#[derive(Debug)]
pub struct Factoring {
    panel: OnCard,
    block: OnCard,
    inverse: OnCard,
    in_f64: Option<Memory>,
    failed: OnCard,
}

impl Factoring {
    /// Waits for it.
    ///
    /// # Errors
    /// If the card fails; inside, if the matrix is not positive definite.
    pub fn finish(self) -> Result<Result<(), NotPositive>, Fault> {
        let mut failed = [0.0];
        self.failed.read(0, 0, &mut failed, Shape { rows: 1, columns: 1, apart: 1 })?;
        Ok(match failed[0].to_bits() {
            NOTHING => Ok(()),
            column => Err(NotPositive(column as usize)),
        })
    }
}
