//! Importances of every matrix, measured on a text before quantizing.

mod collector;
mod manifest;
mod prober;
mod run;

pub use collector::{EXTRA_WEIGHT, LEAST_TOKENS};
pub use run::{Calibration, Found, Keeping, Probing, Step, Unreached, run};
