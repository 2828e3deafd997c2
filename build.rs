//! Of which commit the program is, for `--version`: QUANTPRESS_COMMIT if the environment has it, else what cargo wrote into a
//! published package, else what git says of a copy of the repository. The last only in release builds, since every commit
//! makes the crate be compiled again.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=QUANTPRESS_COMMIT");
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let given = env::var("QUANTPRESS_COMMIT").ok().filter(|commit| !commit.is_empty());
    if let Some(commit) = given.or_else(|| of_package(&folder)).or_else(|| of_repository(&folder)) {
        println!("cargo:rustc-env=QUANTPRESS_COMMIT={commit}");
    }
}

/// What is in `.cargo_vcs_info.json`: {"git": {"sha1": "..."}, ...}.
fn of_package(folder: &Path) -> Option<String> {
    let info = fs::read_to_string(folder.join(".cargo_vcs_info.json")).ok()?;
    let (_, after) = info.split_once("\"sha1\"")?;
    let commit = after.split('"').nth(1)?;
    Some(commit.to_owned()).filter(|commit| commit.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn of_repository(folder: &Path) -> Option<String> {
    if env::var("PROFILE").ok()? != "release" {
        return None;
    }
    let git = |arguments: &[&str]| {
        let run = Command::new("git").args(arguments).current_dir(folder).output().ok()?;
        let said = String::from_utf8(run.stdout).ok()?.trim().to_owned();
        Some(said).filter(|said| run.status.success() && !said.is_empty())
    };
    // The package may lie in a repository of something else.
    let top = fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()?;
    if top != fs::canonicalize(folder).ok()? {
        return None;
    }
    let log = folder.join(git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    if log.exists() {
        println!("cargo:rerun-if-changed={}", log.display());
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}
