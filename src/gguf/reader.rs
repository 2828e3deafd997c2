//! Reads the bytes of a header within bounds: no length or count is trusted before it is checked.

use std::io::{self, Read};

/// Longer headers are refused: R1's has 7 MB, nearly all of it the tokenizer, the largest vocabularies make 20.
pub const MAX_HEADER: u64 = 64 << 20;

/// Why a header cannot be read on.
#[derive(Debug)]
pub(super) enum Fault {
    /// It contradicts the format.
    Format(String),
    /// The system could not read it.
    Io(io::Error),
}

impl Fault {
    pub fn because(problem: impl Into<String>) -> Self {
        Self::Format(problem.into())
    }

    /// The same with what was being read.
    pub fn of(self, what: &str) -> Self {
        match self {
            Self::Format(problem) => Self::Format(format!("the header cannot be read: {what} {problem}")),
            Self::Io(e) => Self::Io(e),
        }
    }
}

/// A file from its start on.
pub(super) struct Header<'a> {
    input: &'a mut dyn Read,
    file_size: u64,
    at: u64,
}

impl<'a> Header<'a> {
    pub fn new(input: &'a mut dyn Read, file_size: u64) -> Self {
        Self { input, file_size, at: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that may still belong to the header.
    pub fn left(&self) -> u64 {
        self.file_size.min(MAX_HEADER) - self.at
    }

    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.claim(N as u64)?;
        self.input.read_exact(&mut bytes).map_err(Fault::Io)?;
        Ok(bytes)
    }

    pub fn take(&mut self, length: u64) -> Result<Vec<u8>, Fault> {
        self.claim(length)?;
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes).map_err(Fault::Io)?;
        Ok(bytes)
    }

    /// Counts bytes that are about to be read.
    fn claim(&mut self, length: u64) -> Result<(), Fault> {
        if length <= self.left() {
            self.at += length;
            return Ok(());
        }
        Err(Fault::because(if self.file_size <= MAX_HEADER {
            format!("has {length} bytes at byte {}, but the file ends at {}", self.at, self.file_size)
        } else {
            format!("has {length} bytes at byte {}: headers of up to {MAX_HEADER} bytes are read", self.at)
        }))
    }
}
