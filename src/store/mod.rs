//! Rows of named matrices, wherever they are stored: the seam between what a model consists of and the files that
//! hold it.
//!
//! ```text
//! Source (bytes of files) -> Checkpoint (safetensors, GGUF) ─┬─ Store: find, open -> Rows: load, decode
//!                            what is quantized so far ───────┘
//! Slice: some rows of a stored matrix, transposed or not, that become one matrix of the model
//! ```
//!
//! A store flattens a tensor to two dimensions: the rows of all its slices, one after another. Whoever has rows to read
//! names a matrix and a [`Slice`] of it, and does not know what stores them.

mod checkpoint;
mod computed;
mod derived;
mod factors;
mod integers;
#[cfg(test)]
mod memory;
mod slice;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub use computed::Computed;
pub use derived::Derivation;
use derived::Derived;
pub use factors::Factors;
pub use integers::Integers;
#[cfg(test)]
pub use memory::InMemory;
use quant_kernels::Format;
pub use slice::{Buffers, Order, Pick, Slice};

use crate::checkpoint::Values;
use crate::error::{Error, Result};

/// A stored matrix, as headers describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The file that holds it, by its name in the store. Files are read one after another, by name.
    pub file: Arc<str>,
    /// Its first byte there.
    pub offset: u64,
    /// Rows: the product of all dimensions but that of a row.
    pub rows: u64,
    /// Weights in a row.
    pub columns: u64,
    /// Bytes of a row as it is stored.
    pub row_bytes: u64,
    /// File and first byte of what [`Store::open`] reads besides (block scales), if anything.
    pub beside: Option<(Arc<str>, u64)>,
}

/// Rows of named matrices.
pub trait Store: Sync + fmt::Debug {
    /// The matrix of this name, if the store has it. Reads nothing.
    fn find(&self, matrix: &str) -> Option<Stored>;

    /// Opens a matrix and reads what its rows need to be decoded.
    ///
    /// # Errors
    /// If it is not there or cannot be decoded.
    fn open(&self, matrix: &str) -> Result<Box<dyn Rows + '_>>;

    /// The error about a matrix that is missing, misshapen or holds what it should not.
    fn fault(&self, matrix: &str, problem: String) -> Error;

    /// [`find`](Self::find) for a matrix that must be there.
    ///
    /// # Errors
    /// If it is not.
    fn stored(&self, matrix: &str) -> Result<Stored> {
        self.find(matrix).ok_or_else(|| self.fault(matrix, "is not there".to_owned()))
    }
}

/// The rows of one open matrix. Loading and decoding are apart, so that one thread can read and others decode.
pub trait Rows: Send + Sync {
    /// The matrix, as headers describe it.
    fn stored(&self) -> &Stored;

    /// Reads the stored bytes of `rows` into `raw`, which has their length then.
    ///
    /// # Errors
    /// If they cannot be read.
    fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()>;

    /// Decodes the stored bytes of `rows` into `out`, row after row.
    ///
    /// # Errors
    /// If they hold a value that `values` does not allow.
    ///
    /// # Panics
    /// If `raw` or `out` is not exactly that many rows.
    fn decode(&self, rows: Range<u64>, raw: &[u8], out: &mut [f32], values: Values) -> Result<()>;

    /// Puts the stored codes of `rows` into blocks of a type that holds them as they are ([`regrouped`]); gives the rows
    /// that have no place there, whose blocks are of no use.
    ///
    /// [`regrouped`]: crate::model::TensorPlan::regrouped
    fn regroup(&self, _format: Format, rows: Range<u64>, _raw: &[u8], _blocks: &mut [u8]) -> Vec<u64> {
        rows.collect()
    }

    /// Says that the stored bytes of `rows` will not be read again.
    fn forget(&self, _rows: Range<u64>) {}
}
