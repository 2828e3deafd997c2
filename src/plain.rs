//! Untrusted text, made safe to print: names and strings from files cannot move the cursor, colour the terminal or
//! fake a line.

use std::fmt::Display;
use std::path::Path;

/// The text on one line, with control and invisible characters written out: a line break as `\n`, an escape as
/// `\u{1b}`.
pub fn plain(text: impl Display) -> String {
    escaped(&text.to_string(), "")
}

/// The same of a text whose lines are its own.
pub fn plain_lines(text: impl Display) -> String {
    escaped(&text.to_string(), "\n")
}

/// A path as text, for JSON and for names in messages: what is not UTF-8 in it becomes U+FFFD.
pub fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn escaped(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) && !kept.contains(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// Control characters, and those that turn, break or hide the text around them.
fn is_hidden(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_act_on_a_terminal_is_written_out() {
        assert_eq!(plain("a\npass: \x1b[32m\u{9b}2J\x7f"), "a\\npass: \\u{1b}[32m\\u{9b}2J\\u{7f}");
        assert_eq!(plain("abc\u{202e}fed\u{2028}"), "abc\\u{202e}fed\\u{2028}");
        assert_eq!(plain("größer, 例, \"C:\\x\" 🙂"), "größer, 例, \"C:\\x\" 🙂");
        assert_eq!(plain_lines("one\ntwo\r"), "one\ntwo\\r");
    }
}
