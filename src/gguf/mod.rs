//! The GGUF container, version 3: metadata, offsets computed before any data, and reading back.
//!
//! A format, as `quant_kernels` is: it knows nothing of models or checkpoints.

mod contents;
mod layout;
mod metadata;
mod output;
mod split;

pub use contents::{Contents, Entry};
pub use layout::{ALIGNMENT, Layout, TensorInfo};
pub use metadata::{Metadata, Value};
pub use output::{Output, beside};
pub use split::{File, MAX_FILES, Split};
