//! Before the road, measure: the importances of every matrix, from its inputs on a text.

mod collector;
mod manifest;
mod prober;
mod run;

pub use collector::{EXTRA_WEIGHT, LEAST_TOKENS};
pub use run::{Calibration, Found, Probing, Step, Unreached, run};
