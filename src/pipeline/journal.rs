//! The journal of an unfinished file: which work it is of, and which units are done. A record is written after its
//! unit is durable, so every readable record is true; a torn or damaged one counts as not written.
//!
//! ```text
//! "quantpress journal 3\n"   number of the run: 16 bytes   bytes of the work: u32   work: JSON
//! SHA-256 of all before: 32 bytes
//! then records of 68 bytes:  number: u32   payload: 56 bytes   checksum: 8 bytes
//! ```
//!
//! The work is its identity, and the sizes and times of the checkpoint's shards when it began. The payload of a unit
//! is its record ([`Done`]). Numbers from the top down are those of files, whose payload is their SHA-256, written
//! before they get their final names. A later record of the same number takes the place of an earlier one. A checksum
//! is the first 8 bytes of the SHA-256 of the head's digest and the record, so records of another run are not taken
//! for this one's.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Done;
use crate::checkpoint::Seen;
use crate::disk::{self, Create};
use crate::error::{Error, Result};
use crate::identity::Identity;

const MAGIC: &[u8] = b"quantpress journal 3\n";

/// Bytes of a record.
const RECORD: usize = 4 + Done::BYTES + 8;

/// The most bytes that the identity of a work may have.
const MAX_WORK: u32 = 1 << 20;

/// The content of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// A unit is in the file.
    Unit(u32, Done),
    /// A file is whole and has this SHA-256.
    File(u16, [u8; 32]),
}

/// The work of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Work {
    identity: Identity,
    seen: Seen,
}

/// An open journal, locked against other processes.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// How the shards were when the work began.
    seen: Seen,
    /// The digest of the head.
    digest: [u8; 32],
    run: [u8; 16],
}

impl Journal {
    /// Opens the journal, or creates an empty one.
    ///
    /// # Errors
    /// If the folder is not there or not writable, what is there is no regular file, or another process has the
    /// journal.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io("create", path, e);
        loop {
            let file = disk::open_own(path, Create::Missing).map_err(io)?;
            if !disk::lock(&file).map_err(io)? {
                return Err(Error::Busy(path.with_extension("")));
            }
            // The process that had it may have finished meanwhile, and removed the name.
            if disk::is_at(&file, path) {
                return Ok(Self {
                    path: path.to_owned(),
                    file,
                    seen: Seen::default(),
                    digest: [0; 32],
                    run: [0; 16],
                });
            }
        }
    }

    /// Reads what an earlier run of the same work has done; None if none has begun.
    ///
    /// # Errors
    /// If the journal is of other work, saying what differs, or its head is damaged.
    pub fn resume(&mut self, identity: &Identity) -> Result<Option<Vec<Entry>>> {
        let io = |action| move |e| (action, e);
        let bytes = self.bytes()?;
        let fault = |problem| Error::Resume { journal: self.path.clone(), problem };
        let failed = |(action, e)| Error::io(action, &self.path, e);
        let Some(Head { work, run, bytes: length }) = read_head(&bytes).map_err(fault)? else {
            return Ok(None);
        };
        if let Some(problem) = work.identity.differences(identity) {
            return Err(fault(problem));
        }
        let digest = Sha256::digest(&bytes[..length]).into();
        let entries = read_records(&bytes[length + 32..], &digest);
        // What comes next begins where a record may begin.
        let records = (bytes.len() - length - 32) / RECORD;
        let kept = length + 32 + records * RECORD;
        self.file.set_len(kept as u64).map_err(io("write")).map_err(failed)?;
        self.file.seek(SeekFrom::End(0)).map_err(io("write")).map_err(failed)?;
        (self.digest, self.run, self.seen) = (digest, run, work.seen);
        Ok(Some(entries))
    }

    /// The number of the run that left the journal, whatever work it was of.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn earlier_run(&mut self) -> Result<Option<[u8; 16]>> {
        Ok(read_head(&self.bytes()?).ok().flatten().map(|head| head.run))
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.read_to_end(&mut bytes));
        read.map_err(|e| Error::io("read", &self.path, e))?;
        Ok(bytes)
    }

    /// Begins anew: nothing is done, and the run has a number of its own.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(&mut self, identity: &Identity, seen: &Seen) -> Result<()> {
        (self.run, self.seen) = (random(), seen.clone());
        let head = write_head(&Work { identity: identity.clone(), seen: seen.clone() }, &self.run);
        self.digest = Sha256::digest(&head).into();
        let bytes = [&head[..], &self.digest].concat();
        let mut write = || {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&bytes)?;
            disk::sync(&self.file)
        };
        write().map_err(|e| Error::io("write", &self.path, e))?;
        disk::sync_folder(&self.path);
        Ok(())
    }

    /// What stands for the work and the run, in every record.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// How the shards were when the work began.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The number of the run, which is random.
    pub fn run(&self) -> &[u8; 16] {
        &self.run
    }

    /// Whether it is new, or was begun or taken up by this run.
    pub fn is_of_this_run(&self) -> bool {
        self.run != [0; 16] || self.file.metadata().is_ok_and(|file| file.len() == 0)
    }

    /// Bytes that the journal will have with so many records, about.
    pub fn size(records: u32) -> u64 {
        u64::from(records) * RECORD as u64 + (1 << 12)
    }

    /// Appends records durably. The data of their units must be durable already.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn append(&mut self, entries: &[Entry]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| encode(entry, &self.digest)).collect();
        let written = self.file.write_all(&bytes).and_then(|()| disk::sync_data(&self.file));
        written.map_err(|e| Error::io("write", &self.path, e))
    }

    /// Removes it: the work is finished, or nothing of it is worth keeping. A journal that somebody else has put in its
    /// place stays.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn remove(self) -> Result<()> {
        if disk::is_at(&self.file, &self.path) {
            match fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &self.path, e));
                }
                _ => disk::sync_folder(&self.path),
            }
        }
        Ok(())
    }

    /// Removes a journal, if it is of that run and no process has it. What cannot be removed stays.
    pub fn remove_of(path: &Path, run: &[u8; 16]) {
        if path.exists()
            && let Ok(mut journal) = Self::open(path)
            && matches!(journal.earlier_run(), Ok(Some(found)) if found == *run)
        {
            let _ = journal.remove();
        }
    }

    /// The journal's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A number that no other run has. The keys of std's hash maps are random, and nothing else of them is asked here.
fn random() -> [u8; 16] {
    let number = || RandomState::new().build_hasher().finish();
    let time = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number().to_le_bytes());
    bytes[8..].copy_from_slice(&(number() ^ time).to_le_bytes());
    bytes
}

fn write_head(work: &Work, run: &[u8; 16]) -> Vec<u8> {
    let json = serde_json::to_vec(work).expect("strings are JSON");
    [MAGIC, run, &(json.len() as u32).to_le_bytes(), &json].concat()
}

/// What a journal begins with.
#[derive(Debug, PartialEq)]
struct Head {
    work: Work,
    run: [u8; 16],
    /// Bytes that the digest is of.
    bytes: usize,
}

/// The head; None if the file ends before or in it, as when a run is killed at once.
fn read_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    if !bytes.starts_with(&MAGIC[..MAGIC.len().min(bytes.len())]) {
        return Err("is no journal of quantpress, or of another version".into());
    }
    let Some((run, rest)) = bytes.get(MAGIC.len()..).and_then(|rest| rest.split_first_chunk::<16>()) else {
        return Ok(None);
    };
    let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let length = u32::from_le_bytes(*length);
    if length > MAX_WORK {
        return Err(format!("is damaged: its work would have {length} bytes"));
    }
    let Some((json, rest)) = rest.split_at_checked(length as usize) else { return Ok(None) };
    let Some(digest) = rest.first_chunk::<32>() else { return Ok(None) };
    let end = bytes.len() - rest.len();
    if *digest != Sha256::digest(&bytes[..end])[..] {
        return Err("is damaged: its work does not have its checksum".into());
    }
    let work = serde_json::from_slice(json).map_err(|e| format!("is damaged: {e}"))?;
    Ok(Some(Head { work, run: *run, bytes: end }))
}

/// All records that are whole.
fn read_records(bytes: &[u8], digest: &[u8; 32]) -> Vec<Entry> {
    bytes.as_chunks().0.iter().filter_map(|record| decode(record, digest)).collect()
}

fn encode(entry: &Entry, digest: &[u8; 32]) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let number = match entry {
        Entry::Unit(number, done) => {
            record[4..4 + Done::BYTES].copy_from_slice(&done.to_bytes());
            *number
        }
        Entry::File(number, sha256) => {
            record[4..36].copy_from_slice(sha256);
            u32::MAX - u32::from(*number)
        }
    };
    record[..4].copy_from_slice(&number.to_le_bytes());
    let checksum = checksum(&record[..RECORD - 8], digest);
    record[RECORD - 8..].copy_from_slice(&checksum);
    record
}

fn decode(record: &[u8; RECORD], digest: &[u8; 32]) -> Option<Entry> {
    let (told, found) = record.split_at(RECORD - 8);
    if checksum(told, digest) != found {
        return None;
    }
    let (number, payload) = told.split_first_chunk().expect("four bytes");
    let number = u32::from_le_bytes(*number);
    Some(match u16::try_from(u32::MAX - number) {
        Ok(file) => Entry::File(file, *payload.first_chunk().expect("32 bytes")),
        Err(_) => Entry::Unit(number, Done::from_bytes(payload.try_into().expect("56 bytes"))),
    })
}

fn checksum(record: &[u8], digest: &[u8; 32]) -> [u8; 8] {
    let whole = Sha256::new_with_prefix(digest).chain_update(record).finalize();
    whole[..8].try_into().expect("eight bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deviation::Deviation;
    use crate::zeros::Zeros;

    fn work(recipe: &str) -> Work {
        Work { identity: Identity::new([("recipe", recipe.to_owned())]), seen: Seen::default() }
    }

    const DIGEST: [u8; 32] = [7; 32];

    fn unit(number: u32) -> Entry {
        let deviation = Deviation { error: f64::from(number), energy: 2.0, ..Deviation::default() };
        let zeros = Zeros { rows: 9, leading: 1, trailing: 2, longest: 3 };
        Entry::Unit(number, Done { deviation, zeros, blocks: u64::from(number) << 40 })
    }

    fn records(count: u32) -> Vec<u8> {
        (0..count).flat_map(|i| encode(&unit(i), &DIGEST)).collect()
    }

    #[test]
    fn whatever_is_cut_off_is_as_if_never_written() {
        let bytes = records(6);
        for length in 0..=bytes.len() {
            let whole = length / RECORD;
            let expected: Vec<_> = (0..whole as u32).map(unit).collect();
            assert_eq!(read_records(&bytes[..length], &DIGEST), expected);
        }
    }

    #[test]
    fn a_damaged_record_is_lost_and_no_other() {
        for place in 0..6 * RECORD {
            let mut bytes = records(6);
            bytes[place] ^= 1;
            let expected: Vec<_> = (0..6).filter(|&i| i as usize != place / RECORD).map(unit).collect();
            assert_eq!(read_records(&bytes, &DIGEST), expected, "byte {place}");
        }
        assert!(read_records(&records(6), &[8; 32]).is_empty(), "another run");
    }

    #[test]
    fn files_and_units_are_told_apart() {
        for entry in [unit(0), unit(4_000_000_000), Entry::File(0, [3; 32]), Entry::File(65_534, [9; 32])] {
            assert_eq!(decode(&encode(&entry, &DIGEST), &DIGEST), Some(entry));
        }
    }

    #[test]
    fn a_head_cut_short_is_none_and_a_changed_one_damage() {
        let head = write_head(&work("a"), &[5; 16]);
        let whole = [&head[..], &Sha256::digest(&head)].concat();
        let expected = Head { work: work("a"), run: [5; 16], bytes: head.len() };
        assert_eq!(read_head(&whole), Ok(Some(expected)));
        for length in 0..whole.len() {
            assert_eq!(read_head(&whole[..length]), Ok(None), "{length} bytes");
        }
        for place in [0, 30, 50, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            assert!(read_head(&changed).is_err(), "byte {place}");
        }
        let huge = [MAGIC, &[5; 16], &[255; 4]].concat();
        assert!(read_head(&huge).expect_err("damage").contains("4294967295 bytes"));
    }

    #[test]
    fn runs_have_numbers_of_their_own() {
        assert_ne!(random(), random());
    }
}
