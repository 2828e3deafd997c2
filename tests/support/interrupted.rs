//! Runs of the program that end before their work does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Arguments of a run that is slow enough to be interrupted: one thread, a few pieces in memory, each of them made
/// durable and recorded at once.
pub const SLOWLY: [&str; 6] = ["--threads", "1", "--memory", "6MB", "--sync-seconds", "0"];

/// `path` with something after its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Starts the program.
pub fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantpress"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Bytes in a journal; 0 where there is none.
pub fn journal_bytes(output: &Path) -> u64 {
    beside(output, ".journal").metadata().map_or(0, |file| file.len())
}

/// Waits until the journal has `bytes` more than `before`. False if the program ended first.
pub fn wait_for(child: &mut Child, output: &Path, before: u64, bytes: u64) -> bool {
    let patience = Instant::now() + Duration::from_secs(120);
    while journal_bytes(output) < before + bytes {
        if child.try_wait().expect("it can be asked").is_some() {
            return false;
        }
        assert!(Instant::now() < patience, "the journal does not grow");
        sleep(Duration::from_millis(1));
    }
    true
}

/// Starts the program, waits until some pieces are recorded, and kills it.
pub fn kill_midway(arguments: &[&str], output: &Path) {
    let mut child = start(arguments);
    // The identity has about 1 KB, a record 48 bytes.
    assert!(wait_for(&mut child, output, 0, 3000), "it ended too soon: {:?}", child.wait_with_output());
    child.kill().expect("killed");
    child.wait().expect("ended");
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
    /// None, with a line that says so, where it cannot be mounted.
    pub fn mount(path: &Path, kib: u64) -> Option<Self> {
        fs::create_dir_all(path).expect("a folder");
        let disk = Self { path: path.to_owned() };
        let done = disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]);
        if !done {
            eprintln!("skipped, a small disk cannot be mounted here");
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
