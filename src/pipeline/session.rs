//! The unfinished files and their journal: found or made, checked, with room on the disk, before any weight is read.

use std::path::{Path, PathBuf};

use super::journal::{Entry, Identity, Journal};
use super::{Deviation, Job, Work};
use crate::checkpoint::hex;
use crate::disk;
use crate::error::{Error, Result};
use crate::gguf::{Output, Split, beside};
use crate::recipe::Plan;

/// What is being written, and what of it is done.
#[derive(Debug)]
pub struct Session {
    /// The name that all other names are made from: the output's, or that of the only part.
    pub name: PathBuf,
    /// The journal.
    pub journal: Journal,
    /// The files, by their place among those to be written.
    pub outputs: Vec<Output>,
    /// Deviation of each unit that is done.
    pub done: Vec<Option<Deviation>>,
    /// SHA-256 of files that were finished by an earlier run, by their place in the plan.
    pub sealed: Vec<(u16, [u8; 32])>,
    /// Whether an earlier run began it.
    resumed: bool,
}

/// The final name of a file of the plan, by its place there.
pub fn file_name(plan: &Plan, output: &Path, file: usize) -> PathBuf {
    plan.split.name(output, file, plan.files.len())
}

impl Session {
    /// Finds the unfinished files of the same work, or begins them.
    ///
    /// # Errors
    /// If a file cannot be made, another process is at it, what is there is of other work, or the disk is too small.
    /// What this call has made is removed then.
    pub fn open(job: &Job, work: &Work) -> Result<Self> {
        let plan = job.plan;
        let files = job.files();
        let names: Vec<PathBuf> = files.clone().map(|file| file_name(plan, job.output, file)).collect();
        let sizes = || plan.files[files.clone()].iter().map(|file| file.layout.file_size);
        Output::check(job.output)?;
        names.iter().try_for_each(|name| Output::check(name))?;
        let name = if job.part.is_some() { names[0].clone() } else { job.output.to_owned() };

        let mut journal = Journal::open(&beside(&name, ".journal"))?;
        let identity = identity(job);
        let entries = if job.restart { None } else { journal.resume(&identity)? };
        let resumed = entries.is_some();
        let mut session = Self {
            name,
            journal,
            outputs: Vec::new(),
            done: vec![None; work.units as usize],
            sealed: Vec::new(),
            resumed,
        };
        match session.prepare(job, work, &identity, entries, names.iter().map(PathBuf::as_path).zip(sizes()))
        {
            Ok(()) => Ok(session),
            Err(error) => {
                session.abandon();
                Err(error)
            }
        }
    }

    fn prepare<'a>(
        &mut self,
        job: &Job,
        work: &Work,
        identity: &Identity,
        entries: Option<Vec<Entry>>,
        files: impl Iterator<Item = (&'a Path, u64)>,
    ) -> Result<()> {
        let fault =
            |journal: &Journal, problem| Error::Resume { journal: journal.path().to_owned(), problem };
        if entries.is_none() {
            self.journal.begin(identity)?;
        }
        for entry in entries.into_iter().flatten() {
            match entry {
                Entry::Unit(number, deviation) if number < work.units => {
                    self.done[number as usize] = Some(deviation);
                }
                Entry::Unit(number, _) => {
                    return Err(fault(&self.journal, format!("names piece {number} of {}", work.units)));
                }
                Entry::File(number, sha256) => self.sealed.push((number, sha256)),
            }
        }
        let begun = self.begun();
        for ((path, size), number) in files.zip(job.files()) {
            let sealed = self.sealed.iter().any(|(file, _)| usize::from(*file) == number);
            let part = Output::part(path);
            let output = Output::reopen(path, size, sealed && begun)?;
            let output = match output {
                Some(_) if !self.resumed && !job.restart => {
                    return Err(fault(&self.journal, format!("is not there, but {} is", part.display())));
                }
                Some(output) => output,
                None if begun => {
                    return Err(fault(&self.journal, format!("is there, but {} is not", part.display())));
                }
                None => Output::create(path, size)?,
            };
            if !begun {
                output.clear()?;
            }
            if begun && !output.is_whole_size() {
                let problem =
                    format!("is there, but {} does not have {size} bytes", output.current().display());
                return Err(fault(&self.journal, problem));
            }
            self.outputs.push(output);
        }
        self.make_room(job)
    }

    /// Checks that the disk has room for what is missing, and reserves it.
    fn make_room(&self, job: &Job) -> Result<()> {
        let Some(first) = self.outputs.first() else { return Ok(()) };
        let needed = self.outputs.iter().map(Output::needed).sum::<Result<u64>>()?;
        if let Some(free) = disk::free(first.file()).filter(|&free| free < needed)
            && job.reserve
        {
            return Err(Error::Space { output: job.output.to_owned(), needed, free });
        }
        self.outputs.iter().filter(|output| !output.is_renamed()).try_for_each(|o| o.reserve(job.reserve))
    }

    /// Writes the headers of the files that do not have their names yet.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn write_headers(&self, job: &Job) -> Result<()> {
        let unfinished = |(output, _): &(&Output, _)| !output.is_renamed();
        let files = self.outputs.iter().zip(&job.plan.files[job.files()]).filter(unfinished);
        files.into_iter().try_for_each(|(output, file)| output.write_at(0, &file.layout.header))
    }

    /// The files, for those who write pieces, and who records them.
    pub fn parts(&mut self) -> (&[Output], Keeper<'_>) {
        let Self { outputs, journal, done, .. } = self;
        let outputs = &outputs[..];
        (outputs, Keeper { outputs, journal, done, entries: Vec::new(), bytes: 0 })
    }

    /// A digest of what the bytes depend on.
    pub fn fingerprint(&self) -> String {
        hex(self.journal.digest())
    }

    /// Whether any unit is recorded as done.
    pub fn begun(&self) -> bool {
        self.done.iter().any(Option::is_some)
    }

    /// Removes what was made, if nothing is done yet and no earlier run began it.
    fn abandon(self) {
        if !self.resumed {
            self.outputs.into_iter().for_each(Output::discard);
            let _ = self.journal.remove();
        }
    }

    /// The error of a run that stopped: with what is kept, or with nothing left.
    pub fn stopped(self, job: &Job, work: &Work, cause: Error) -> Error {
        if !self.begun() {
            for output in self.outputs {
                output.discard();
            }
            let _ = self.journal.remove();
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

/// Records pieces: first what is written is made durable, then the journal tells of it.
#[derive(Debug)]
pub struct Keeper<'a> {
    outputs: &'a [Output],
    journal: &'a mut Journal,
    done: &'a mut [Option<Deviation>],
    /// Written, but not yet durable; and the bytes of it.
    entries: Vec<Entry>,
    bytes: u64,
}

impl Keeper<'_> {
    /// Whether a unit is recorded.
    pub fn is_done(&self, number: u32) -> bool {
        self.done[number as usize].is_some()
    }

    /// A unit is written.
    pub fn note(&mut self, number: u32, deviation: Deviation, bytes: u64) {
        self.entries.push(Entry::Unit(number, deviation));
        self.bytes += bytes;
    }

    /// Bytes that were written since the last record.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes what was written durable and records it.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn record(&mut self) -> Result<()> {
        if !self.entries.is_empty() {
            self.outputs.iter().filter(|output| !output.is_renamed()).try_for_each(Output::sync)?;
            self.journal.append(&self.entries)?;
        }
        for entry in self.entries.drain(..) {
            if let Entry::Unit(number, deviation) = entry {
                self.done[number as usize] = Some(deviation);
            }
        }
        self.bytes = 0;
        Ok(())
    }
}

/// Everything that the bytes depend on.
fn identity(job: &Job) -> Identity {
    let plan = job.plan;
    let headers: Vec<u8> = plan.files.iter().flat_map(|file| &file.layout.header).copied().collect();
    let split = match plan.split {
        Split::Whole => "one file".to_owned(),
        Split::Size(size) => format!("files of {size} bytes"),
        Split::Count(count) => format!("{count} files"),
    };
    let part = job.part.map_or("all".to_owned(), |part| part.to_string());
    let parts = [
        ("the tool", concat!("quantpress ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("the recipe", plan.recipe.clone()),
        ("--override", plan.overrides.join(" ")),
        ("--keep-mtp", plan.options.keep_mtp.to_string()),
        ("--name", plan.options.name.clone().unwrap_or_default()),
        ("--pre", plan.options.pre.clone().unwrap_or_default()),
        ("the division", split),
        ("--part", part),
        ("--feedback's text", plan.feedback.clone().unwrap_or("none".into())),
        ("the importance matrix", plan.imatrix.clone().unwrap_or("none".into())),
        ("the checkpoint's configuration and tokenizer", plan.source.settings.clone()),
        ("the checkpoint's list of tensors", plan.source.tensors.clone()),
        ("the checkpoint's weights, as sampled", plan.source.sample.clone()),
        ("the header, with the rules' types", hex(&headers)),
    ];
    Identity(parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
