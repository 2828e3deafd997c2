//! Products and factors of matrices in f32: the same bits on every CPU and any number of threads.
//!
//! Libraries for this choose their kernels by the CPU, and sums then come out differently. Here every element of a
//! product is one chain of fused multiply-adds, a b first, then its neighbours in the order of the rows of b. Vectors
//! hold different elements and never parts of one sum, so a result depends neither on their width nor on the tiles
//! that threads work on. A graphics card makes the same chains ([`card`]).

pub mod card;
mod factor;
mod kernel;
mod matrix;
mod panels;
mod product;
mod room;
mod strips;

pub use factor::{NotPositive, upper_factor, upper_inverse};
pub use matrix::{Dense, Rows, View};
pub use panels::Panels;
pub use product::{Accum, gram, one_thread, product, with_panels};
pub use room::Reuse;
pub use strips::Strips;
