//! Compares a finished file with the checkpoint it came from: both run over the same text, layer by layer.

mod certificate;
mod differing;
mod divergence;
mod part;
mod run;
mod statistics;
mod stop;

pub use certificate::{Certificate, LayerError, OfText, Scores};
pub use divergence::Scored;
pub use part::{Part, join};
pub use run::run;
pub use statistics::{Statistics, quantile};
