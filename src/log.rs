//! Messages on stderr while work goes on. That they cannot be written (a closed terminal, a reader that has gone, a
//! full disk) neither ends the work nor changes its exit code.

use std::fmt::Display;
#[cfg(feature = "cli")]
use std::io::IsTerminal;
use std::io::{self, Write};

#[cfg(feature = "cli")]
use tracing_subscriber::filter::LevelFilter;

use crate::plain::plain_lines;

/// From now on stderr also has what the modules say of their work (`tracing`): how it is decided and how far it comes
/// if `verbose` is 1, every request and every piece if it is more, nothing if it is 0.
#[cfg(feature = "cli")]
pub fn listen(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt()
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .with_max_level(level);
    lines.with_timer(tracing_subscriber::fmt::time::uptime()).init();
}

/// Says a line, or several. Names in it cannot act on the terminal.
pub fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", plain_lines(text));
}

/// Says what begins now and may take minutes: to somebody who watches.
#[cfg(feature = "cli")]
pub fn begin(text: impl Display) {
    if io::stderr().is_terminal() {
        say(text);
    }
}

/// Says a warning.
pub fn warn(text: impl Display) {
    say(format_args!("warning: {text}"));
}
