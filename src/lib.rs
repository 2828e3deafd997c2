//! Hugging Face checkpoints, and GGUF files, to mixed-precision GGUF files, in one streaming pass.
//!
//! Data moves one way, and the modules are listed in that order; nothing in an earlier one imports a later one (but
//! `feedback/`, which works in `pipeline/`'s session):
//!
//! ```text
//! safetensors shards, GGUF -> Store -> Model -> Plan -> pieces of rows -> blocks -> GGUF -> Report
//!       checkpoint/           store/   model/  recipe/    pipeline/    quant_kernels       verify/
//! ```
//!
//! - **What is read**: [`checkpoint`] is a folder of safetensors or a GGUF file, [`store`] gives rows of its matrices.
//! - **What it is**: [`model`] describes a model once, as plain data; tensors, metadata and the forward pass follow.
//! - **What it becomes**: [`recipe`] chooses types by rules, or by a size, for which [`sensitivity`] measures what each
//!   type would cost; [`llama_quantize`] has the rules of llama-quantize's file types. [`machine`] says what memory the
//!   file will need.
//! - **The work**: [`pipeline`] quantizes and records pieces and seals the file; [`feedback`] does so layer by layer with
//!   error feedback, by [`covariance`]. `quant_kernels` encodes blocks, [`bench`] measures it.
//! - **On a text**: [`forward`] takes a text through the model, with `dense_kernels`' products, for [`calibrate`]
//!   (importances) before the work, [`feedback`] at it and [`evaluate`] after it.
//! - **After it**: [`verify`] checks a file, [`report`] shows plans, progress and files, [`cli`] joins all into commands.
//!
//! [`gguf`], the container format, is beneath all of them. docs/architecture.md has the decisions, docs/glossary.md the
//! words.

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

pub mod pipeline;

pub mod feedback;

pub mod evaluate;
pub mod verify;

pub mod report;

pub mod cli;

pub use error::{Error, Result, Warning};
