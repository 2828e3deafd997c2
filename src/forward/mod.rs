//! The forward pass of a whole text, a layer at a time, with one block of weights in memory. `calibrate`, `evaluate`
//! and feedback use it; what a layer computes is in [`model::layer`](crate::model::layer).
//!
//! ```text
//! tokens -> Pass: states -> attention, FFN of layer 0 -> ... -> Head: logits
//!              Weights (rows of any store)      Observer (the inputs of every matrix)
//! ```
//!
//! One pass serves a checkpoint and any file made of it. Results do not depend on the number of threads or on the
//! memory allowed: work is split by sizes of the model and the text alone, and what one piece adds up, one thread
//! adds up in order.

mod back;
mod gradients;
mod head;
mod milestones;
mod pass;
mod routed;
mod saved;
mod states;
mod states_file;

pub use back::Behind;
pub use gradients::{GradientFolder, Squares, Turned};
pub use head::Head;
pub use milestones::{Milestones, NOTE, file_name};
pub use pass::{InTurn, Pass};
pub use saved::{MANIFEST, Saved};
pub use states::States;

pub use crate::model::Weights;
pub use crate::model::layer::{Gradients, Ignore, Inputs, Observer, apply};
