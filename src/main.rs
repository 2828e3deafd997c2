//! Parses the command line, runs it, prints the chain of an error, and chooses the exit code.

use std::process::ExitCode;

use clap::Parser;
use quantpress::Error;
use quantpress::cli::Cli;
use quantpress::{limits, log};

fn main() -> ExitCode {
    limits::raise_open_files();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::say(format_args!("quantpress: {error:#}"));
            ExitCode::from(error.downcast_ref::<Error>().map_or(1, Error::exit_code))
        }
    }
}
