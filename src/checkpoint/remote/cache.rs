//! Blocks of remote files in a folder on this machine's disk, of bounded size: what is read twice (calibration, error
//! feedback, evaluation) comes over the network once, as far as there is room.
//!
//! ```text
//! block of a file  ->  FOLDER/sha256(place, file, version, range)      the block's bytes, then their SHA-256
//! ```
//!
//! A checkpoint is read from front to back, again and again. If it is larger than the room, whatever is dropped for
//! what comes next would be wanted first the next time; so blocks that this run has had stay, and others are dropped
//! for new ones, the one that was not used for longest first.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::checkpoint::hex;

/// Bytes of a digest.
const DIGEST: usize = 32;

/// Ends of the names of what is kept, and of nothing else in the folder.
const EXTENSION: &str = "block";

/// Shorter ranges (headers, norms, samples) are asked for anew: a file for each would cost more.
const LEAST: u64 = 128 << 10;

/// By this file programs for backups know a cache (bford.info/cachedir).
const TAG: (&str, &str) = (
    "CACHEDIR.TAG",
    "Signature: 8a477f597d28d172789f06886806bc55\n# Blocks of remote checkpoints, kept by quantpress --cache.\n",
);

/// A folder for blocks, and what is in it.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    room: Mutex<Room>,
    /// Whether the disk has refused a block; from then on none is written.
    refused: AtomicBool,
}

#[derive(Debug)]
struct Room {
    limit: u64,
    used: u64,
    /// What this run has not asked for, the one that was not used for longest last.
    idle: Vec<Kept>,
    /// What it has asked for.
    asked: HashSet<PathBuf>,
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// What a block is of.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// The repository, bucket or server.
    pub place: &'a str,
    pub file: &'a str,
    /// What tells this version of the file from others.
    pub version: &'a str,
}

impl Cache {
    /// A folder, made if there is none, for at most `limit` bytes.
    ///
    /// # Errors
    /// If it cannot be made, read, or written to.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(TAG.0), TAG.1)?;
        let mut idle = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // One that another program drops meanwhile is none.
            let Ok(metadata) = path.metadata() else { continue };
            if path.extension().is_some_and(|extension| extension == EXTENSION) && metadata.is_file() {
                idle.push(Kept { path, bytes: metadata.len(), used: metadata.modified()? });
            }
        }
        idle.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
        let used = idle.iter().map(|kept| kept.bytes).sum();
        let room = Mutex::new(Room { limit, used, idle, asked: HashSet::new() });
        Ok(Self { folder: folder.to_owned(), room, refused: AtomicBool::new(false) })
    }

    /// The bytes of a range in `room`, whose own bytes do not count: those that are kept, or what `fetch` gives, which is
    /// kept then.
    ///
    /// # Errors
    /// Those of `fetch`. A folder that cannot be read or written costs time, and no error.
    pub fn get(
        &self,
        of: Of<'_>,
        range: Range<u64>,
        room: Vec<u8>,
        fetch: impl FnOnce(Vec<u8>) -> io::Result<Vec<u8>>,
    ) -> io::Result<Vec<u8>> {
        if range.end - range.start < LEAST {
            return fetch(room);
        }
        let path = self.path(of, &range);
        let room = match read(&path, range.end - range.start, room) {
            Ok(bytes) => {
                self.room().is_used(&path);
                return Ok(bytes);
            }
            Err(room) => room,
        };
        let bytes = fetch(room)?;
        self.keep(&path, &bytes);
        Ok(bytes)
    }

    fn path(&self, Of { place, file, version }: Of<'_>, range: &Range<u64>) -> PathBuf {
        let mut name = Sha256::new();
        for part in [place, file, version, &format!("{}-{}", range.start, range.end)] {
            name.update((part.len() as u64).to_le_bytes());
            name.update(part);
        }
        self.folder.join(format!("{}.{EXTENSION}", hex(&name.finalize())))
    }

    fn room(&self) -> std::sync::MutexGuard<'_, Room> {
        self.room.lock().expect("no thread panics while it counts")
    }

    /// Writes a block, if there is room.
    fn keep(&self, path: &Path, bytes: &[u8]) {
        let all = (bytes.len() + DIGEST) as u64;
        if self.refused.load(Ordering::Relaxed) || !self.room().make_room(path, all) {
            return;
        }
        if let Err(error) = write(&self.folder, path, bytes) {
            self.room().used -= all;
            if !self.refused.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, folder = %self.folder.display(), "--cache: nothing more is kept");
            }
        }
    }
}

impl Room {
    /// A block was read: it stays for this run.
    fn is_used(&mut self, path: &Path) {
        if self.asked.insert(path.to_owned()) {
            self.idle.retain(|kept| kept.path != path);
        }
    }

    /// Takes so many bytes for a block, and drops others for it; false if there are none to drop.
    fn make_room(&mut self, path: &Path, bytes: u64) -> bool {
        // One that was damaged is written anew.
        self.idle.retain(|kept| {
            let is_other = kept.path != path;
            self.used -= if is_other { 0 } else { kept.bytes };
            is_other
        });
        while self.used + bytes > self.limit {
            let Some(kept) = self.idle.pop() else { return false };
            let _ = fs::remove_file(&kept.path);
            self.used -= kept.bytes;
        }
        self.used += bytes;
        self.asked.insert(path.to_owned());
        true
    }
}

/// The bytes of a block, if it is there and whole; otherwise `room` for them.
fn read(path: &Path, length: u64, mut room: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
    let Ok(mut file) = File::open(path) else { return Err(room) };
    room.clear();
    let is_read = file.read_to_end(&mut room).is_ok() && room.len() as u64 == length + DIGEST as u64;
    if is_read {
        let digest = room.split_off(length as usize);
        if *Sha256::digest(&room) == *digest {
            // So that the next run drops others first.
            let _ = file.set_modified(SystemTime::now());
            return Ok(room);
        }
    }
    Err(room)
}

/// The block appears under its name when it is whole.
fn write(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.write_all(&Sha256::digest(bytes))?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 1 << 20;

    fn of(version: &str) -> Of<'_> {
        Of { place: "hf://org/name@commit", file: "model.safetensors", version }
    }

    /// Reads some blocks; which of them were fetched.
    fn fetched(cache: &Cache, version: &str, blocks: Range<u64>) -> Vec<u64> {
        let mut fetched = Vec::new();
        for block in blocks {
            let range = block * BLOCK..(block + 1) * BLOCK;
            let expected = vec![block as u8; BLOCK as usize];
            let fetch = |_| {
                fetched.push(block);
                Ok(expected.clone())
            };
            assert_eq!(cache.get(of(version), range, vec![9; 7], fetch).expect("fetched"), expected);
        }
        fetched
    }

    fn bytes(folder: &Path) -> u64 {
        fs::read_dir(folder)
            .expect("a folder")
            .map(|e| e.expect("an entry").metadata().expect("a file").len())
            .sum()
    }

    #[test]
    fn what_has_room_is_fetched_once_and_what_has_none_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let limit = 4 * (BLOCK + DIGEST as u64);
        let cache = Cache::open(folder.path(), limit).expect("a cache");
        assert_eq!(fetched(&cache, "1", 0..6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(fetched(&cache, "1", 0..6), [4, 5], "the first stay, else none would serve again");
        let cache = Cache::open(folder.path(), limit).expect("a cache");
        assert_eq!(fetched(&cache, "1", 0..6), [4, 5], "in the next run as well");
        assert!(bytes(folder.path()) <= limit + TAG.1.len() as u64);
    }

    #[test]
    fn blocks_that_are_not_wanted_any_more_make_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let limit = 4 * (BLOCK + DIGEST as u64);
        let open = || Cache::open(folder.path(), limit).expect("a cache");
        assert_eq!(fetched(&open(), "1", 0..4).len(), 4);
        // Another version of the file.
        let cache = open();
        assert_eq!(fetched(&cache, "2", 0..3).len(), 3);
        assert_eq!(fetched(&cache, "2", 0..3).len(), 0);
        assert!(bytes(folder.path()) <= limit + TAG.1.len() as u64);
        // Its files are its own, and others stay.
        fs::write(folder.path().join("notes.txt"), "mine").expect("written");
        assert_eq!(fetched(&open(), "3", 0..4).len(), 4);
        assert!(folder.path().join("notes.txt").exists());
    }

    #[test]
    fn a_damaged_block_is_fetched_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Cache::open(folder.path(), 1 << 30).expect("a cache");
        assert_eq!(fetched(&open(), "1", 0..3), [0, 1, 2]);
        let path = open().path(of("1"), &(BLOCK..2 * BLOCK));
        let mut bytes = fs::read(&path).expect("kept");
        bytes[77] ^= 1;
        fs::write(&path, &bytes).expect("written");
        assert_eq!(fetched(&open(), "1", 0..3), [1]);
        bytes.truncate(1000);
        fs::write(&path, &bytes).expect("written");
        assert_eq!(fetched(&open(), "1", 0..3), [1]);
        assert!(fetched(&open(), "1", 0..3).is_empty());
        // What is short is not worth a file.
        let files = || fs::read_dir(folder.path()).expect("a folder").count();
        let before = files();
        open().get(of("1"), 0..100, Vec::new(), |_| Ok(vec![1; 100])).expect("fetched");
        assert_eq!(files(), before);
    }
}
