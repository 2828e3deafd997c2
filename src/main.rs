//! Parses the command line, runs it, prints the chain of an error, and chooses the exit code.

use std::process::ExitCode;

use quantpress::Error;
use quantpress::cli::Cli;
use quantpress::{limits, log};

fn main() -> ExitCode {
    limits::raise_open_files();
    let cli = match Cli::of_arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let interrupted = cli.after_interruption();
    let Err(error) = cli.run() else { return ExitCode::SUCCESS };
    let blame = error.downcast_ref::<Error>();
    match blame {
        Some(Error::Interrupted) => log::say(format_args!("quantpress: interrupted; {interrupted}")),
        _ => log::say(format_args!("quantpress: {error:#}")),
    }
    ExitCode::from(blame.map_or(1, Error::exit_code))
}
