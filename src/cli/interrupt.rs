//! Ctrl-C, and the SIGTERM and SIGHUP of job schedulers and closed terminals: the first asks the work to stop, the
//! second ends the program at once, which loses no more than a power failure. Signals that were ignored when the
//! program began stay ignored: nohup, and a shell that puts a job into the background, mean just that.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use signal_hook::flag::{register, register_conditional_shutdown};

use crate::error::Error;

#[cfg(unix)]
const SIGNALS: [i32; 3] =
    [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let stop = Arc::new(AtomicBool::new(false));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for signal in SIGNALS.into_iter().filter(|&signal| !is_ignored(signal, &status)) {
        // In this order: at the first signal the flag is not set yet, and is set. A signal that cannot be handled
        // ends the program, as usual.
        let _ = register_conditional_shutdown(signal, Error::Interrupted.exit_code().into(), stop.clone());
        let _ = register(signal, stop.clone());
    }
    stop
});

/// A flag that becomes true when the user wants to stop.
pub fn flag() -> &'static AtomicBool {
    &STOP
}

/// Whether the signal is ignored, according to Linux's /proc; other systems need unsafe calls for that.
fn is_ignored(signal: i32, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        // Signal 1 is the lowest bit.
        let status = "Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000004001\n";
        assert!(is_ignored(1, status) && is_ignored(15, status));
        assert!(!is_ignored(2, status) && !is_ignored(1, "") && !is_ignored(1, "SigIgn:\tx\n"));
    }
}
