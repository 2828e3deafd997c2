//! Real llama.cpp, and a server of S3: Python environments of pinned wheels under `target/`, made on first use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value;

use super::skipped::skip;

/// Set by CI: an environment that cannot be made is then a failure and not a reason to skip.
const REQUIRED: &str = "QUANTPRESS_REQUIRE_LLAMA";

/// Runs a command of `llama.py`. None, which the summary says, where the wheels cannot be installed.
pub fn llama(arguments: &[&str]) -> Option<Value> {
    script("llama.py", arguments)
}

/// The JSON that a script of this folder prints, in the environment of the wheels; None as above.
pub fn script(name: &str, arguments: &[&str]) -> Option<Value> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| environment("python", "requirements.txt"));
    let python = there(python, "real llama.cpp")?;
    // One at a time: llama.cpp's threads wait actively and would starve each other.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(python).arg(support(name)).args(arguments).output().expect("python starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {}\n{stderr}", output.status);
    let stdout = String::from_utf8_lossy(&output.stdout);
    Some(serde_json::from_str(stdout.trim()).unwrap_or_else(|e| panic!("{name} said {stdout}: {e}")))
}

/// The interpreter that has moto, which speaks S3; None as above.
pub fn moto() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    there(PYTHON.get_or_init(|| environment("moto", "requirements-s3.txt")), "moto's S3")
}

/// An environment's interpreter, or what the summary says.
fn there<'a>(python: &'a Result<PathBuf, String>, what: &str) -> Option<&'a Path> {
    match python {
        Ok(python) => Some(python),
        Err(reason) => {
            assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, but {reason}");
            let first = reason.lines().next().unwrap_or_default();
            skip(&format!("{what} is not to be had ({first})"));
            None
        }
    }
}

/// An environment's interpreter; installs what the requirements pin unless that was done before.
fn environment(name: &str, requirements: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let listed = support(requirements);
    let requirements = fs::read_to_string(&listed).expect("the requirements are there");
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|text| text == requirements) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&listed))?;
    fs::write(&installed, requirements).map_err(|e| e.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?} failed: {}", stderr.trim())) }
}

fn support(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(file)
}
