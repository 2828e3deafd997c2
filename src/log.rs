//! Messages on stderr while work goes on. That they cannot be written (a closed terminal, a reader that has gone, a
//! full disk) neither ends the work nor changes its exit code.

use std::fmt::Display;
use std::io::{self, Write};

use crate::plain::plain_lines;

/// Says a line, or several. Names in it cannot act on the terminal.
pub fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", plain_lines(text));
}

/// Says a warning.
pub fn warn(text: impl Display) {
    say(format_args!("warning: {text}"));
}
