//! Hidden states as a file: the rows of all tokens in f32, little-endian, one after another; and its checksum.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::states::States;
use crate::disk::{self, Create, Replacement};
use crate::error::{Error, Result};
use crate::threads;

/// Tokens whose states are read at a time.
const BATCH: usize = 1024;

/// Bytes that have a checksum of their own, and that a thread writes or reads at a time.
const PART: usize = 1 << 20;

/// Size of a file, and XXH3 of the XXH3s of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    bytes: u64,
    xxh3_of_parts: u64,
}

impl Sum {
    /// That of the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is a link or no file.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let file = disk::open_own(path, Create::Never)?;
        let bytes = file.metadata()?.len();
        let parts = parts(bytes).into_par_iter().with_max_len(1).map(|part| {
            let mut read = vec![0; (part.end - part.start) as usize];
            disk::read_exact_at(&file, part.start, &mut read)?;
            Ok(XxHash3_64::oneshot(&read))
        });
        Ok(Self::of_parts(bytes, &parts.collect::<std::io::Result<Vec<u64>>>()?))
    }

    fn of_parts(bytes: u64, parts: &[u64]) -> Self {
        let parts: Vec<u8> = parts.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        Self { bytes, xxh3_of_parts: XxHash3_64::oneshot(&parts) }
    }
}

/// A file of so many bytes in parts.
fn parts(bytes: u64) -> Vec<Range<u64>> {
    (0..bytes).step_by(PART).map(|start| start..bytes.min(start + PART as u64)).collect()
}

/// Writes the states; the file has its name when it is whole.
///
/// # Errors
/// If the disk is full, say.
pub fn write(path: &Path, states: &States) -> Result<Sum> {
    let io = |e| Error::io("write", path, e);
    let replacement = Replacement::create(path).map_err(io)?;
    let bytes = (states.rows() * states.columns()) as u64 * 4;
    let sums = threads::try_map("keep states", parts(bytes), |part| {
        let values = states.values(part.start as usize / 4..part.end as usize / 4)?;
        let values: &[u8] = bytemuck::cast_slice(values.values());
        disk::write_all_at(replacement.file(), part.start, values).map_err(io)?;
        Ok(XxHash3_64::oneshot(values))
    })?;
    replacement.finish(true).map_err(io)?;
    Ok(Sum::of_parts(bytes, &sums))
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
