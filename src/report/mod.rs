//! At the side, listen: what was decided and how the work goes, for people and for programs.

mod html;
mod machine;
mod memory;
mod progress;
mod size;
pub mod subject;
mod summary;
mod terminal;
mod warnings;

pub use html::page;
pub use machine::Memory;
pub use memory::peak_memory;
pub use progress::{Progress, Style};
pub use size::{Size, grouped};
pub use summary::{Estimate, Fallback, Group, PlannedFile, Resident, Summary, about, fallbacks};
pub use terminal::Sketch;
