//! The mark: the first bytes of an unfinished file until it is sealed. It says which work and run the file is of. The
//! journal has the same, so that neither is ever taken for another run's, whatever their names.
//!
//! ```text
//! "quantpress part\n"   file: u32   digest of the work: 32 bytes   number of the run: 16 bytes   checksum: 8 bytes
//! ```
//!
//! The file is the place in the split. The checksum is the XXH3 of all before it.

use std::fs::{self, File};
use std::path::Path;

use twox_hash::XxHash3_64;

use crate::disk::{self, Create};

const MAGIC: &[u8; 16] = b"quantpress part\n";

/// Bytes of a mark; the header of any GGUF file has more.
pub const BYTES: usize = 76;

/// The first bytes of an unfinished file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub [u8; BYTES]);

/// Which run an unfinished file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This run's.
    This,
    /// Another run's, of the same work or other work.
    Other,
    /// Nothing is there: the file is new, or its beginning was lost.
    Nobody,
    /// It has no mark: it is sealed, damaged, or no such file.
    Unmarked,
}

impl Mark {
    /// The mark of a file of a run.
    pub fn new(work: &[u8; 32], run: &[u8; 16], file: usize) -> Self {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..20].copy_from_slice(&(file as u32).to_le_bytes());
        bytes[20..52].copy_from_slice(work);
        bytes[52..68].copy_from_slice(run);
        let checksum = XxHash3_64::oneshot(&bytes[..68]);
        bytes[68..].copy_from_slice(&checksum.to_le_bytes());
        Self(bytes)
    }

    /// The owner of a file that begins with these bytes.
    pub fn owner(&self, found: &[u8]) -> Owner {
        match found.first_chunk::<BYTES>() {
            _ if found.iter().all(|&byte| byte == 0) => Owner::Nobody,
            Some(found) if *found == self.0 => Owner::This,
            Some(found) if is_mark(found) => Owner::Other,
            _ => Owner::Unmarked,
        }
    }
}

/// Whether the bytes are a mark, whose ever.
fn is_mark(found: &[u8; BYTES]) -> bool {
    found.starts_with(MAGIC) && XxHash3_64::oneshot(&found[..68]).to_le_bytes() == found[68..]
}

/// The number of the run that an unfinished file is of, if it has a mark.
pub fn run_of(file: &File) -> Option<[u8; 16]> {
    let mut found = [0; BYTES];
    disk::read_exact_at(file, 0, &mut found).ok()?;
    is_mark(&found).then(|| *found[52..].first_chunk().expect("16 bytes"))
}

/// Removes an unfinished file, if it is of that run and no process is at it. What cannot be removed stays.
pub fn remove_of(path: &Path, run: &[u8; 16]) {
    if let Ok(file) = disk::open_own(path, Create::Never)
        && run_of(&file).is_some_and(|found| found == *run)
        && matches!(disk::lock(&file), Ok(true))
        && disk::is_at(&file, path)
    {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_of_one_run_alone() {
        let mark = Mark::new(&[1; 32], &[2; 16], 3);
        assert_eq!(mark.owner(&mark.0), Owner::This);
        for other in [
            Mark::new(&[9; 32], &[2; 16], 3),
            Mark::new(&[1; 32], &[9; 16], 3),
            Mark::new(&[1; 32], &[2; 16], 4),
        ] {
            assert_eq!(mark.owner(&other.0), Owner::Other);
        }
        assert_eq!(mark.owner(&[]), Owner::Nobody);
        assert_eq!(mark.owner(&[0; BYTES]), Owner::Nobody);
        assert_eq!(mark.owner(&[b"GGUF\x03\0\0\0".as_slice(), &[7; 100]].concat()[..BYTES]), Owner::Unmarked);
        let mut damaged = mark.0;
        damaged[30] ^= 1;
        assert_eq!(mark.owner(&damaged), Owner::Unmarked);
        assert_eq!(mark.owner(&mark.0[..40]), Owner::Unmarked);
    }
}
