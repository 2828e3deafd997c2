//! Named moments of a run at which a test can have the program killed or stopped, so that no test depends on the
//! clock. Only in builds with debug assertions.

/// The variable that names the moment: `NAME:COUNT:ACTION`, as `recorded:3:kill`. The action happens when the moment
/// is passed for the COUNT-th time: `kill` is SIGKILL, `stop` is SIGSTOP, after which the test does what it wants and
/// sends SIGCONT.
pub const VARIABLE: &str = "QUANTPRESS_AT";

/// Passes a moment.
#[inline]
pub fn pass(name: &str) {
    #[cfg(all(debug_assertions, unix))]
    hook::pass(name);
    #[cfg(not(all(debug_assertions, unix)))]
    let _ = name;
}

#[cfg(all(debug_assertions, unix))]
mod hook {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    struct Wanted {
        name: String,
        count: u64,
        signal: Signal,
        passed: AtomicU64,
    }

    pub fn pass(name: &str) {
        static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
        let Some(wanted) = WANTED.get_or_init(wanted).as_ref().filter(|wanted| wanted.name == name) else {
            return;
        };
        if wanted.passed.fetch_add(1, Ordering::SeqCst) + 1 == wanted.count {
            kill_process(getpid(), wanted.signal).expect("a process may signal itself");
        }
    }

    fn wanted() -> Option<Wanted> {
        let text = std::env::var(super::VARIABLE).ok()?;
        let mut fields = text.split(':');
        let mut field = || fields.next().expect("NAME:COUNT:ACTION");
        let (name, count) = (field().to_owned(), field().parse().expect("a number"));
        let signal = match field() {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            other => panic!("{other} is neither kill nor stop"),
        };
        Some(Wanted { name, count, signal, passed: AtomicU64::new(0) })
    }
}
