//! Named moments of a run at which a test can have the program killed or stopped, so that no test depends on the
//! clock. Only in builds with debug assertions.

/// The variable that names the moment: `NAME:COUNT:ACTION`, as `recorded:3:kill`. The action happens when the moment
/// is passed for the COUNT-th time: `kill` is SIGKILL, `stop:FILE` is SIGSTOP, after which the test does what it wants,
/// sends SIGCONT and removes the file. The thread that passes the moment waits for that: a stop reaches the threads of a
/// process one after the other, and so does a signal that the test has sent meanwhile.
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
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread::sleep;
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    struct Wanted {
        name: String,
        count: u64,
        signal: Signal,
        /// While it is there, the thread does not go on.
        hold: Option<PathBuf>,
        passed: AtomicU64,
    }

    pub fn pass(name: &str) {
        static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
        let Some(wanted) = WANTED.get_or_init(wanted).as_ref().filter(|wanted| wanted.name == name) else {
            return;
        };
        if wanted.passed.fetch_add(1, Ordering::SeqCst) + 1 == wanted.count {
            kill_process(getpid(), wanted.signal).expect("a process may signal itself");
            while wanted.hold.as_ref().is_some_and(|file| file.exists()) {
                sleep(Duration::from_millis(1));
            }
        }
    }

    fn wanted() -> Option<Wanted> {
        let text = std::env::var(super::VARIABLE).ok()?;
        let mut fields = text.splitn(4, ':');
        let mut field = || fields.next().expect("NAME:COUNT:ACTION");
        let (name, count) = (field().to_owned(), field().parse().expect("a number"));
        let signal = match field() {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            other => panic!("{other} is neither kill nor stop"),
        };
        let hold = fields.next().map(PathBuf::from);
        Some(Wanted { name, count, signal, hold, passed: AtomicU64::new(0) })
    }
}
