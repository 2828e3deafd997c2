//! What is asked of a card: memory, copies, kernels.

use std::fmt;

/// What the card, its driver or the compiler of its kernels said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// Rows as they lie in the processor's memory.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many, at least one.
    pub rows: usize,
    /// Values of each, at least one.
    pub columns: usize,
    /// From a row to the next.
    pub apart: usize,
}

impl Shape {
    /// Values from the first to the last.
    pub fn extent(self) -> usize {
        (self.rows - 1) * self.apart + self.columns
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// A place in the card's memory.
    Place(u64),
    /// A number.
    Number(i32),
}

/// A card, or what stands for one in a test. What one thread asks for is done in its order; a thread may use what another one
/// has uploaded.
pub trait Driver: fmt::Debug + Send + Sync {
    /// Memory of so many bytes, for anything; at a multiple of 256.
    fn allocate(&self, bytes: usize) -> Result<u64, Fault>;

    /// Gives memory back; what was asked for before is done with it.
    fn free(&self, place: u64);

    /// Copies rows to the card, so many values apart there; they are there when this returns. `values` has at least the
    /// rows' extent.
    fn upload(&self, place: u64, apart: usize, values: &[f32], rows: Shape) -> Result<(), Fault>;

    /// Copies rows from the card, so many values apart there, when all that this thread asked for is done. What lies between
    /// rows in `values` stays.
    fn download(&self, place: u64, apart: usize, values: &mut [f32], rows: Shape) -> Result<(), Fault>;

    /// Bytes of shared memory that a block may ask for.
    fn shared(&self) -> usize;

    /// Starts a kernel in blocks across and down, of so many threads and bytes of shared memory each.
    fn launch(
        &self,
        kernel: &str,
        blocks: [usize; 2],
        threads: usize,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<(), Fault>;
}
