//! Reports for people and for programs: what was decided, how the work goes, what came out. Nothing depends on it.

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
