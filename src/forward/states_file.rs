//! Hidden states as a file: the rows of all tokens in f32, little-endian, one after another; and its checksum.

use std::fs::File;
use std::hash::Hasher;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::states::States;
use crate::disk::{self, Create, Replacement};
use crate::error::{Error, Result};
use crate::threads;

/// Tokens whose states are copied at a time.
const BATCH: usize = 256;

/// Bytes that are read at a time for checksums.
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
pub fn write(path: &Path, states: &mut States) -> Result<Sum> {
    let io = |e| Error::io("write", path, e);
    let states = &*states;
    let replacement = Replacement::create(path).map_err(io)?;
    let rows = |&start: &usize| states.read(start..states.rows().min(start + BATCH));
    let starts: Vec<usize> = (0..states.rows()).step_by(BATCH).collect();
    // The checksum goes from the first to the last, the parts of the file in any order.
    let sum = || -> Result<Sum> {
        let (mut digest, mut bytes) = (XxHash3_64::new(), 0);
        for start in &starts {
            let rows = rows(start)?;
            let rows: &[u8] = bytemuck::cast_slice(rows.values());
            digest.write(rows);
            bytes += rows.len() as u64;
        }
        Ok(Sum { bytes, xxh3: digest.finish() })
    };
    let file = || {
        threads::try_map("write states", &starts, |start| {
            let place = (start * states.columns() * size_of::<f32>()) as u64;
            disk::write_all_at(replacement.file(), place, bytemuck::cast_slice(rows(start)?.values()))
                .map_err(io)
        })
    };
    let (sum, written) = threads::both("keep states", sum, file);
    written?;
    replacement.finish(true).map_err(io)?;
    sum
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
