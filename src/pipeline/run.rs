//! A run from beginning to end: what is there is looked at, the rest is done, the files are sealed.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::flow::flow;
use super::manifest;
use super::seal::seal;
use super::session::{Session, file_name};
use super::{Budget, Stages, Work};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::recipe::{Importances, Plan};

/// What happens, for those who report it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// The work is known.
    Started {
        /// Weights to quantize.
        weights: u64,
        /// Of which an earlier run has done these.
        done: u64,
        /// Bytes of the files.
        bytes: u64,
        /// Threads and buffers.
        budget: Budget,
    },
    /// A piece is in the file.
    Written {
        /// Its weights.
        weights: u64,
        /// Bytes that were read for it.
        read: u64,
        /// Bytes that it takes in the file.
        written: u64,
    },
    /// All pieces are; the files are being read back.
    Sealing,
    /// The files have their final names.
    Finished,
}

/// Hears of events, from any thread.
pub type Listener<'a> = &'a (dyn Fn(Event) + Sync);

/// A last check of a file under its unfinished name.
pub type Check<'a> = &'a (dyn Fn(&Path) -> Result<()> + Sync);

/// All that a run needs to know.
pub struct Job<'a> {
    /// The source.
    pub checkpoint: &'a Checkpoint,
    /// What to make of it.
    pub plan: &'a Plan,
    /// What counts how much.
    pub importances: &'a Importances<'a>,
    /// The name of the file, or from which the names of split files are made.
    pub output: &'a Path,
    /// Only this file of a split, counted from 1.
    pub part: Option<u16>,
    /// Threads that quantize.
    pub threads: usize,
    /// Bytes of buffers.
    pub memory: u64,
    /// Forget what an earlier run has done.
    pub restart: bool,
    /// Replace finished files that are there.
    pub force: bool,
    /// Reserve the disk's space before the work.
    pub reserve: bool,
    /// Time after which what was written is made durable.
    pub sync: Duration,
    /// Becomes true when the user wants to stop.
    pub stop: &'a AtomicBool,
    /// A file that does not pass does not get its name.
    pub check: Check<'a>,
    /// Hears how it goes.
    pub listener: Listener<'a>,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Over all tensors in them.
    pub bits_per_weight: f64,
    /// How busy the stages were, if the work went through them.
    pub stages: Option<Stages>,
    /// Seconds for reading the files back.
    pub sealing: f64,
}

impl Job<'_> {
    /// The files of the plan that are made, by their place in it.
    pub fn files(&self) -> Range<usize> {
        match self.part {
            Some(part) => usize::from(part) - 1..usize::from(part),
            None => 0..self.plan.files.len(),
        }
    }

    fn tensors(&self) -> Range<usize> {
        let files = &self.plan.files[self.files()];
        files[0].tensors.start..files[files.len() - 1].tensors.end
    }
}

/// How the pieces come into the files.
pub trait Method {
    /// Writes every piece that is not done, and records it. Busy shares of the stages, if the work has them.
    ///
    /// # Errors
    /// If it cannot be finished; what was written is recorded then.
    fn work(&self, job: &Job, work: &Work, session: &mut Session, budget: Budget) -> Result<Option<Stages>>;
}

/// Each piece by itself, in the order of the shards.
struct PieceByPiece;

impl Method for PieceByPiece {
    fn work(&self, job: &Job, work: &Work, session: &mut Session, budget: Budget) -> Result<Option<Stages>> {
        flow(job, work, session, budget).map(Some)
    }
}

/// Quantizes the checkpoint as planned, each piece by itself; see [`run_by`].
///
/// # Errors
/// As [`run_by`].
pub fn run(job: &Job) -> Result<Made> {
    run_by(job, &PieceByPiece)
}

/// Quantizes the checkpoint as planned, going on where an earlier run of the same work stopped.
///
/// The bytes of the files do not depend on the number of threads, the memory, the CPU, interruptions, or whether
/// the parts of a split are made together.
///
/// # Errors
/// If something cannot be read or written, or holds weights that no format can; if the user stops it; if another
/// process is at the same file, or the unfinished file is of other work. The final names are as they were then, and
/// what is done is kept, if anything is.
pub fn run_by(job: &Job, method: &dyn Method) -> Result<Made> {
    let plan = job.plan;
    let work = Work::new(job.checkpoint, plan, job.tensors())?;
    let budget = Budget::new(job.memory, job.threads, work.needs)?;
    let mut session = Session::open(job, &work)?;
    let [mut weights, mut done] = [0, 0];
    for unit in work.all(plan) {
        weights += unit.weights(plan);
        done += if session.done[unit.number as usize].is_some() { unit.weights(plan) } else { 0 };
    }
    let bytes = plan.files[job.files()].iter().map(|file| file.layout.file_size).sum();
    (job.listener)(Event::Started { weights, done, bytes, budget });
    match finish(job, method, &work, &mut session, budget) {
        Ok((stages, sealing)) => {
            session.journal.remove()?;
            (job.listener)(Event::Finished);
            let files = job.files().map(|file| file_name(plan, job.output, file)).collect();
            let tensors: u64 = job.tensors().map(|tensor| plan.bytes(tensor)).sum();
            let bits_per_weight = tensors as f64 * 8.0 / weights as f64;
            Ok(Made { files, bytes, bits_per_weight, stages, sealing })
        }
        Err(error) => Err(session.stopped(job, &work, error)),
    }
}

fn finish(
    job: &Job,
    method: &dyn Method,
    work: &Work,
    session: &mut Session,
    budget: Budget,
) -> Result<(Option<Stages>, f64)> {
    session.write_headers(job)?;
    let stages = method.work(job, work, session, budget)?;
    if session.done.iter().any(Option::is_none) {
        return Err(Error::Interrupted);
    }
    (job.listener)(Event::Sealing);
    let start = Instant::now();
    let digests = seal(job, session)?;
    for (number, digests) in job.files().zip(&digests) {
        let manifest = manifest::manifest(job, work, session, number, digests);
        manifest::write(&manifest, &file_name(job.plan, job.output, number))?;
    }
    Ok((stages, start.elapsed().as_secs_f64()))
}
