//! Covariances H of a matrix's inputs, their Cholesky factors, and GPTQ-style encoding with them.
//!
//! ```text
//! inputs -> Covariance -> Metric -> encode (errors taken up by later weights), energies (of what rows give)
//! Watcher collects them during a forward pass, for a Taker
//! ```

mod encode;
mod metric;
mod watcher;

pub use encode::encode;
pub use metric::{Covariance, Metric, energies, metrics};
pub use watcher::{Known, Taker, Watcher};
