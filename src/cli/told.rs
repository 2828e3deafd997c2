//! Errors as the command line tells them: what the library says, and the options that help.

use crate::error::{Error, once_mended};
use crate::plain::plain;

/// The error with its causes on one line, and what can be done.
pub fn told(error: &Error) -> String {
    match error {
        Error::Unfinished { cause, percent, output } => format!(
            "{}; {percent} % of the work is done and kept beside {}: {}the same command goes on from there, --restart begins \
             anew",
            told(cause),
            plain(output.display()),
            once_mended(cause)
        ),
        Error::Memory { given, needed } => {
            format!("--memory is {given} bytes; the largest pieces of this model need {needed}")
        }
        error => error.chain() + advice(error),
    }
}

/// The option that helps, if there is one.
fn advice(error: &Error) -> &'static str {
    match error {
        Error::Resume { .. } => "; --restart begins anew",
        Error::Exists(_) => "; --force replaces it",
        Error::Remake { .. } => "; --force makes it anew",
        Error::Requantize(_) => "; --allow-requantize does it all the same",
        Error::Strict(_) => " (--strict)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Warning;

    #[test]
    fn options_stand_behind_what_they_help_against() {
        let there = || Error::Exists("a.gguf".into());
        assert_eq!(told(&there()), "a.gguf is there already; --force replaces it");
        let strict = Error::Strict(Warning::new(Error::file("a", "zeros")));
        let unfinished = Error::Unfinished { cause: Box::new(strict), percent: 7, output: "b.gguf".into() };
        assert_eq!(
            told(&unfinished),
            "a: zeros (--strict); 7 % of the work is done and kept beside b.gguf: when that is mended, the same command goes on \
             from there, --restart begins anew"
        );
        // The library knows no options.
        assert!(!there().chain().contains("--") && !unfinished.chain().contains("--"));
        let memory = Error::Memory { given: 12, needed: 13 };
        assert_eq!(told(&memory), "--memory is 12 bytes; the largest pieces of this model need 13");
    }

    #[test]
    fn causes_follow() {
        let error = Error::io("read", "a", std::io::Error::other("no"));
        assert_eq!(told(&error), "cannot read a: no");
    }
}
