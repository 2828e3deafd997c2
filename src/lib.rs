//! Huge Hugging Face checkpoints to dynamic mixed-precision GGUF files, in one streaming pass.
//!
//! Data moves one way, and the modules are listed in that order; nothing in an earlier one imports a later one:
//!
//! ```text
//! safetensors shards -> Store -> Model -> Plan -> pieces of rows -> blocks -> GGUF -> Report
//!    checkpoint/        store/   model/  recipe/    pipeline/    quant_kernels       verify/
//! ```
//!
//! A recipe may leave types open; `sensitivity/` then measures what each would cost, and a budget decides.
//!
//! Beneath them is `gguf/`, the container format, as `quant_kernels` is the format of blocks. `forward/` takes
//! a text through the model's layers, with `dense_kernels`' products, for `calibrate/` before the work, `feedback/` at it and `evaluate/` after it.
//! `machine/` says what a plan needs of memory, `bench/` measures the kernels, `report/` listens to the pipeline's events at
//! the side, and `cli/` joins the stages into commands.

pub mod deviation;
pub mod disk;
pub mod moment;
pub mod nearest;
pub mod plain;
pub mod zeros;

pub mod error;
pub mod identity;
pub mod limits;
pub mod log;
pub mod whole;

pub mod gguf;
pub mod llama_quantize;

pub mod checkpoint;
pub mod store;

pub mod model;
pub mod recipe;

pub mod machine;

pub mod forward;

pub mod covariance;
pub mod sensitivity;

pub mod calibrate;

pub mod bench;

pub mod feedback;
pub mod pipeline;

pub mod evaluate;
pub mod verify;

pub mod report;

pub mod cli;

pub use error::{Error, Result, Warning};
