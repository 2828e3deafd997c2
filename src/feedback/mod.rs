//! Work with error feedback (GPTQ, LDLQ): layer by layer, each matrix on the inputs that the layers before it, already
//! quantized, really give it.
//!
//! What rounding one weight costs the layer's output depends on the covariance H of its inputs. Going through a row
//! from left to right, the error made so far is taken up by the weights that are still to be rounded:
//! `quant_kernels::feed` does so inside of a block, and `covariance` from step to step of 256 columns.

mod enough;
mod ledger;
mod press;
mod quantized;
mod run;
mod stretches;
mod textless;
mod walk;
mod written;

pub use enough::{TOKENS_PER_COLUMN, widest_input};
pub use run::{Feedback, Step};
pub use stretches::starts;
pub use textless::Textless;
