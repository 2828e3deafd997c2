//! `--override 'REGEX=TYPE'`: a type for the tensors whose name a pattern is found in, before any rule.

use std::fmt;
use std::str::FromStr;

use quant_kernels::Format;
use regex::Regex;

/// A name pattern and the type for what it matches.
#[derive(Clone, Debug)]
pub struct Override {
    /// Found anywhere in the GGUF name.
    pub pattern: Regex,
    /// The type.
    pub format: Format,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, format) =
            text.rsplit_once('=').ok_or("expected REGEX=TYPE, for example ffn_down_exps=q2_k")?;
        Ok(Self { pattern: super::pattern::pattern(pattern)?, format: super::format::format(format)? })
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.format)
    }
}
