//! Between choosing and working: what each type would cost each tensor, measured on a sample of its rows, and a
//! choice of types under a budget.

mod alignment;
mod answers;
mod choice;
mod damage;
mod estimated;
mod measure;
mod probe;
mod sample;
mod seen;
mod table;

pub use choice::{Choices, Chosen, DEFAULT_TYPES, Open};
pub use damage::coefficients;
pub use measure::{Sampling, measure};
pub use probe::{Probe, Probed};
pub use table::{Added, Measured, Table};
