//! What a shell and a manual reader know of the program, made from the same structs that parse its arguments.

use std::io;
use std::path::PathBuf;
use std::sync::LazyLock;

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};
use fearless_simd::Level;

use super::{Cli, print, print_block};
use crate::error::Error;

/// Print what a shell needs to complete commands and options
///
/// For bash: quantpress completions bash > ~/.local/share/bash-completion/completions/quantpress
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn run(self) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "quantpress", &mut script);
        print_block(String::from_utf8(script)?)
    }
}

/// Write manual pages, one for each command, into a folder that is there
///
/// They are replaced if they are there: they are of this program alone.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder, as ~/.local/share/man/man1
    folder: PathBuf,
}

impl Man {
    /// Writes the pages.
    pub fn run(self) -> Result<()> {
        let folder = &self.folder;
        if !folder.is_dir() {
            let absent = io::Error::new(io::ErrorKind::NotFound, "there is no such folder");
            return Err(Error::io("write to", folder, absent).into());
        }
        clap_mangen::generate_to(Cli::command(), folder).map_err(|e| Error::io("write to", folder, e))?;
        print(format_args!("man pages are in {}", crate::plain::path(folder)))
    }
}

/// Version, commit, and what this build does on this processor.
pub fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(described);
    &TEXT
}

fn described() -> String {
    let level = format!("{:?}", Level::new());
    let level: String = level.chars().take_while(|c| c.is_alphanumeric()).collect();
    let commit = option_env!("QUANTPRESS_COMMIT").unwrap_or("not known");
    let remote = if cfg!(feature = "remote") { "hf://, s3://, https://" } else { "none" };
    format!(
        "{}\ncommit: {commit}\ninstructions: {level}\nremote checkpoints: {remote}",
        env!("CARGO_PKG_VERSION")
    )
}
