//! Messages on stderr while work goes on. That they cannot be written (a closed terminal, a reader that has gone, a
//! full disk) neither ends the work nor changes its exit code.

use std::fmt::Display;
#[cfg(feature = "cli")]
use std::io::IsTerminal;
use std::io::{self, Write};
#[cfg(feature = "cli")]
use std::sync::LazyLock;

#[cfg(feature = "cli")]
use indicatif::{MultiProgress, ProgressBar};
#[cfg(feature = "cli")]
use tracing_subscriber::filter::LevelFilter;

use crate::plain::plain_lines;

/// Bars at the bottom of the terminal, which messages are written above.
#[cfg(feature = "cli")]
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Shows a bar until it is finished.
#[cfg(feature = "cli")]
pub fn show(bar: &ProgressBar) {
    BARS.add(bar.clone());
}

/// Writes what is above the bars.
fn above(write: impl FnOnce(&mut io::Stderr) -> io::Result<()>) -> io::Result<()> {
    let write = || write(&mut io::stderr());
    #[cfg(feature = "cli")]
    return BARS.suspend(write);
    #[cfg(not(feature = "cli"))]
    write()
}

/// Stderr above the bars, for lines of `tracing`.
#[cfg(feature = "cli")]
struct Above;

#[cfg(feature = "cli")]
impl Write for Above {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        above(|stderr| stderr.write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

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
        .with_writer(|| Above)
        .with_max_level(level);
    lines.with_timer(tracing_subscriber::fmt::time::uptime()).init();
}

/// Says a line, or several. Names in it cannot act on the terminal.
pub fn say(text: impl Display) {
    let _ = above(|stderr| writeln!(stderr, "{}", plain_lines(text)));
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
