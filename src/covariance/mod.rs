//! Covariances H of a matrix's inputs, their Cholesky factors, and GPTQ-style encoding with them.
//!
//! ```text
//! inputs -> Covariance -> Metric -> encode (errors taken up by later weights), energies (of what rows give)
//! Watcher collects them during a forward pass, for a Taker
//! ```

mod around;
mod encode;
mod metric;
mod outputs;
mod prior;
mod watcher;

pub use encode::{encode, encode_coupled};
pub use metric::{Covariance, DAMPING, Estimate, MeanSquares, Metric, energies, metrics};
pub use outputs::Coupling;
pub use prior::Prior;
pub use watcher::{Known, Taker, Watcher, damping};
