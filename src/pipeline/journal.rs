//! The journal of an unfinished file: what work it is of, and which units are done. A record is written when what it
//! tells of is durable, so whatever record is readable is true.
//!
//! ```text
//! "quantpress journal 1\n"   bytes of the identity: u32   identity: JSON   SHA-256 of all before: 32 bytes
//! then records of 48 bytes:  number: u32   batch: u32   payload: 32 bytes   checksum: 8 bytes
//! ```
//!
//! The payload of a unit is its deviation from the source. Numbers from the top down are those of files, whose payload
//! is their SHA-256, written before they get their final names. A checksum is the first 8 bytes of the SHA-256 of the
//! identity's digest and the record, so records of other work are not taken for this one's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Deviation;
use crate::disk;
use crate::error::{Error, Result};

const MAGIC: &[u8] = b"quantpress journal 1\n";

/// Bytes of a record.
const RECORD: usize = 48;

/// A longer identity is no identity.
const MAX_IDENTITY: u32 = 1 << 20;

/// What the work is, part by part: equal parts give equal bytes. The names are those of messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity(pub Vec<(String, String)>);

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// A unit is in the file.
    Unit(u32, Deviation),
    /// A file is whole and has this SHA-256.
    File(u16, [u8; 32]),
}

/// An open journal, locked against other processes.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    digest: [u8; 32],
    batch: u32,
}

impl Journal {
    /// Opens the journal, or creates an empty one.
    ///
    /// # Errors
    /// If the folder is not there or not writable, or another process has the journal.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io("create", path, e);
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let file = file.map_err(io)?;
            if !disk::lock(&file).map_err(io)? {
                return Err(Error::Busy(path.with_extension("")));
            }
            // The process that had it may have finished meanwhile, and removed the name.
            if disk::is_at(&file, path) {
                return Ok(Self { path: path.to_owned(), file, digest: [0; 32], batch: 0 });
            }
        }
    }

    /// Reads what an earlier run of the same work has done; None if none has begun.
    ///
    /// # Errors
    /// If the journal is of other work, saying what differs, or damaged.
    pub fn resume(&mut self, identity: &Identity) -> Result<Option<Vec<Entry>>> {
        let bytes = fs::read(&self.path).map_err(|e| Error::io("read", &self.path, e))?;
        let fault = |problem| Error::Resume { journal: self.path.clone(), problem };
        let Some((found, length)) = read_identity(&bytes).map_err(fault)? else { return Ok(None) };
        if let Some(problem) = differences(&found, identity) {
            return Err(fault(problem));
        }
        self.digest = Sha256::digest(&bytes[..length]).into();
        let Records { entries, good, batch } =
            read_records(&bytes[length + 32..], &self.digest).map_err(fault)?;
        self.batch = batch;
        let io = |e| Error::io("write", &self.path, e);
        // What is torn is cut off; what was behind it is written again.
        let kept = length + 32 + good.0;
        self.file.set_len(kept as u64).map_err(io)?;
        self.file.seek(SeekFrom::End(0)).map_err(io)?;
        self.append(&entries[good.1..])?;
        Ok(Some(entries))
    }

    /// Begins anew: nothing is done.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(&mut self, identity: &Identity) -> Result<()> {
        let header = write_identity(identity);
        self.digest = Sha256::digest(&header).into();
        self.batch = 0;
        let bytes = [&header[..], &self.digest].concat();
        let write = || {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&bytes)?;
            self.file.sync_all()
        };
        let mut write = write;
        write().map_err(|e| Error::io("write", &self.path, e))?;
        disk::sync_folder(&self.path);
        Ok(())
    }

    /// What stands for the identity in every record.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Adds records durably. What they tell of is durable already.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn append(&mut self, entries: &[Entry]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        self.batch += 1;
        let bytes: Vec<u8> =
            entries.iter().flat_map(|entry| encode(entry, self.batch, &self.digest)).collect();
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::io("write", &self.path, e))
    }

    /// Removes it: the work is finished, or nothing of it is worth keeping.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn remove(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &self.path, e)),
            _ => {
                disk::sync_folder(&self.path);
                Ok(())
            }
        }
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write_identity(identity: &Identity) -> Vec<u8> {
    let json = serde_json::to_vec(identity).expect("pairs of strings are JSON");
    [MAGIC, &(json.len() as u32).to_le_bytes(), &json].concat()
}

/// The identity and the bytes that its digest is of; None if the file ends before or in it, as when a run is killed at
/// once.
fn read_identity(bytes: &[u8]) -> Result<Option<(Identity, usize)>, String> {
    let start = MAGIC.len() + 4;
    if !bytes.starts_with(&MAGIC[..MAGIC.len().min(bytes.len())]) {
        return Err("is no journal of quantpress, or of another version".into());
    }
    let Some(length) = bytes.get(MAGIC.len()..start) else { return Ok(None) };
    let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
    if length > MAX_IDENTITY {
        return Err(format!("is damaged: its identity would have {length} bytes"));
    }
    let end = start + length as usize;
    let Some(digest) = bytes.get(end..end + 32) else { return Ok(None) };
    if digest != &Sha256::digest(&bytes[..end])[..] {
        return Err("is damaged: its identity does not have its checksum".into());
    }
    let identity = serde_json::from_slice(&bytes[start..end]).map_err(|e| format!("is damaged: {e}"))?;
    Ok(Some((identity, end)))
}

/// What differs between the work of a journal and this one.
fn differences(found: &Identity, wanted: &Identity) -> Option<String> {
    let differ = wanted.0.iter().filter_map(|(name, now)| {
        let before = found.0.iter().find(|(other, _)| other == name).map_or("none", |(_, before)| before);
        (before != now).then(|| format!("{name} was {before}, now {now}"))
    });
    let differ: Vec<String> = differ.collect();
    (!differ.is_empty()).then(|| format!("the unfinished file is of other work: {}", differ.join("; ")))
}

#[derive(Debug, PartialEq)]
struct Records {
    entries: Vec<Entry>,
    /// Bytes and number of the records before the first that is torn.
    good: (usize, usize),
    batch: u32,
}

/// All records that are whole. Those of the last batch may be torn anywhere, for its pages reach the disk in any order.
fn read_records(bytes: &[u8], digest: &[u8; 32]) -> Result<Records, String> {
    let mut records = Records { entries: Vec::new(), good: (0, 0), batch: 0 };
    let mut torn = None;
    for (index, record) in bytes.chunks(RECORD).enumerate() {
        match decode(record, digest) {
            Some((entry, batch)) => {
                if let Some((place, last)) = torn
                    && batch > last + 1
                {
                    return Err(format!("is damaged: record {place} does not have its checksum"));
                }
                records.entries.push(entry);
                records.batch = records.batch.max(batch);
                if torn.is_none() {
                    records.good = ((index + 1) * RECORD, records.entries.len());
                }
            }
            None => torn = torn.or(Some((index, records.batch))),
        }
    }
    Ok(records)
}

fn encode(entry: &Entry, batch: u32, digest: &[u8; 32]) -> [u8; RECORD] {
    let (number, payload) = match entry {
        Entry::Unit(number, deviation) => (*number, deviation.to_bytes()),
        Entry::File(number, sha256) => (u32::MAX - u32::from(*number), *sha256),
    };
    let mut record = [0; RECORD];
    record[..4].copy_from_slice(&number.to_le_bytes());
    record[4..8].copy_from_slice(&batch.to_le_bytes());
    record[8..40].copy_from_slice(&payload);
    let checksum = checksum(&record[..40], digest);
    record[40..].copy_from_slice(&checksum);
    record
}

fn decode(record: &[u8], digest: &[u8; 32]) -> Option<(Entry, u32)> {
    let record: &[u8; RECORD] = record.try_into().ok()?;
    if checksum(&record[..40], digest) != record[40..] {
        return None;
    }
    let number = |start: usize| u32::from_le_bytes(record[start..start + 4].try_into().expect("four bytes"));
    let payload: &[u8; 32] = record[8..40].try_into().expect("32 bytes");
    let entry = match u16::try_from(u32::MAX - number(0)) {
        Ok(file) => Entry::File(file, *payload),
        Err(_) => Entry::Unit(number(0), Deviation::from_bytes(payload)),
    };
    Some((entry, number(4)))
}

fn checksum(record: &[u8], digest: &[u8; 32]) -> [u8; 8] {
    let whole = Sha256::new_with_prefix(digest).chain_update(record).finalize();
    whole[..8].try_into().expect("eight bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(recipe: &str) -> Identity {
        Identity(vec![("tool".into(), "quantpress 1".into()), ("recipe".into(), recipe.into())])
    }

    const DIGEST: [u8; 32] = [7; 32];

    fn unit(number: u32) -> Entry {
        Entry::Unit(number, Deviation { error: f64::from(number), energy: 2.0, ..Deviation::default() })
    }

    /// Batches of two records.
    fn records(count: u32) -> Vec<u8> {
        (0..count).flat_map(|i| encode(&unit(i), i / 2 + 1, &DIGEST)).collect()
    }

    #[test]
    fn whatever_is_cut_off_is_as_if_never_written() {
        let bytes = records(6);
        for length in 0..=bytes.len() {
            let found = read_records(&bytes[..length], &DIGEST).expect("torn is fine");
            let whole = length / RECORD;
            assert_eq!(found.entries, (0..whole as u32).map(unit).collect::<Vec<_>>());
            assert_eq!(found.good, (whole * RECORD, whole));
        }
    }

    #[test]
    fn holes_in_the_last_batch_are_torn_writes_and_elsewhere_damage() {
        let with_hole = |record: usize| {
            let mut bytes = records(6);
            bytes[record * RECORD..(record + 1) * RECORD].fill(0);
            read_records(&bytes, &DIGEST)
        };
        let found = with_hole(4).expect("torn");
        assert_eq!(found.entries, [0, 1, 2, 3, 5].map(unit));
        assert_eq!((found.good, found.batch), ((4 * RECORD, 4), 3));
        assert_eq!(with_hole(5).expect("torn").entries.len(), 5);
        for record in 0..2 {
            let problem = with_hole(record).expect_err("damage");
            assert!(problem.contains(&format!("record {record} does not have")), "{problem}");
        }
        let mut bytes = records(6);
        bytes[9] ^= 1;
        assert!(read_records(&bytes, &DIGEST).is_err(), "a flipped bit");
        assert!(read_records(&records(6), &[8; 32]).expect("all torn").entries.is_empty(), "other work");
    }

    #[test]
    fn files_and_units_are_told_apart() {
        for entry in [unit(0), unit(4_000_000_000), Entry::File(0, [3; 32]), Entry::File(65_534, [9; 32])] {
            assert_eq!(decode(&encode(&entry, 5, &DIGEST), &DIGEST), Some((entry, 5)));
        }
    }

    #[test]
    fn an_identity_cut_short_is_none_and_a_changed_one_damage() {
        let header = write_identity(&identity("a"));
        let whole = [&header[..], &Sha256::digest(&header)].concat();
        assert_eq!(read_identity(&whole), Ok(Some((identity("a"), header.len()))));
        for length in 0..whole.len() {
            assert_eq!(read_identity(&whole[..length]), Ok(None), "{length} bytes");
        }
        for place in [0, 30, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            assert!(read_identity(&changed).is_err(), "byte {place}");
        }
        let huge = [MAGIC, &[255; 4]].concat();
        assert!(read_identity(&huge).expect_err("damage").contains("4294967295 bytes"));
    }

    #[test]
    fn differences_are_named() {
        assert_eq!(differences(&identity("a"), &identity("a")), None);
        let problem = differences(&identity("a"), &identity("b")).expect("they differ");
        assert!(problem.ends_with(": recipe was a, now b"), "{problem}");
    }
}
