//! Importance matrices in llama-imatrix's two layouts, GGUF and the legacy .dat: read, and written.

mod read;
mod write;

pub use read::Imatrix;
pub use write::{Entry, Layout, Origin, Writer};
