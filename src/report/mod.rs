//! At the side, listen: what was decided and how the work goes, for people and for programs.

mod memory;
mod progress;
mod size;
mod summary;

pub use memory::peak_memory;
pub use progress::{Progress, Style};
pub use size::{Size, grouped};
pub use summary::{Estimate, Fallback, Group, PlannedFile, Resident, Summary, about};
