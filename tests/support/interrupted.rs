//! Runs of the program that end before their work does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};
use std::thread::yield_now;

use quantpress::moment::VARIABLE;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
use tempfile::{NamedTempFile, TempPath};

use super::skipped::skip;
use super::text;

/// Arguments of a run that is slow enough to be interrupted: one thread, a few pieces in memory, each of them made
/// durable and recorded at once. (The fixture has some two hundred.)
pub const SLOWLY: [&str; 6] = ["--threads", "1", "--memory", "6MB", "--sync-seconds", "0"];

/// `path` with something after its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Programs that are started after this hear SIGINT, SIGTERM and SIGHUP, also where the tests were told not to: by nohup, or
/// by a shell that has them in the background. (What a process handles, its children do not ignore.)
pub fn hear_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let always = Arc::new(AtomicBool::new(true));
            register_conditional_shutdown(signal, 130, always).expect("a handler");
        }
    });
}

/// The program with these arguments.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantpress"));
    command.args(arguments);
    command
}

/// Starts the program, which does something at a moment.
fn start(mut command: Command, moment: String) -> Child {
    hear_signals();
    command.env(VARIABLE, moment).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// Runs the program until it passes a moment for the count-th time (src/moment.rs), where it is killed. False if it
/// ended before.
pub fn killed_at(arguments: &[&str], moment: &str, count: u64) -> bool {
    let child = start(program(arguments), format!("{moment}:{count}:kill"));
    child.wait_with_output().expect("ended").status.code().is_none()
}

/// Starts the program and waits until it stands still where it passes a moment for the count-th time.
#[track_caller]
pub fn stopped_at(arguments: &[&str], moment: &str, count: u64) -> Stopped {
    stopped_in(program(arguments), moment, count)
}

/// The same with a command that has more than arguments.
#[track_caller]
pub fn stopped_in(command: Command, moment: &str, count: u64) -> Stopped {
    let hold = NamedTempFile::new().expect("a temporary file").into_temp_path();
    let child = start(command, format!("{moment}:{count}:stop:{}", text(&hold)));
    let pid = Pid::from_child(&child);
    // Not taken away, so that the child can still be waited for.
    let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(pid), options).expect("a child").expect("it has changed its state");
    if !status.stopped() {
        panic!("it ended before {moment} {count}: {:?}", child.wait_with_output());
    }
    Stopped(child, hold)
}

/// A program that stands still in the midst of its work, and the file that keeps the thread there that was at the moment.
pub struct Stopped(pub Child, TempPath);

impl Stopped {
    /// Lets it go on.
    pub fn go_on(self) -> Child {
        signal(&self.0, "CONT");
        while is_pending(&self.0) {
            yield_now();
        }
        self.1.close().expect("removed");
        self.0
    }

    /// Lets it go on with a signal that it then has.
    pub fn go_on_with(self, name: &str) -> Child {
        signal(&self.0, name);
        self.go_on()
    }
}

/// Whether a signal has still to reach one of the program's threads. (Other systems than Linux do not tell.)
fn is_pending(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    mask.is_some_and(|mask| mask.trim().bytes().any(|digit| digit != b'0'))
}

/// Bytes in a journal; 0 where there is none.
pub fn journal_bytes(output: &Path) -> u64 {
    beside(output, ".journal").metadata().map_or(0, |file| file.len())
}

/// Runs the program, which works slowly, until forty pieces are recorded, and kills it.
pub fn kill_midway(arguments: &[&str], output: &Path) {
    assert!(killed_at(arguments, "recorded", 40), "it ended too soon");
    assert!(!output.exists() && beside(output, ".part").exists());
}

/// Sends a signal by name.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status();
    assert!(status.expect("kill starts").success());
}

/// A file system of its own size in memory, for those who may mount one.
pub struct SmallDisk {
    pub path: PathBuf,
}

impl SmallDisk {
    /// None, which the summary says, where it cannot be mounted.
    pub fn mount(path: &Path, kib: u64) -> Option<Self> {
        fs::create_dir_all(path).expect("a folder");
        let disk = Self { path: path.to_owned() };
        let done = disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]);
        if !done {
            skip("a small disk cannot be mounted");
        }
        done.then_some(disk)
    }

    pub fn resize(&self, kib: u64) {
        assert!(self.run("mount", &["-o", &format!("remount,size={kib}k")]));
    }

    fn run(&self, program: &str, arguments: &[&str]) -> bool {
        let command = Command::new(program).args(arguments).arg(&self.path).stderr(Stdio::null()).status();
        command.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.run("umount", &[]);
    }
}
