//! Real llama.cpp: a Python environment of pinned wheels under `target/`, made on first use.

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
    let python = match PYTHON.get_or_init(environment) {
        Ok(python) => python,
        Err(reason) => {
            assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, but {reason}");
            let first = reason.lines().next().unwrap_or_default();
            skip(&format!("real llama.cpp is not to be had ({first})"));
            return None;
        }
    };
    // One at a time: llama.cpp's threads wait actively and would starve each other.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(python).arg(support(name)).args(arguments).output().expect("python starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {}\n{stderr}", output.status);
    let stdout = String::from_utf8_lossy(&output.stdout);
    Some(serde_json::from_str(stdout.trim()).unwrap_or_else(|e| panic!("{name} said {stdout}: {e}")))
}

/// The environment's interpreter; installs what `requirements.txt` pins unless that was done before.
fn environment() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let requirements = fs::read_to_string(support("requirements.txt")).expect("requirements.txt is there");
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|text| text == requirements) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "-r"])
        .arg(support("requirements.txt")))?;
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
