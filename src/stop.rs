//! The flag by which work is asked to stop.

use std::sync::atomic::AtomicBool;

/// A flag that nobody raises: the work goes on to its end.
pub fn never() -> &'static AtomicBool {
    static NEVER: AtomicBool = AtomicBool::new(false);
    &NEVER
}
