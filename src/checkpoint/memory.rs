//! A checkpoint whose files are bytes in memory: for callers that have them there, and for fuzzing.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::Source;

/// Files by name.
#[derive(Clone, Debug, Default)]
pub struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    /// Adds a file, or replaces it.
    pub fn insert(&mut self, file: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.insert(file.into(), bytes.into());
    }

    /// Takes a file away.
    pub fn remove(&mut self, file: &str) {
        self.0.remove(file);
    }

    fn bytes(&self, file: &str) -> io::Result<&[u8]> {
        self.0.get(file).map(Vec::as_slice).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Source for Memory {
    fn size(&self, file: &str) -> io::Result<u64> {
        self.bytes(file).map(|bytes| bytes.len() as u64)
    }

    fn read_at(&self, file: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes(file)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(buffer.len());
        buffer.copy_from_slice(bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn files(&self, folder: &str) -> io::Result<Vec<String>> {
        let inside = |name: &str| match folder {
            "" => Some(name.to_owned()),
            folder => name.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned),
        };
        Ok(self.0.keys().filter_map(|name| inside(name)).filter(|name| !name.contains('/')).collect())
    }

    fn path(&self, file: &str) -> PathBuf {
        file.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_at_positions_and_end_where_they_end() {
        let mut memory = Memory::default();
        memory.insert("a", *b"0123456789");
        let mut buffer = [0; 4];
        memory.read_at("a", 6, &mut buffer).expect("inside");
        assert_eq!(&buffer, b"6789");
        let kind = |result: io::Result<()>| result.expect_err("outside").kind();
        assert_eq!(kind(memory.read_at("a", 7, &mut buffer)), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(memory.read_at("a", u64::MAX, &mut buffer)), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(memory.size("b").map(drop)), io::ErrorKind::NotFound);
    }
}
