//! The command line: one struct and one file per subcommand. Arguments become plain data before the disk is touched.

mod bench;
mod calibrate;
mod device;
mod evaluate;
mod feedback;
mod inspect;
mod interrupt;
mod machine;
mod outputs;
mod plan;
mod planning;
mod progress;
mod quantize;
mod release;
mod remote;
mod report;
mod shell;
mod size;
mod sizing;
mod text;
mod threads;
mod tips;
mod told;
mod trace;
mod verify;

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::json;

use crate::error::Error;
use crate::{limits, log};
use told::told;

/// Huge Hugging Face checkpoints to dynamic mixed-precision GGUF files, in one streaming pass
#[derive(Debug, Parser)]
#[command(name = "quantpress", version, long_version = shell::version(), after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    /// Say on stderr what is decided and done; twice, every request and every piece too
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

/// The program: parses the command line, runs it, tells of an error, and chooses the exit code.
pub fn main() -> ExitCode {
    limits::raise_open_files();
    let (cli, json) = match Cli::of_arguments() {
        Ok(found) => found,
        Err(code) => return code,
    };
    log::listen(cli.verbose);
    let interrupted = cli.after_interruption();
    let Err(error) = cli.run() else { return ExitCode::SUCCESS };
    let blame = error.downcast_ref::<Error>();
    if json {
        // That stdout is closed is no error besides.
        let _ = print(event_of(&error, blame));
    }
    match blame {
        Some(Error::Interrupted) => log::say(format_args!("quantpress: interrupted; {interrupted}")),
        Some(error) => log::say(format_args!("quantpress: {}", told(error))),
        None => log::say(format_args!("quantpress: {error:#}")),
    }
    ExitCode::from(blame.map_or(1, Error::exit_code))
}

/// The version of what is printed as JSON: another one if a key that was there is gone or has another meaning.
const SCHEMA: u32 = 1;

/// An error as the last line of what is printed as JSON.
fn event_of(error: &anyhow::Error, blame: Option<&Error>) -> serde_json::Value {
    let mut event = json!({
        "event": "error",
        "schema": SCHEMA,
        "exit_code": blame.map_or(1, Error::exit_code),
        "message": blame.map_or_else(|| format!("{error:#}"), told),
    });
    if let Some((file, tensor)) = blame.and_then(Error::place) {
        event["file"] = file.into();
        event["tensor"] = tensor.into();
    }
    event
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the system refused (network, disk, permission, graphics card); 2 wrong arguments or recipe, too \
little --memory, an output that is there, or an unfinished file of other work; 3 a damaged checkpoint, importance matrix or GGUF file; 4 input that is not supported; \
130 interrupted, the same command goes on";

#[derive(Debug, Subcommand)]
enum Command {
    Quantize(Box<quantize::Quantize>),
    Plan(plan::Plan),
    Calibrate(calibrate::Calibrate),
    Evaluate(evaluate::Evaluate),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Report(report::Report),
    Bench(bench::Bench),
    Completions(shell::Completions),
    Man(shell::Man),
}

impl Cli {
    /// The command that the program's arguments ask for, and whether it prints JSON. What they ask for besides, help or the
    /// version, is printed.
    ///
    /// # Errors
    /// The exit code, if they ask for no command; what is wrong with them is said.
    fn of_arguments() -> Result<(Self, bool), ExitCode> {
        let parsed = Self::command().try_get_matches().and_then(|matches| {
            let command = matches.subcommand().map(|(_, arguments)| arguments);
            let json = command.and_then(|arguments| arguments.try_get_one::<bool>("json").ok().flatten());
            Ok((Self::from_arg_matches(&matches)?, json.is_some_and(|json| *json)))
        });
        let error = match parsed {
            Ok(found) => return Ok(found),
            Err(error) => tips::with_tip(error),
        };
        let printed = error.print().and_then(|()| io::stdout().flush());
        if error.use_stderr() {
            // That stderr is closed is no error.
            return Err(ExitCode::from(2));
        }
        match result(printed) {
            Ok(()) => Err(ExitCode::SUCCESS),
            Err(error) => {
                log::say(format_args!("quantpress: {:#}", anyhow::Error::new(error)));
                Err(ExitCode::from(1))
            }
        }
    }

    /// What is said to a user who has stopped the command.
    fn after_interruption(&self) -> &'static str {
        match self.command {
            // The errors of these say what was kept.
            Command::Quantize(_) | Command::Calibrate(_) => {
                "nothing was done that could be kept: the same command begins anew"
            }
            _ => "nothing is kept: the same command begins anew",
        }
    }

    /// Runs the subcommand.
    ///
    /// # Errors
    /// Whatever stopped it, as a chain of causes.
    fn run(self) -> Result<()> {
        let file = match &self.command {
            Command::Quantize(command) => command.trace(),
            Command::Calibrate(command) => command.trace(),
            Command::Evaluate(command) => command.trace(),
            _ => None,
        };
        let Some(file) = file.map(Path::to_owned) else { return self.command.run() };
        let done = work_trace::record(&file, || self.command.run());
        done.map_err(|e| Error::io("write", file, e))?
    }
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Self::Quantize(command) => command.run(),
            Self::Plan(command) => command.run(),
            Self::Calibrate(command) => command.run(),
            Self::Evaluate(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Report(command) => command.run(),
            Self::Bench(command) => command.run(),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }
    }
}

/// Writes a result to stdout. A reader that has closed the pipe is no error.
fn print(text: impl std::fmt::Display) -> Result<()> {
    Ok(result(writeln!(io::stdout(), "{text}"))?)
}

/// The result of writing to stdout.
fn result(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(e) if e.kind() != ErrorKind::BrokenPipe && !is_hung_up(&e) => {
            Err(Error::io("write to", "stdout", e))
        }
        _ => Ok(()),
    }
}

/// What a terminal says that was closed.
fn is_hung_up(error: &io::Error) -> bool {
    #[cfg(unix)]
    return error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    #[cfg(not(unix))]
    return error.kind() == ErrorKind::BrokenPipe;
}

/// Columns of the terminal that a stream goes to; without an end where it goes elsewhere.
fn columns(stream: &impl IsTerminal) -> usize {
    let terminal = stream.is_terminal().then(terminal_size::terminal_size).flatten();
    terminal.map_or(usize::MAX, |(width, _)| width.0.into())
}

/// A table or text that already ends its last line.
fn print_block(text: impl std::fmt::Display) -> Result<()> {
    print(text.to_string().trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_reader_that_is_gone_is_no_error_and_a_full_disk_is_one() {
        use rustix::io::Errno;
        let of = |errno: Errno| result(Err(io::Error::from_raw_os_error(errno.raw_os_error())));
        // A pipe's, and a terminal's.
        assert!(of(Errno::PIPE).is_ok() && of(Errno::IO).is_ok());
        let full = of(Errno::NOSPC).expect_err("a full disk");
        assert_eq!((full.to_string().as_str(), full.exit_code()), ("cannot write to stdout", 1));
    }
}
