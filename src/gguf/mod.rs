//! The GGUF container, version 3: metadata, offsets computed before any data, and reading back.
//!
//! A format, as blocks are in `quant_kernels`: nothing here depends on models or checkpoints.

mod contents;
mod layout;
mod manifest_place;
mod metadata;
mod output;
mod parts;
mod reader;
mod split;
mod value;

pub use contents::{Contents, Entry};
pub use layout::{ALIGNMENT, Layout, TensorInfo};
pub use manifest_place::ManifestPlace;
pub use metadata::Metadata;
pub use output::{Output, beside};
pub use parts::{Part, Parts};
pub use reader::MAX_HEADER;
pub use split::{File, MAX_FILES, Split};
pub use value::Value;
