//! Encoders and decoders for GGUF's block formats: rows of f32 weights in, blocks out, and back.
//!
//! The crate knows blocks and rows and no files. The same weights give the same bytes on every CPU.

mod format;

pub use format::{Format, UnknownFormat};
