//! `--threads`, as every command takes it.

use crate::threads::available;

/// Threads to use: what was asked for, else what the machine has.
pub fn threads(asked: Option<u16>) -> usize {
    asked.map_or_else(available, usize::from)
}

/// A number of threads that makes sense.
pub fn thread_count() -> impl clap::builder::TypedValueParser<Value = u16> {
    clap::value_parser!(u16).range(1..=1024)
}
