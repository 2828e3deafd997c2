//! `--override 'REGEX=TYPE'`: a type for the tensors whose name a pattern is found in, before any rule.

use std::fmt;
use std::str::FromStr;

use regex::Regex;

use super::Wanted;

/// A name pattern and the type for what it matches.
#[derive(Clone, Debug)]
pub struct Override {
    /// Found anywhere in the GGUF name.
    pub pattern: Regex,
    /// The type; never open.
    pub wanted: Wanted,
}

impl Override {
    /// As the user gave it: copies come from `--keep`, or mean the same.
    pub fn option(&self) -> String {
        match self.wanted {
            Wanted::Copy => format!("--keep {}", self.pattern),
            _ => format!("--override {self}"),
        }
    }
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, format) =
            text.rsplit_once('=').ok_or("expected REGEX=TYPE, for example ffn_down_exps=q2_k")?;
        Ok(Self { pattern: super::pattern::pattern(pattern)?, wanted: Wanted::fixed(format)? })
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.wanted)
    }
}
