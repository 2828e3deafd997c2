//! Beside the road, compute: the model's forward pass, a layer at a time, with one block of weights in memory.
//!
//! ```text
//! tokens -> Pass: states -> attention, FFN of layer 0 -> ... -> Head: logits
//!              Weights (checkpoint or GGUF)    Observer (the inputs of every matrix)
//! ```
//!
//! Names of tensors are GGUF's, so that one pass serves a checkpoint and any file made of it. Results do not depend on
//! the number of threads or on the memory allowed: work is split by sizes of the model and the text alone, and what one
//! piece adds up, one thread adds up in order.

mod attention;
mod exp;
mod experts;
mod ffn;
mod head;
mod norm;
mod pass;
mod rope;
mod router;
mod saved;
mod shape;
mod states;
mod weights;

use dense_kernels::{Accum, Dense, View, product};

pub use head::Head;
pub use pass::{Ignore, Input, Observer, Pass};
pub use saved::{MANIFEST, Saved};
pub use shape::Shape;
pub use states::States;
pub use weights::{FromCheckpoint, FromGguf, Weights};

/// What a layer with these weights, a row for each output, makes of rows of inputs.
pub fn apply(weights: &Dense, inputs: View<'_>) -> Dense {
    let mut out = Dense::zeros(inputs.rows(), weights.rows());
    product(out.view_mut(), Accum::Replace, inputs, weights.view().transposed());
    out
}
