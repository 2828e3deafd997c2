//! A run from beginning to end: it finds what an earlier run has left, does the rest, and seals the files.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::already::{self, Found};
use super::damage;
use super::flow::flow;
use super::manifest;
use super::seal::Digests;
use super::seal::{Examined, examine, names, seal};
use super::session::{Session, journal_name};
use super::{Budget, Stages, Unit, Work, default_memory};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, Warning};
use crate::gguf::{ManifestPlace, Output};
use crate::identity::hex;
use crate::moment;
use crate::recipe::{Importances, Plan};
use crate::stop;
use crate::store::Store;
use crate::threads;

/// Progress of a run, for whoever reports it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// The work is planned and begins.
    Started {
        /// Weights to quantize.
        weights: u64,
        /// Those of them that an earlier run has done.
        done: u64,
        /// Bytes of the files.
        bytes: u64,
        /// Threads and buffers.
        budget: Budget,
    },
    /// A piece is in the file.
    Written {
        /// Its tensor.
        tensor: &'a str,
        /// Weights in it.
        weights: u64,
        /// Bytes that were read for it.
        read: u64,
        /// Bytes that it takes in the file.
        written: u64,
    },
    /// All pieces are written; what is left is to read the files back and to name them.
    Sealing,
    /// The files are read back: at the end, and where an earlier run had begun what each layer is made on.
    ReadingBack {
        /// Their bytes.
        bytes: u64,
    },
    /// A piece was read back.
    ReadBack {
        /// Its tensor.
        tensor: &'a str,
        /// Its bytes.
        bytes: u64,
    },
    /// The disk does not have some pieces as they were written; they are made again.
    Lost {
        /// Their weights.
        weights: u64,
    },
    /// The files have their final names.
    Finished,
}

/// A function that is called with each event, from any thread.
pub type Listener<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// The input of a run.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Where the weights come from.
    pub store: &'a dyn Store,
    /// The checkpoint: its shards are named in the manifest, and their sizes and times are compared.
    pub checkpoint: &'a Checkpoint,
    /// Types, header and offsets of the files to be made.
    pub plan: &'a Plan,
    /// Importances of the input columns, by tensor and slice.
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
    /// Whether a matrix that looks damaged ends the run.
    pub strict: bool,
    /// Reserve the disk's space before the work.
    pub reserve: bool,
    /// Time after which what was written is made durable.
    pub sync: Duration,
    /// Becomes true when the user wants to stop.
    pub stop: &'a AtomicBool,
    /// Is called with each event.
    pub listener: Listener<'a>,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Made {
    /// Paths of the files, in order.
    pub files: Vec<PathBuf>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Over all tensors in them.
    pub bits_per_weight: f64,
    /// How busy the stages were, if the work went through them.
    pub stages: Option<Stages>,
    /// Seconds for reading the files back.
    pub sealing: f64,
    /// Warnings about matrices of the checkpoint that look damaged.
    pub warnings: Vec<Warning>,
    /// SHA-256 of the files.
    pub digests: Vec<String>,
    /// Whether an earlier run had made them already.
    pub already: bool,
}

impl<'a> Job<'a> {
    /// What the plan says, on all threads of the machine and in the memory that is usual for them, and nothing else: an
    /// unfinished file of the same work is gone on with, no finished one is replaced.
    pub fn new(
        checkpoint: &'a Checkpoint,
        plan: &'a Plan,
        importances: &'a Importances<'a>,
        output: &'a Path,
    ) -> Self {
        let threads = threads::available();
        Self {
            store: checkpoint,
            checkpoint,
            plan,
            importances,
            output,
            part: None,
            threads,
            memory: default_memory(threads) + checkpoint.source().buffers(),
            restart: false,
            force: false,
            strict: false,
            reserve: true,
            sync: Self::SYNC,
            stop: stop::never(),
            listener: &|_| {},
        }
    }

    /// Time after which what was written is made durable, where nobody says otherwise: what a power failure costs.
    pub const SYNC: Duration = Duration::from_secs(5);

    /// The files of the plan that are made, by their place in it.
    pub fn files(&self) -> Range<usize> {
        match self.part {
            Some(part) => usize::from(part) - 1..usize::from(part),
            None => 0..self.plan.files.len(),
        }
    }

    /// The tensors of these files, by their place in the model.
    pub fn tensors(&self) -> Range<usize> {
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

    /// Whether it reads what is in the files already, so that this is compared with its checksums first.
    fn reads_back(&self) -> bool {
        false
    }
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
    let work = Work::new(job.store, plan, job.tensors())?;
    let budget = Budget::beside(job.checkpoint.source().buffers(), job.memory, job.threads, work.needs)?;
    let weights: u64 = work.all(plan).map(|unit| unit.weights(plan)).sum();
    let tensors: u64 = job.tensors().map(|tensor| plan.bytes(tensor)).sum();
    let made = Made {
        files: names(job).collect(),
        bytes: plan.files[job.files()].iter().map(|file| file.layout.file_size).sum(),
        bits_per_weight: tensors as f64 * 8.0 / weights as f64,
        stages: None,
        sealing: 0.0,
        warnings: Vec::new(),
        digests: Vec::new(),
        already: true,
    };
    made.files.iter().chain([&job.output.to_owned()]).try_for_each(|name| Output::check(name))?;
    match already::made(job)? {
        Found::Made(digests, warning) => {
            return Ok(Made { digests, warnings: warning.into_iter().collect(), ..made });
        }
        // With a journal, the work on it goes on.
        Found::Damaged(file, problem) if !journal_name(job).exists() => {
            return Err(Error::Remake { file, problem });
        }
        _ => {}
    }
    let places: Vec<ManifestPlace> =
        made.files.iter().map(|name| ManifestPlace::beside(name, job.force)).collect::<Result<_>>()?;
    let mut session = Session::open(job, &work)?;
    let recorded = |unit: &Unit| session.done[unit.number as usize].is_some();
    let done = work.all(plan).filter(recorded).map(|unit| unit.weights(plan)).sum();
    (job.listener)(Event::Started { weights, done, bytes: made.bytes, budget });
    match finish(job, method, &work, &mut session, budget, &places) {
        Ok(Finished { stages, sealing, warnings, digests }) => {
            session.journal.remove()?;
            (job.listener)(Event::Finished);
            Ok(Made { stages, sealing, warnings, digests, already: false, ..made })
        }
        Err(error) => Err(session.stopped(job, &work, error)),
    }
}

/// How often, at most, pieces that the disk has lost are made again.
const TRIES: usize = 3;

struct Finished {
    stages: Option<Stages>,
    sealing: f64,
    warnings: Vec<Warning>,
    digests: Vec<String>,
}

fn finish(
    job: &Job,
    method: &dyn Method,
    work: &Work,
    session: &mut Session,
    budget: Budget,
    places: &[ManifestPlace],
) -> Result<Finished> {
    if method.reads_back() && session.begun() {
        make_good(job, work, session)?;
    }
    let mut stages = None;
    for _ in 0..=TRIES {
        stages = method.work(job, work, session, budget)?.or(stages);
        if !session.is_complete() {
            return Err(Error::Interrupted);
        }
        let mut warnings = damage::found(job, work, &session.done, job.tensors());
        Warning::refuse(&warnings, job.strict)?;
        (job.listener)(Event::Sealing);
        let start = Instant::now();
        let Some(digests) = make_good(job, work, session)? else { continue };
        seal(job, session, &digests)?;
        // After the names are won: a manifest is never of another file.
        let (seen, changed) = session.seen(job)?;
        for ((number, digests), place) in job.files().zip(&digests).zip(places) {
            let manifest = manifest::manifest(job, work, session, seen, number, digests);
            place.write(&manifest::bytes(&manifest))?;
            moment::pass("told");
        }
        warnings.extend(changed);
        let digests = digests.iter().map(|digests| hex(&digests.file)).collect();
        return Ok(Finished { stages, sealing: start.elapsed().as_secs_f64(), warnings, digests });
    }
    let lost = std::io::Error::other("the disk does not keep what is written");
    Err(Error::io("write", job.output, lost))
}

/// Reads the files back: their digests if they are whole, else what is lost is taken for not done.
fn make_good(job: &Job, work: &Work, session: &mut Session) -> Result<Option<Vec<Digests>>> {
    let bytes = job.tensors().map(|tensor| job.plan.bytes(tensor)).sum();
    (job.listener)(Event::ReadingBack { bytes });
    match examine(job, work, session)? {
        Examined::Whole(digests) => Ok(Some(digests)),
        Examined::Lost(units) => {
            let recorded = |unit: &&Unit| session.done[unit.number as usize].is_some();
            let weights = units.iter().filter(recorded).map(|unit| unit.weights(job.plan)).sum();
            if weights > 0 {
                (job.listener)(Event::Lost { weights });
            }
            session.forget(units.iter().map(|unit| unit.number));
            Ok(None)
        }
    }
}
