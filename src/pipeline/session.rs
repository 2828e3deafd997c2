//! Opens or creates the unfinished files and their journal, checks them, and reserves the disk's space, before any
//! weight is read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::done::checksum;
use super::journal::{Entry, Journal};
use super::mark::{self, Mark, Owner};
use super::seal::names;
use super::{Done, Job, Unit, Work, damage};
use crate::checkpoint::{Seen, hex};
use crate::disk;
use crate::error::{Error, Result, Warning};
use crate::forward::Saved;
use crate::gguf::{Output, Split, beside};
use crate::identity::{Identity, PART, TOOL};
use crate::log;
use crate::moment;
use crate::recipe::Plan;

/// The unfinished files of a run and the units that are done.
#[derive(Debug)]
pub struct Session {
    /// The name that all other names are made from: the output's, or that of the only part.
    pub name: PathBuf,
    /// The journal of the run.
    pub journal: Journal,
    /// The files, by their place among those to be written.
    pub outputs: Vec<Output>,
    /// The record of each unit that is done.
    pub done: Vec<Option<Done>>,
    /// SHA-256 of files that were sealed by an earlier run, by their place in the plan.
    pub sealed: BTreeMap<usize, [u8; 32]>,
    /// Digest of the work, for the marks of the files and the manifests.
    pub work: [u8; 32],
    /// Sizes and times of the shards now, and when the work began.
    now: Seen,
    believed: Seen,
}

/// The final name of a file of the plan, by its place there.
pub fn file_name(plan: &Plan, output: &Path, file: usize) -> PathBuf {
    plan.split.name(output, file, plan.files.len())
}

/// The name of the journal of a job.
pub fn journal_name(job: &Job) -> PathBuf {
    beside(&session_name(job), ".journal")
}

fn session_name(job: &Job) -> PathBuf {
    match job.part {
        Some(part) => file_name(job.plan, job.output, usize::from(part) - 1),
        None => job.output.to_owned(),
    }
}

impl Session {
    /// Finds the unfinished files of the same work, or begins them.
    ///
    /// # Errors
    /// If a file cannot be made, another process is at it, what is there is of other work, a finished file is there and
    /// may not be replaced, or the disk is too small. What this call has made is removed then.
    pub fn open(job: &Job, work: &Work) -> Result<Self> {
        let now = Seen::of(job.checkpoint)?;
        let mut journal = Journal::open(&journal_name(job))?;
        let identity = identity(job);
        let (entries, earlier) = match job.restart {
            true => (None, journal.earlier_run()?),
            false => (journal.resume(&identity)?, None),
        };
        let mut session = Self {
            name: session_name(job),
            journal,
            outputs: Vec::new(),
            done: vec![None; work.units as usize],
            sealed: BTreeMap::new(),
            work: identity.work(),
            believed: now.clone(),
            now,
        };
        match session.prepare(job, work, &identity, entries, earlier) {
            Ok(()) => {
                let done = session.done.iter().flatten().count();
                let (journal, sealed) = (session.journal.path(), session.sealed.len());
                tracing::debug!(?journal, pieces = work.units, done, sealed, "unfinished work");
                Ok(session)
            }
            Err(error) => {
                session.abandon();
                Err(error)
            }
        }
    }

    fn prepare(
        &mut self,
        job: &Job,
        work: &Work,
        identity: &Identity,
        entries: Option<Vec<Entry>>,
        earlier: Option<[u8; 16]>,
    ) -> Result<()> {
        let resumed = entries.is_some();
        for entry in entries.into_iter().flatten() {
            match entry {
                Entry::Unit(number, done) if number < work.units => self.done[number as usize] = Some(done),
                Entry::Unit(number, _) => {
                    let problem = format!("names piece {number} of {}", work.units);
                    return Err(self.fault(problem));
                }
                Entry::File(number, sha256) => drop(self.sealed.insert(number.into(), sha256)),
            }
        }
        // Matrices that looked damaged may have been mended since: they are read again.
        self.forget(damage::units(job, work, &self.done));
        // All files that are there are examined before anything is changed.
        let mut found = Vec::new();
        for file in job.files() {
            found.push((file, self.find(job, work, file, resumed)?));
        }
        if resumed {
            self.believed = self.journal.seen().clone();
            self.look_at_shards(job, work);
        } else {
            let taken: Vec<&Output> = found.iter().filter_map(|(_, output)| output.as_ref()).collect();
            earlier.map_or(Ok(()), |run| self.forget_run(job, &run, &taken))?;
            self.journal.begin(identity, &self.now)?;
        }
        for (file, output) in found {
            let output = match output {
                Some(output) => output,
                None => {
                    self.forget(work.units_of_file(job.plan, file).map(|unit| unit.number));
                    self.sealed.remove(&file);
                    let path = file_name(job.plan, job.output, file);
                    Output::create(&path, job.plan.files[file].layout.file_size)?
                }
            };
            // Listed first: what is made is removed if the next step fails.
            self.outputs.push(output);
            if !resumed && let Some(output) = self.outputs.last() {
                // A part that was begun by itself has a journal of its own, which is not valid any more.
                let journal = beside(output.path(), ".journal");
                if journal != self.journal.path()
                    && let Some(run) = mark::run_of(output.file())
                {
                    Journal::remove_of(&journal, &run);
                }
                output.clear()?;
            }
            moment::pass("opened");
        }
        // A calibration of the same name holds another lock. Each checks the other's after taking its own, so at
        // least one of the two notices.
        if let Some(name) = names(job).find(|name| Saved::is_busy(&beside(name, ".calibrating"))) {
            return Err(Error::Busy(name));
        }
        self.make_room(job, work)?;
        // After the reservation, which writes zeros where the file system cannot reserve without.
        self.outputs.iter().zip(job.files()).filter(|(output, _)| !output.is_renamed()).try_for_each(
            |(output, file)| {
                output.write_at(0, &self.mark(file).0)?;
                output.write_at(mark::BYTES as u64, &job.plan.files[file].layout.header[mark::BYTES..])
            },
        )
    }

    /// The unfinished file of this run, or the finished one that it has renamed; None if there is neither.
    fn find(&self, job: &Job, work: &Work, file: usize, resumed: bool) -> Result<Option<Output>> {
        let path = file_name(job.plan, job.output, file);
        let size = job.plan.files[file].layout.file_size;
        let sealed = self.sealed.contains_key(&file);
        let output = Output::reopen(&path, size, sealed)?;
        let is_ours = output.as_ref().is_some_and(Output::is_renamed);
        if !job.force && !is_ours && path.symlink_metadata().is_ok() {
            return Err(Error::Exists(path));
        }
        let Some(output) = output else { return Ok(None) };
        if job.restart || is_ours {
            return Ok(Some(output));
        }
        let part = output.current().display();
        if !resumed {
            return Err(self.fault(format!("is not there, but {part} is")));
        }
        let mut found = vec![0; size.min(mark::BYTES as u64).min(output.bytes()?) as usize];
        output.read_at(0, &mut found)?;
        match self.mark(file).owner(&found) {
            Owner::This | Owner::Nobody => Ok(Some(output)),
            Owner::Other => Err(self.fault(format!("is not of the run that left {part}"))),
            // Sealed, or its beginning is damaged: then what it holds shows whose it is.
            Owner::Unmarked => match self.holds_any(job, work, file, &output)? {
                true => Ok(Some(output)),
                false => Err(self.fault(format!("tells of other contents than {part} has"))),
            },
        }
    }

    /// Whether any unit that is done is in the file.
    fn holds_any(&self, job: &Job, work: &Work, file: usize, output: &Output) -> Result<bool> {
        let (end, mut blocks) = (output.bytes()?, Vec::new());
        for unit in work.units_of_file(job.plan, file) {
            let range = unit.place(job.plan).1;
            if let Some(done) = self.done[unit.number as usize].filter(|_| range.end <= end) {
                blocks.resize((range.end - range.start) as usize, 0);
                output.read_at(range.start, &mut blocks)?;
                if checksum(&blocks) == done.blocks {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Checks that the disk has room for what is missing, and reserves it.
    fn make_room(&self, job: &Job, work: &Work) -> Result<()> {
        let Some(first) = self.outputs.first() else { return Ok(()) };
        let files = self.outputs.iter().map(Output::needed).sum::<Result<u64>>()?;
        let needed = files + Journal::size(work.units) + super::manifest::size(job);
        if let Some(free) = disk::free(first.file()).filter(|&free| free < needed)
            && job.reserve
        {
            return Err(Error::Space { output: job.output.to_owned(), needed, free });
        }
        self.outputs.iter().filter(|output| !output.is_renamed()).try_for_each(|o| o.reserve(job.reserve))
    }

    /// What is done may be of other weights than those in the fingerprint's sample. If some shards have changed, what
    /// was made of them is made again; if all have, they are most likely a copy, and a warning says so.
    fn look_at_shards(&mut self, job: &Job, work: &Work) {
        let others = self.journal.seen().others(&self.now);
        if others.is_empty() || !self.begun() {
            return;
        }
        if self.now.are_all(&others) || job.plan.feedback.is_some() || !self.sealed.is_empty() {
            let advice = "if so, --restart begins anew, and without it the file is of both";
            self.journal.seen().changed(&self.now, "this work began", advice).iter().for_each(log::warn);
            return;
        }
        let of_others = |name: &str| {
            let Some(stored) = job.store.find(name) else { return false };
            let beside = stored.beside.map(|(file, _)| file);
            [Some(stored.file), beside].iter().flatten().any(|file| others.contains(&**file))
        };
        let is_touched = |unit: &Unit| {
            let tensor = &job.plan.model.tensors[unit.tensor];
            // Without measured importances the norm before it says how a matrix is rounded.
            of_others(&tensor.slices[unit.slice].tensor)
                || tensor.input_norm.as_deref().is_some_and(of_others)
        };
        let units = work.all(job.plan).filter(is_touched).map(|unit| unit.number);
        let units: Vec<u32> = units.filter(|&number| self.done[number as usize].is_some()).collect();
        let first = others.first().copied().unwrap_or_default();
        log::warn(format_args!(
            "{first}: {} of the shards were written or replaced since this work began; what was made of them is made again \
             ({} pieces)",
            others.len(),
            units.len()
        ));
        self.forget(units);
        self.believed = self.now.clone();
    }

    /// Sizes and times of the shards when the work began, and a warning if they have changed.
    pub fn seen(&self, job: &Job) -> Result<(&Seen, Option<Warning>)> {
        let advice = "if so, the file is of both, and --force makes it anew";
        let changed = self.now.changed(&Seen::of(job.checkpoint)?, "this run began", advice);
        Ok((&self.believed, changed))
    }

    /// Removes what else was left by the run whose journal is taken over: unfinished files of another division
    /// (recognised by their marks) and the states of feedback. The files that are taken over stay.
    fn forget_run(&self, job: &Job, run: &[u8; 16], taken: &[&Output]) -> Result<()> {
        let folder = disk::folder(job.output);
        let entries = fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_part = path.as_os_str().as_encoded_bytes().ends_with(b".part");
            if is_part && !taken.iter().any(|output| disk::is_at(output.file(), &path)) {
                mark::remove_of(&path, run);
            }
        }
        if job.plan.feedback.is_none() {
            Saved::forget(beside(&self.name, ".feedback"))?;
        }
        Ok(())
    }

    /// The mark of a file of the plan, by its place there.
    pub fn mark(&self, file: usize) -> Mark {
        Mark::new(&self.work, self.journal.run(), file)
    }

    /// The files, for those who write pieces, and who records them.
    pub fn parts<'a>(&'a mut self, job: &'a Job, work: &'a Work) -> (&'a [Output], Keeper<'a>) {
        let Self { outputs, journal, done, .. } = self;
        let outputs = &outputs[..];
        (outputs, Keeper { job, work, outputs, journal, done, units: Vec::new(), bytes: 0 })
    }

    /// A digest of what the bytes depend on, and of this run.
    pub fn fingerprint(&self) -> String {
        hex(self.journal.digest())
    }

    /// Whether any unit is recorded as done.
    pub fn begun(&self) -> bool {
        self.done.iter().any(Option::is_some)
    }

    /// Whether all units are.
    pub fn is_complete(&self) -> bool {
        self.done.iter().all(Option::is_some)
    }

    /// Takes units for not done: what the file has of them is not what was written.
    pub fn forget(&mut self, units: impl IntoIterator<Item = u32>) {
        units.into_iter().for_each(|number| self.done[number as usize] = None);
    }

    fn fault(&self, problem: String) -> Error {
        Error::Resume { journal: self.journal.path().to_owned(), problem }
    }

    /// Removes what was made, if nothing is done yet.
    fn abandon(self) {
        if !self.begun() {
            self.outputs.into_iter().for_each(Output::discard);
            // With --restart it may still be of other work, which a refusal must not cost.
            if self.journal.is_of_this_run() {
                let _ = self.journal.remove();
            }
        }
    }

    /// The error of a run that stopped: with what is kept, or with nothing left.
    pub fn stopped(self, job: &Job, work: &Work, cause: Error) -> Error {
        if !self.begun() || !self.outputs.iter().all(Output::is_here) {
            self.abandon();
            return cause;
        }
        let (mut all, mut done) = (0, 0);
        for unit in work.all(job.plan) {
            let weights = unit.weights(job.plan);
            all += weights;
            done += if self.done[unit.number as usize].is_some() { weights } else { 0 };
        }
        let percent = (u128::from(done) * 100 / u128::from(all.max(1))) as u64;
        Error::Unfinished { cause: Box::new(cause), percent, output: self.name }
    }
}

/// Records pieces: first the data are made durable, then the records are appended to the journal.
pub struct Keeper<'a> {
    job: &'a Job<'a>,
    work: &'a Work,
    outputs: &'a [Output],
    journal: &'a mut Journal,
    done: &'a mut [Option<Done>],
    /// Written, but not yet durable; and the bytes of it.
    units: Vec<(u32, Done)>,
    bytes: u64,
}

impl Keeper<'_> {
    /// The record of a unit, if there is one.
    pub fn recorded(&self, number: u32) -> Option<Done> {
        self.done[number as usize]
    }

    /// Notes that a unit is written; it is recorded at the next [`record`](Self::record).
    pub fn note(&mut self, number: u32, done: Done, bytes: u64) {
        self.units.push((number, done));
        self.bytes += bytes;
    }

    /// Bytes that were written since the last record.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes what was written durable and records it.
    ///
    /// # Errors
    /// If the system cannot, or a matrix that is complete now looks damaged, and the user is strict.
    pub fn record(&mut self) -> Result<()> {
        if self.units.is_empty() {
            return Ok(());
        }
        moment::pass("recording");
        self.outputs.iter().filter(|output| !output.is_renamed()).try_for_each(Output::sync)?;
        let entries: Vec<Entry> =
            self.units.iter().map(|&(number, done)| Entry::Unit(number, done)).collect();
        self.journal.append(&entries)?;
        self.bytes = 0;
        let mut zeros = false;
        for (number, done) in self.units.drain(..) {
            zeros |= done.zeros.longest > 0;
            self.done[number as usize] = Some(done);
        }
        moment::pass("recorded");
        if zeros && self.job.strict {
            Warning::refuse(&damage::found(self.job, self.work, self.done, self.job.tensors()), true)?;
        }
        Ok(())
    }
}

impl Work {
    /// The units of a file of the plan, in the order in which it has them.
    pub fn units_of_file<'a>(&'a self, plan: &'a Plan, file: usize) -> impl Iterator<Item = Unit> + 'a {
        plan.files[file].tensors.clone().flat_map(move |tensor| self.of_tensor(plan, tensor))
    }
}

/// Everything that the bytes depend on.
pub fn identity(job: &Job) -> Identity {
    let plan = job.plan;
    let headers: Vec<u8> = plan.files.iter().flat_map(|file| &file.layout.header).copied().collect();
    let split = match plan.split {
        Split::Whole => "one file".to_owned(),
        Split::Size(size) => format!("files of {size} bytes"),
        Split::Count(count) => format!("{count} files"),
    };
    let part = job.part.map_or("all".to_owned(), |part| part.to_string());
    let [settings, tensors, sample] = plan.source.parts();
    let parts = [
        ("the tool", TOOL.to_owned()),
        ("the recipe", plan.recipe.clone()),
        ("--override", plan.overrides.join(" ")),
        ("--keep-mtp", plan.options.keep_mtp.to_string()),
        ("--name", plan.options.name.clone().unwrap_or_default()),
        ("--pre", plan.options.pre.clone().unwrap_or_default()),
        ("the division", split),
        (PART, part),
        (
            "--feedback's text, chunks, context or gradients",
            plan.feedback.as_ref().map_or("none".into(), |fed| fed.sha256.clone()),
        ),
        ("the importance matrix", plan.imatrix.clone().unwrap_or("none".into())),
        settings,
        tensors,
        sample,
        ("the header, with the rules' types", hex(&headers)),
    ];
    // An option that earlier versions did not have: without it their work is this one's.
    let side = plan.options.mtp_only.then(|| ("--mtp-only", true.to_string()));
    Identity::new(parts.into_iter().chain(side))
}
