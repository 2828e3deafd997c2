//! Ctrl-C, and the SIGTERM and SIGHUP of job schedulers and closed terminals: the first asks the work to stop, the
//! second ends the program at once, which loses no more than a power failure.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

static STOP: AtomicBool = AtomicBool::new(false);

/// A flag that becomes true when the user wants to stop.
pub fn flag() -> &'static AtomicBool {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(Error::Interrupted.exit_code()));
        }
    };
    // A handler is there already only if another command of this process set this same one.
    let _ = ctrlc::set_handler(handler);
    &STOP
}
