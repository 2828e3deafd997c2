//! A hub of this machine, and the program that knows no other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::hub::Hub;
use super::{FAST, quantize_fixture, text};

/// The checkpoint that the hub has.
pub const ADDRESS: &str = "hf://tiny/R1";

/// A hub with a checkpoint, and a folder for what the program writes.
pub struct Bench {
    pub hub: Hub,
    pub folder: TempDir,
    _served: Option<TempDir>,
}

impl Bench {
    pub fn serving(checkpoint: &Path) -> Self {
        Self::of("tiny/R1", checkpoint)
    }

    /// A hub that has a folder as this repository.
    pub fn of(repository: &str, served: &Path) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        Self { hub: Hub::serving(repository, served), folder, _served: None }
    }

    /// Keeps the folder that the hub serves.
    pub fn keep(&mut self, served: TempDir) {
        self._served = Some(served);
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self) -> Command {
        self.knowing(Command::new(env!("CARGO_BIN_EXE_quantpress")))
    }

    /// A line for a shell.
    #[cfg(unix)]
    pub fn shell(&self, line: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-ec", line]);
        self.knowing(shell)
    }

    /// A command that knows this hub alone.
    fn knowing(&self, mut command: Command) -> Command {
        // Nothing of this machine's user.
        for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command
            .env("HF_ENDPOINT", &self.hub.endpoint)
            .env("HF_HOME", self.at("home"))
            .env("NO_PROXY", "127.0.0.1");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().expect("the program starts")
    }

    pub fn quantize(&self, name: &str, more: &[&str]) -> Vec<u8> {
        let output = self.at(name);
        succeeded(&self.run(&[&["quantize", ADDRESS, "-o", text(&output), "-r", FAST, "-q"], more].concat()));
        fs::read(output).expect("read")
    }

    pub fn expected(&self) -> Vec<u8> {
        fs::read(quantize_fixture(self.folder.path(), "expected.gguf", &["-r", FAST])).expect("read")
    }
}

#[track_caller]
pub fn succeeded(run: &Output) -> (String, String) {
    let [stdout, stderr] =
        [&run.stdout, &run.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(run.status.success(), "{:?}: {stderr}", run.status);
    (stdout, stderr)
}

#[track_caller]
pub fn failed(run: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(code), "{stderr}");
    words.iter().for_each(|word| assert!(stderr.contains(word), "\"{word}\" is not in: {stderr}"));
}
