//! Hugging Face checkpoints, and GGUF files, to mixed-precision GGUF files, in one streaming pass.
//!
//! A checkpoint is opened, its tensors are planned, a recipe chooses their types, and a job does the work. All is known to
//! the byte before a weight is read:
//!
//! ```
//! use std::path::Path;
//! use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
//!
//! use quantpress::{
//!     Checkpoint, Event, Fingerprint, Importances, Job, Model, Options, Plan, Recipe, Wishes, run, verify,
//! };
//! use quantpress::progress::UNTOLD;
//!
//! fn convert(folder: &Path, output: &Path) -> quantpress::Result<()> {
//!     // Headers, config.json, tokenizer: what the file will consist of.
//!     let checkpoint = Checkpoint::open_path(folder)?;
//!     let model = Model::plan(&checkpoint, &Options::default())?;
//!
//!     // A preset, or a TOML file of your own, gives every tensor a type.
//!     let recipe = Recipe::load("q4_k_m")?;
//!     let plan = Plan::new(model, Fingerprint::of(&checkpoint)?, Wishes::new(&recipe))?;
//!     println!("{} bytes, {:.2} bits per weight", plan.file_bytes(), plan.bits_per_weight());
//!
//!     // No importance matrix here: the gains of the norms say which columns count.
//!     let importances = Importances::prepare(&checkpoint, &plan.model, &plan.choices, None)?;
//!     let done = AtomicU64::new(0);
//!     let listener = |event: Event<'_>| {
//!         if let Event::Written { weights, .. } = event {
//!             done.fetch_add(weights, Ordering::Relaxed);
//!         }
//!     };
//!     let job = Job { listener: &listener, ..Job::new(&checkpoint, &plan, &importances, output) };
//!     let made = run(&job)?;
//!     assert_eq!((made.bytes, done.load(Ordering::Relaxed)), (plan.file_bytes(), plan.model.weights()));
//!
//!     // Structure, scales, and the hashes of the manifest beside it.
//!     let checked = verify::check(output, job.threads, &AtomicBool::new(false), UNTOLD)?;
//!     assert!(checked.problems.is_empty());
//!     Ok(())
//! }
//! #
//! # let folder = tempfile::TempDir::new().expect("a temporary folder");
//! # let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-r1");
//! # convert(&fixture, &folder.path().join("tiny-r1.gguf"))?;
//! # Ok::<(), quantpress::Error>(())
//! ```
//!
//! A size instead of types is [`Sizing::plan`], in place of [`Plan::new`]; error feedback on a [`Text`] is [`Feedback::run`],
//! in place of [`run`]. [`calibrate`] measures importances before, [`evaluate`] what quantization cost after.
//!
//! # How it is built
//!
//! Data moves one way, and the modules are listed in that order; nothing in an earlier one imports a later one:
//!
//! ```text
//! safetensors shards, GGUF -> Store -> Model -> Plan -> pieces of rows -> blocks -> GGUF -> Report
//!       checkpoint/           store/   model/  recipe/    pipeline/    quant_kernels       verify/
//! ```
//!
//! - **What is read**: [`checkpoint`] is a folder of safetensors or a GGUF file, [`store`] gives rows of its matrices.
//! - **What it is**: [`model`] describes a model once, as plain data; tensors, metadata and the forward pass follow.
//! - **What it becomes**: [`recipe`] chooses types by rules; a recipe may leave types open, for which `sensitivity`
//!   measures what each would cost, and [`sizing`] makes a plan of a size. `llama_quantize` has the rules of
//!   llama-quantize's file types. `machine` says what memory the file will need.
//! - **The work**: [`pipeline`] quantizes and records pieces and seals the file; [`feedback`] does so layer by layer with
//!   error feedback, by `covariance`. `quant_kernels` encodes blocks, `bench` measures it.
//! - **On a text**: `forward` takes a text through the model, with `dense_kernels`' products, for [`calibrate`]
//!   (importances) before the work, [`feedback`] at it and [`evaluate`] after it.
//! - **After it**: [`verify`] checks a file, `release` sends files to a hub or a bucket, `report` shows plans, progress and files, and the command line joins all
//!   into commands.
//!
//! [`gguf`], the container format, is beneath all of them. docs/architecture.md has the decisions, docs/glossary.md the
//! words.
//!
//! # Threads
//!
//! Functions that take a number of threads start their own; the others share their work out to rayon's current pool,
//! which [`threads::on`] makes. No result depends on the number.
//!
//! # Features
//!
//! `cli` (default) is the program, with the dependencies that only it has. A library wants `default-features = false`.

mod chance;
mod deviation;
mod disk;
#[doc(hidden)] // The tests name these moments.
pub mod moment;
mod nearest;
mod plain;
pub mod progress;
mod size;
mod stop;
mod zeros;

mod error;
mod identity;
mod limits;
mod log;
pub mod threads;
mod whole;

#[cfg(feature = "remote")]
mod http;

pub mod gguf;
mod llama_quantize;

pub mod checkpoint;
pub mod store;

pub mod model;
pub mod recipe;

pub mod machine;

#[doc(hidden)] // For the tests, which hold it against llama.cpp.
pub mod forward;

mod covariance;
pub mod sensitivity;
pub mod sizing;

pub mod calibrate;

pub mod bench;

pub mod pipeline;

pub mod feedback;

pub mod evaluate;
pub mod verify;

#[cfg(feature = "remote")]
pub mod release;

pub mod report;

#[cfg(feature = "cli")]
#[doc(hidden)] // For the program alone.
pub mod cli;

pub use checkpoint::{Checkpoint, Fingerprint};
pub use error::{Error, Result, Warning};
pub use feedback::Feedback;
pub use gguf::Split;
pub use model::{Model, Options, Text};
pub use pipeline::{Event, Job, Made, run};
pub use quant_kernels::Format;
pub use recipe::{Imatrix, Importances, Override, Plan, Recipe, Wishes};
pub use sizing::{SizedPlan, Sizing, Target};
pub use store::Store;
