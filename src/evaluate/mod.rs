//! Compares a finished file with the checkpoint it came from: both run over the same text, layer by layer.

mod differing;
mod divergence;
mod run;
mod statistics;
mod stop;

pub use run::{Certificate, LayerError, run};
pub use statistics::{Statistics, quantile};
