//! How far long work has come, for whoever shows it.

/// Something more is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct More<'a> {
    /// The tensor or the file that it is of.
    pub of: &'a str,
    /// How much, in the unit of the work: bytes, weights or tensors.
    pub done: u64,
    /// How much there is to be done in all.
    pub all: u64,
    /// Bytes that were read for it.
    pub bytes: u64,
}

/// Hears from any thread, again and again, of more that is done.
pub type Told<'a> = &'a (dyn Fn(More<'_>) + Sync);

/// Nobody listens.
pub const UNTOLD: Told<'static> = &|_| ();
