//! Hidden states as a file: the rows of all tokens in f32, little-endian, one after another; and its checksum.

use std::fs::File;
use std::hash::Hasher;
use std::io::{BufReader, Read};
use std::path::Path;

use rayon::iter::IndexedParallelIterator;
use rayon::slice::ParallelSlice;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::states::States;
use crate::disk::{self, Create, Replacement};
use crate::error::{Error, Result};
use crate::threads;

/// Tokens whose states are copied at a time.
const BATCH: usize = 1024;

/// Bytes that are read at a time for checksums, and that a thread writes at a time.
const CHUNK: usize = 1 << 20;

/// Size and XXH3 of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    bytes: u64,
    xxh3: u64,
}

impl Sum {
    /// That of the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is a link or no file.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let file = disk::open_own(path, Create::Never)?;
        let (mut digest, mut chunk, mut bytes) = (XxHash3_64::new(), vec![0; CHUNK], 0);
        let mut file = &file;
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(Self { bytes, xxh3: digest.finish() }),
                n => {
                    digest.write(&chunk[..n]);
                    bytes += n as u64;
                }
            }
        }
    }
}

/// Writes the states; the file has its name when it is whole.
///
/// # Errors
/// If the disk is full, say.
pub fn write(path: &Path, states: &States) -> Result<Sum> {
    let io = |e| Error::io("write", path, e);
    let replacement = Replacement::create(path).map_err(io)?;
    let (mut digest, mut bytes) = (XxHash3_64::new(), 0);
    for start in (0..states.rows()).step_by(BATCH) {
        let rows = states.read(start..states.rows().min(start + BATCH))?;
        let rows: &[u8] = bytemuck::cast_slice(rows.values());
        let part = |(number, part): (usize, &[u8])| {
            disk::write_all_at(replacement.file(), bytes + (number * CHUNK) as u64, part).map_err(io)
        };
        let file = || threads::try_map("write states", rows.par_chunks(CHUNK).enumerate(), part);
        // One chain, beside the parts of the file, which come in any order.
        let ((), written) = threads::both("keep states", || digest.write(rows), file);
        written?;
        bytes += rows.len() as u64;
    }
    replacement.finish(true).map_err(io)?;
    Ok(Sum { bytes, xxh3: digest.finish() })
}

/// Reads them into `states`, which has as many.
///
/// # Errors
/// If the file is not whole.
pub fn read(path: &Path, states: &mut States) -> Result<()> {
    let io = |e| Error::io("read", path, e);
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let columns = states.columns();
    for start in (0..states.rows()).step_by(BATCH) {
        let rows = BATCH.min(states.rows() - start);
        let mut values = vec![0f32; rows * columns];
        file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(io)?;
        states.write(start, &values)?;
    }
    Ok(())
}
