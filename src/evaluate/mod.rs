//! Compares a finished file with the checkpoint it came from: both run over the same text, layer by layer.

mod certificate;
mod differing;
mod divergence;
mod part;
mod questions;
mod run;
mod statistics;
mod stop;

pub use certificate::{Certificate, LayerError, OfText, Scores};
pub use divergence::Scored;
pub use part::{Part, join};
pub use questions::{Answers, Question};
pub use run::{Asked, run};
pub use statistics::{Statistics, quantile};
