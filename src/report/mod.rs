//! Reports for people and for programs: what was decided, how the work goes, what came out. Nothing depends on it.

mod html;
mod machine;
mod memory;
pub mod subject;
mod summary;
mod terminal;
mod time;
mod warnings;
mod width;

pub use crate::size::{Size, counted, grouped};
pub use html::page;
pub use memory::peak_memory;
pub use summary::{Better, Estimate, Fallback, Group, PlannedFile, Resident, Summary, fallbacks};
pub use terminal::Sketch;
pub use time::{Time, about};
