//! Patterns for tensor names, of rules and of `--override`.

use regex::{Regex, RegexBuilder};

/// Bytes that a compiled pattern may take.
const MAX_PATTERN: usize = 1 << 18;

/// Patterns that take every name on purpose.
const ALL: [&str; 3] = [".*", "^.*$", ".+"];

/// The pattern, compiled.
///
/// # Errors
/// If it is none, or found in every name without saying so: an empty one is a slip.
pub fn pattern(text: &str) -> Result<Regex, String> {
    let pattern = RegexBuilder::new(text).size_limit(MAX_PATTERN).build().map_err(|e| e.to_string())?;
    match pattern.is_match("") && !ALL.contains(&text) {
        true => {
            Err(format!("the pattern \"{text}\" is found in every name; write .* if all tensors are meant"))
        }
        false => Ok(pattern),
    }
}
