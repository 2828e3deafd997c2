//! The end of a run: every file is read back from the disk, each piece held against the checksum that it had when it
//! was written, and given its final name with the digests of what it holds.

use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::done::checksum;
use super::journal::Entry;
use super::session::{Session, file_name};
use super::{Event, Job, Unit, Work, mark};
use crate::disk;
use crate::error::{Error, Result};
use crate::gguf::Output;
use crate::moment;

/// SHA-256 of a file and of its tensors' data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// SHA-256 of the whole file.
    pub file: [u8; 32],
    /// SHA-256 of each tensor's data, without padding, in the file's order.
    pub tensors: Vec<[u8; 32]>,
}

/// The result of reading a file back.
#[derive(Debug)]
pub enum Examined {
    /// All is as it was written.
    Whole(Vec<Digests>),
    /// The file does not have these units as they were written: they are to be made again.
    Lost(Vec<Unit>),
}

/// Reads back every file that is to be made.
///
/// # Errors
/// If a file cannot be read, the user wants to stop, or a file that has its final name is not what it was.
pub fn examine(job: &Job, work: &Work, session: &Session) -> Result<Examined> {
    let (mut all, mut lost) = (Vec::with_capacity(session.outputs.len()), Vec::new());
    for (output, file) in session.outputs.iter().zip(job.files()) {
        if !output.is_renamed() {
            output.sync()?;
        }
        let before = lost.len();
        let digests = read_back(job, work, session, output, file, &mut lost)?;
        let differs = || session.sealed.get(&file).is_some_and(|sha256| *sha256 != digests.file);
        if output.is_renamed() && (lost.len() > before || differs()) {
            let problem = format!("{} is not as it was left", output.current().display());
            return Err(Error::Resume { journal: session.journal.path().to_owned(), problem });
        }
        all.push(digests);
    }
    Ok(if lost.is_empty() { Examined::Whole(all) } else { Examined::Lost(lost) })
}

/// Gives the files their names. The digests are in the journal before the first name changes, so that a run killed here
/// can be finished too.
///
/// # Errors
/// If the system cannot, or a file came to be under a final name that may not be replaced.
pub fn seal(job: &Job, session: &mut Session, digests: &[Digests]) -> Result<()> {
    let numbered = job.files().zip(digests);
    let entries: Vec<Entry> =
        numbered.map(|(number, digests)| Entry::File(number as u16, digests.file)).collect();
    session.journal.append(&entries)?;
    moment::pass("sealed");
    for (output, file) in session.outputs.iter_mut().zip(job.files()) {
        if !output.is_renamed() {
            // Only now is it a GGUF file: its mark gives way to the header's beginning.
            output.write_at(0, &job.plan.files[file].layout.header[..mark::BYTES])?;
            output.finish(job.force)?;
            moment::pass("renamed");
        }
    }
    Ok(())
}

/// The digests of a file as it will be, with the header in place of the mark. What is not the units' own, header and
/// padding, is made good at once.
fn read_back(
    job: &Job,
    work: &Work,
    session: &Session,
    output: &Output,
    file: usize,
    lost: &mut Vec<Unit>,
) -> Result<Digests> {
    let planned = &job.plan.files[file];
    let layout = &planned.layout;
    let mut whole = Sha256::new();
    fixed(output, 0, &layout.header, &mut whole)?;
    let ends = layout.offsets.iter().copied().chain([layout.file_size]).skip(1);
    let mut tensors = Vec::with_capacity(planned.tensors.len());
    let mut blocks = Vec::new();
    for (tensor, end) in planned.tensors.clone().zip(ends) {
        let mut digest = Sha256::new();
        let mut at = job.plan.place(tensor).1;
        for unit in work.of_tensor(job.plan, tensor) {
            if job.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let range = unit.place(job.plan).1;
            assert_eq!(range.start, at, "units follow one another");
            blocks.resize((range.end - range.start) as usize, 0);
            read(output, at, &mut blocks)?;
            let (_, found) = rayon::join(
                || whole.update(&blocks),
                || {
                    digest.update(&blocks);
                    checksum(&blocks)
                },
            );
            if session.done[unit.number as usize].is_none_or(|done| done.blocks != found) {
                lost.push(unit);
            }
            disk::forget(output.file(), range.clone());
            let (tensor, bytes) = (&*job.plan.model.tensors[tensor].name, range.end - range.start);
            (job.listener)(Event::ReadBack { tensor, bytes });
            at = range.end;
        }
        tensors.push(digest.finalize().into());
        fixed(output, at, &vec![0; (end - at) as usize], &mut whole)?;
    }
    Ok(Digests { file: whole.finalize().into(), tensors })
}

/// Makes sure that the file has these bytes there, those of the mark at its beginning aside, and adds them to the
/// digest. A file that has its final name is not changed: its digest says what it holds.
fn fixed(output: &Output, at: u64, bytes: &[u8], whole: &mut Sha256) -> Result<()> {
    let mut found = vec![0; bytes.len()];
    read(output, at, &mut found)?;
    if output.is_renamed() {
        whole.update(found);
        return Ok(());
    }
    let skipped = if at == 0 { mark::BYTES } else { 0 };
    if found[skipped.min(found.len())..] != bytes[skipped.min(bytes.len())..] {
        output.write_at(at + skipped as u64, &bytes[skipped..])?;
    }
    whole.update(bytes);
    Ok(())
}

/// Fills `bytes`, with zeros after the end of a file that was cut short; the checksums of its units will then differ.
fn read(output: &Output, at: u64, bytes: &mut [u8]) -> Result<()> {
    let there = output.bytes()?.saturating_sub(at).min(bytes.len() as u64) as usize;
    bytes[there..].fill(0);
    output.read_at(at, &mut bytes[..there])
}

/// The names of the files that a job makes.
pub fn names(job: &Job) -> impl Iterator<Item = std::path::PathBuf> {
    job.files().map(|file| file_name(job.plan, job.output, file))
}
