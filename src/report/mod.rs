//! At the side, listen: what was decided and how the work goes, for people and for programs.

mod html;
mod machine;
mod memory;
pub mod subject;
mod summary;
mod terminal;
mod time;
mod warnings;

pub use crate::size::{Size, grouped};
pub use html::page;
pub use memory::peak_memory;
pub use summary::{Estimate, Fallback, Group, PlannedFile, Resident, Summary, fallbacks};
pub use terminal::Sketch;
pub use time::{Time, about};
