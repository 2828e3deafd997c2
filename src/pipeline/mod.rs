//! Stage 4, work: pieces of the checkpoint are read, quantized and written at their offsets, on all threads.

mod estimate;
mod run;
mod units;

pub use estimate::{Rate, rates};
pub use run::{Event, Listener, run};
pub use units::{Unit, units};
