//! After the road, compare: a finished file with the checkpoint it came from, both layer by layer over the same text.

mod differing;
mod divergence;
mod run;
mod statistics;
mod stop;

pub use run::{Certificate, LayerError, run};
pub use statistics::{Statistics, quantile};
