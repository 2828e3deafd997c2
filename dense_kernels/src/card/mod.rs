//! Products and factors on a CUDA card: the same bits as on the processor, so nothing but time depends on where they are made.
//!
//! ```text
//! dense.cu   the kernels: every element one chain, in the order of the processor's
//! cuda.rs    the driver, found when it is asked for, and the compiler of the kernels
//! driver.rs  what is asked of it; the tests answer with the same kernels on the processor
//! ```
//!
//! [`use_card`] sends to a card what it makes faster, counting the way there and back. What it has no room for, and what it
//! fails at, the processor does.

mod cuda;
mod driver;
mod matrix;
mod room;
// Threads of a block as stacks of their own are made by functions that other systems lack.
#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::factor::NotPositive;
use super::matrix::{Dense, Rows, View};
use super::panels::Panels;
use super::product::Accum;
use cuda::Cuda;
use driver::Driver;
use room::{Grant, Room, Use};

pub use driver::Fault;
pub use matrix::{Factoring, OnCard};

/// Of ten bytes of its memory that are free, so many are used.
const OF_TEN: u64 = 9;

/// Rows from which on a right side is kept on the card: products with fewer are not worth the way there.
const LEAST_KEPT: usize = 512;

/// Rows that a thread brings back at a time, at least.
const BAND: usize = 128;

/// What is known of speeds, to tell where an operation takes less time. Wrong by a factor of two they cost little: then both
/// take about as long.
mod speed {
    /// Bytes a second between the processor's memory and the card's.
    pub const COPIES: f64 = 8e9;
    /// Operations a second of a card; a multiply-add is two.
    pub const CARD: f64 = 20e12;
    /// Operations a second of one thread.
    pub const THREAD: f64 = 80e9;
    /// Seconds that any operation of the card takes.
    pub const START: f64 = 1e-4;
}

/// A CUDA card.
#[derive(Clone, Debug)]
pub struct Card(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    driver: Box<dyn Driver>,
    name: String,
    room: Room,
    /// What it failed at; then it is not used any more.
    fault: OnceLock<Fault>,
    told: fn(&Fault),
}

/// Why the processor has to do it.
#[derive(Clone, Debug)]
pub enum Declined {
    /// It does not fit in the memory that the card may use.
    NoRoom,
    /// The card cannot.
    Fault(Fault),
}

impl From<Fault> for Declined {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom => f.write_str("no room for it on the card"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

/// What is made on a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// What takes less time there.
    Faster,
    /// All that has room.
    All,
}

/// The card that this process uses.
static CARD: OnceLock<(Card, Share)> = OnceLock::new();

/// From now on products and factors of this process are made on the card. As with the threads of a pool, nothing but time
/// depends on it. The first card that is named stays.
pub fn use_card(card: Card, share: Share) {
    let _ = CARD.set((card, share));
}

/// The card, unless it has failed.
fn in_use() -> Option<&'static (Card, Share)> {
    CARD.get().filter(|(card, _)| card.0.fault.get().is_none())
}

/// Does something on the card that is used, if there is one and `worth` says so; whether it is done.
pub(crate) fn on_card(
    worth: impl FnOnce() -> bool,
    work: impl FnOnce(&Card) -> Result<(), Declined>,
) -> bool {
    let Some((card, share)) = in_use() else { return false };
    if *share == Share::Faster && !worth() {
        return false;
    }
    card.done(work(card)).is_some()
}

/// Keeps the right side of products on the card that is used, if there is one and it has room, and the side is large enough.
pub(crate) fn keep(matrix: View<'_>) -> Option<Arc<Kept>> {
    let (card, share) = in_use()?;
    let least = if *share == Share::All { 1 } else { LEAST_KEPT };
    if matrix.rows() < least || matrix.columns() == 0 {
        return None;
    }
    card.done(card.kept(matrix)).map(Arc::new)
}

/// Whether a product takes less time on the card, with `moved` values to be brought there and back, than on so many threads.
pub(crate) fn worth(operations: f64, moved: usize, threads: usize) -> bool {
    let on_card = speed::START + moved as f64 * 4.0 / speed::COPIES + operations / speed::CARD;
    on_card < operations / (speed::THREAD * threads as f64)
}

/// A right side of products that stays on the card.
#[derive(Debug)]
pub(crate) struct Kept(OnCard);

impl Kept {
    /// `out` = a b, or with [`Accum::Add`] + a b, by the calling thread; whether it is done.
    pub fn product(
        &self,
        worth: impl FnOnce() -> bool,
        out: &mut Rows<'_>,
        accum: Accum,
        a: View<'_>,
    ) -> bool {
        on_card(worth, |card| card.in_bands(out, accum, a, &self.0, 1))
    }
}

/// Puts values where they belong.
fn put(accum: Accum, out: &mut [f32], values: &[f32]) {
    match accum {
        Accum::Replace => out.copy_from_slice(values),
        Accum::Add => out.iter_mut().zip(values).for_each(|(out, sum)| *out += sum),
    }
}

/// Puts rows where they belong.
fn put_rows(accum: Accum, out: &mut [&mut [f32]], values: &Dense) {
    for (out, values) in out.iter_mut().zip(values.values().chunks_exact(values.columns())) {
        put(accum, out, values);
    }
}

/// A left side of products whose columns become known from left to right, on the card.
#[derive(Debug)]
pub(crate) struct KeptLeft {
    matrix: OnCard,
    /// Whether the card has all that was put in.
    whole: bool,
}

/// Room on the card that is used for a left side, if its right sides may be kept there.
pub(crate) fn keep_left(rows: usize, columns: usize) -> Option<KeptLeft> {
    let (card, share) = in_use()?;
    let least = if *share == Share::All { 1 } else { LEAST_KEPT };
    if rows == 0 || columns < least {
        return None;
    }
    let matrix = card.done(OnCard::new(card, rows, columns, Use::Kept))?;
    Some(KeptLeft { matrix, whole: true })
}

impl KeptLeft {
    /// Takes the columns from `first` on.
    pub fn put(&mut self, first: usize, columns: View<'_>) {
        let Some((card, _)) = in_use().filter(|_| self.whole) else { return };
        self.whole = card.done(self.matrix.put_columns(first, columns).map_err(Declined::Fault)).is_some();
    }
}

/// Of a left side that is kept as many of the first columns as b has rows, times b; whether it is done.
pub(crate) fn on_kept(
    a: Option<&KeptLeft>,
    b: &Panels,
    rows: usize,
    out: &mut Rows<'_>,
    accum: Accum,
) -> bool {
    let (Some(a), Some(b)) = (a.filter(|a| a.whole), b.kept()) else { return false };
    let (steps, columns) = (b.0.rows(), b.0.columns());
    let faster = || worth(2.0 * (rows * steps * columns) as f64, rows * columns, 1);
    on_card(faster, |_| {
        put_rows(accum, &mut out.0, &a.matrix.first_columns_times(&b.0)?.values()?);
        Ok(())
    })
}

impl Card {
    /// Opens a card, of whose memory at most so many bytes are used [default: nine tenths of what is free]; `told` hears of
    /// what it fails at later, after which it is not used any more.
    ///
    /// # Errors
    /// If there is no driver, no compiler for kernels (what was looked for is said), no such card, or not so much memory.
    pub fn open(ordinal: usize, memory: Option<u64>, told: fn(&Fault)) -> Result<Self, Fault> {
        let count = cuda::count()?;
        if ordinal >= count {
            return Err(Fault(match count {
                0 => "a CUDA driver, but no card".to_owned(),
                1 => format!("there is no card {ordinal}: the only one is 0"),
                _ => format!("there is no card {ordinal}: they are 0 to {}", count - 1),
            }));
        }
        let cuda = Cuda::open(ordinal)?;
        let free = cuda.free_memory()?;
        let memory = memory.unwrap_or(free / 10 * OF_TEN);
        if memory > free {
            return Err(Fault(format!("{memory} bytes of the card's memory are wanted, {free} are free")));
        }
        Ok(Self::of_driver(cuda.name(), Box::new(cuda), memory, told))
    }

    fn of_driver(name: String, driver: Box<dyn Driver>, memory: u64, told: fn(&Fault)) -> Self {
        Self(Arc::new(Opened { driver, name, room: Room::new(memory), fault: OnceLock::new(), told }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Bytes of its memory that are used at most.
    pub fn memory(&self) -> u64 {
        self.0.room.bytes()
    }

    /// What was done; if the card has failed, it is told of, once.
    fn done<T>(&self, found: Result<T, Declined>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(Declined::NoRoom) => None,
            Err(Declined::Fault(fault)) => {
                if self.0.fault.set(fault.clone()).is_ok() {
                    (self.0.told)(&fault);
                }
                None
            }
        }
    }

    /// A right side of products, to be kept.
    fn kept(&self, matrix: View<'_>) -> Result<Kept, Declined> {
        Ok(Kept(OnCard::copied(self, matrix, Use::Kept)?))
    }

    /// `out` = a b, or with [`Accum::Add`] + a b, as [`crate::product`]; so many threads bring it back.
    ///
    /// # Errors
    /// If there is no room, or the card fails; `out` is as it was.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn product(
        &self,
        out: &mut Rows<'_>,
        accum: Accum,
        a: View<'_>,
        b: View<'_>,
        threads: usize,
    ) -> Result<(), Declined> {
        if b.rows() == 0 || b.columns() == 0 || a.rows() == 0 {
            return Err(Declined::NoRoom);
        }
        self.in_bands(out, accum, a, &OnCard::of(self, b)?, threads)
    }

    /// The product with what is on the card.
    fn in_bands(
        &self,
        out: &mut Rows<'_>,
        accum: Accum,
        a: View<'_>,
        b: &OnCard,
        threads: usize,
    ) -> Result<(), Declined> {
        assert_eq!(out.0.len(), a.rows(), "rows of the result and of the left side");
        assert!(out.0.iter().all(|row| row.len() == b.columns()), "columns of the result: {}", b.columns());
        let band = |first: usize, rows: usize| -> Result<Dense, Declined> {
            Ok(OnCard::of(self, a.some_rows(first..first + rows))?.times(b)?.values()?)
        };
        if threads == 1 {
            put_rows(accum, &mut out.0, &band(0, a.rows())?);
            return Ok(());
        }
        // Nothing is put where it belongs before all is there.
        let height = a.rows().div_ceil(threads).next_multiple_of(BAND);
        let bands = out.0.par_chunks_mut(height).enumerate();
        let bands: Vec<Dense> =
            bands.map(|(i, out)| band(i * height, out.len())).collect::<Result<_, _>>()?;
        out.0.par_chunks_mut(height).zip(bands).for_each(|(out, values)| put_rows(accum, out, &values));
        Ok(())
    }

    /// What is on and right of the diagonal of x^T x, as [`crate::gram`].
    ///
    /// # Errors
    /// If there is no room, or the card fails; `out` is as it was.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn gram(&self, out: &mut Rows<'_>, accum: Accum, x: View<'_>) -> Result<(), Declined> {
        let n = x.columns();
        assert!(out.0.len() == n && out.0.iter().all(|row| row.len() == n), "{n} x {n}");
        if n == 0 || x.rows() == 0 {
            return Err(Declined::NoRoom);
        }
        let x = OnCard::of(self, x)?;
        let sums = OnCard::new(self, n, n, Use::Work)?;
        x.gram_into(&sums)?;
        sums.wait()?;
        let bands = out.0.par_chunks_mut(BAND).enumerate();
        let bands: Vec<Vec<f32>> = bands
            .map(|(band, out)| {
                let rows = band * BAND..band * BAND + out.len();
                let mut values = vec![0.0; out.len() * n];
                sums.read_upper(rows, &mut values)?;
                Ok(values)
            })
            .collect::<Result<_, Fault>>()?;
        let each = out.0.par_chunks_mut(BAND).zip(bands).enumerate();
        each.for_each(|(band, (out, values))| {
            for (row, (out, values)) in out.iter_mut().zip(values.chunks_exact(n)).enumerate() {
                let from = band * BAND + row;
                put(accum, &mut out[from..], &values[from..]);
            }
        });
        Ok(())
    }

    /// R, upper triangular, with H = R R^T, in the place of H, as [`crate::upper_factor`].
    ///
    /// # Errors
    /// If there is no room, or the card fails: then H is as it was. Inside, if it is not positive definite.
    ///
    /// # Panics
    /// If H is not square.
    pub fn upper_factor(&self, h: &mut Dense) -> Result<Result<(), NotPositive>, Declined> {
        let n = h.columns();
        assert_eq!(h.rows(), n, "rows and columns");
        if n == 0 {
            return Err(Declined::NoRoom);
        }
        let mut factor = OnCard::of(self, h.view())?;
        let done = factor.factor()?.finish()?;
        if done.is_ok() {
            // A card that fails half way must leave what was there.
            let bands = h.values_mut().par_chunks_mut(BAND * n).enumerate();
            let bands: Vec<Vec<f32>> = bands
                .map(|(band, h)| {
                    // With what is left of the diagonal in the band's own corner.
                    let (first, mut values) = (band * BAND, h.to_vec());
                    factor.read_upper(first..first + h.len() / n, &mut values)?;
                    Ok(values)
                })
                .collect::<Result<_, Fault>>()?;
            let each = h.values_mut().par_chunks_mut(BAND * n).zip(bands);
            each.for_each(|(h, values)| h.copy_from_slice(&values));
        }
        Ok(done)
    }

    /// The inverse of a small upper triangular matrix, as [`crate::upper_inverse`].
    ///
    /// # Errors
    /// If there is no room, or the card fails.
    ///
    /// # Panics
    /// If the matrix is not square.
    pub fn upper_inverse(&self, matrix: View<'_>) -> Result<Dense, Declined> {
        if matrix.rows() == 0 {
            return Err(Declined::NoRoom);
        }
        Ok(OnCard::of(self, matrix)?.inverse()?.values()?)
    }
}
