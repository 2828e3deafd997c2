//! Stage 4, work: pieces of the checkpoint are read, quantized and written at their offsets, within a limit of memory,
//! recorded when they are durable, and sealed at the end.

mod already;
mod budget;
mod damage;
mod done;
mod estimate;
mod flow;
mod journal;
mod layout;
mod manifest;
mod mark;
mod run;
mod seal;
mod session;
mod stages;
mod units;

pub use crate::deviation::Deviation;
pub use already::made_of;
pub use budget::{Budget, default_memory};
pub use done::{Done, checksum};
pub use estimate::{Rate, rates};
pub use run::{Event, Job, Listener, Made, Method, run, run_by};
pub use session::{Keeper, Session, file_name};
pub use stages::Stages;
pub use units::{Unit, Window, Work};
