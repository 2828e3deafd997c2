//! Files are made one after the other, and each is sent while the next is made: so at most two lie on this machine, if
//! those that are sent are removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};

use super::{Announced, Content, NOTE, Place, Target, Upload};
use crate::error::{Error, Result};
use crate::gguf::beside;
use crate::log;
use crate::pipeline::{Job, Made, file_name, made_of};
use crate::recipe::Plan;

/// How files leave.
pub struct Release<'a> {
    /// Where they go, as the user names it.
    pub target: &'a Target,
    /// Where they go.
    pub place: &'a dyn Place,
    /// The card, which goes with the first of them; None leaves what is there.
    pub card: Option<Upload>,
    /// Whether a file is removed from this machine when it is there.
    pub remove: bool,
    /// Whether files of other work that are there are replaced, and files of this work sent again.
    pub force: bool,
    /// Hears what happens, from any thread.
    pub told: &'a (dyn Fn(Told) + Sync),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told<'a> {
    /// A file was there already, of this very work.
    There(&'a str),
    /// A file is sent from now on.
    Sending(&'a str, u64),
    /// So many more bytes of a file are sent.
    Sent(&'a str, u64),
    /// A file is there, with its manifest.
    Uploaded(&'a str),
}

/// A file that is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
    /// Whether an earlier run, on whatever machine, had sent it.
    pub already: bool,
}

/// Makes the files of each job and sends them; what the place has of this very work is neither made nor sent.
///
/// # Errors
/// If a file of other work is there; if one cannot be made or sent. Finished files are kept here then, and the same
/// command goes on.
pub fn run(
    release: &Release,
    jobs: &[Job],
    make: &(dyn Fn(&Job) -> Result<Made> + Sync),
) -> Result<Vec<Released>> {
    let mut found = Vec::with_capacity(jobs.len());
    for job in jobs {
        found.push(release.find(job)?);
    }
    let missing = jobs.iter().zip(&found).filter(|(_, found)| found.is_none());
    let announced: Vec<Announced> = missing.flat_map(|(job, _)| announced(job)).collect();
    if !announced.is_empty() {
        release.place.ask(&announced).map_err(|error| release.fault(release.target.file_name(), error))?;
    }
    let mut card = release.card.clone();
    let mut all = Vec::new();
    thread::scope(|scope| {
        let mut on_its_way: Option<ScopedJoinHandle<Result<()>>> = None;
        for (job, found) in jobs.iter().zip(found) {
            if let Some(found) = found {
                for (path, file) in files(job).zip(&found) {
                    (release.told)(Told::There(&file.name));
                    // As a run leaves them that was killed before it removed them.
                    remove(&beside(&path, NOTE))?;
                    let manifest = fs::read(beside(&path, ".json")).unwrap_or_default();
                    if release.remove && made_of(job, &manifest).as_ref() == Some(&file.sha256) {
                        release.forget(&path)?;
                    }
                }
                all.extend(found);
                continue;
            }
            let made = make(job);
            let sent = on_its_way.take().map_or(Ok(()), join);
            // Of two errors the first one's cause is that of both, or they have nothing to do with each other.
            let made = match (made, sent) {
                (Ok(made), sent) => sent.map(|()| made)?,
                // Stopped before anything of the next file was done: what is said is what is kept.
                (Err(Error::Interrupted), Err(sent)) => return Err(sent),
                (Err(error), sent) => {
                    if let Err(sent) = sent {
                        log::warn(sent.chain());
                    }
                    return Err(error);
                }
            };
            let files: Vec<Released> = released(job, &made);
            all.extend(files.iter().cloned());
            let card = card.take();
            on_its_way = Some(scope.spawn(move || release.send(&made.files, &files, card)));
        }
        on_its_way.map_or(Ok(()), join)
    })?;
    Ok(all)
}

fn join(sender: ScopedJoinHandle<Result<()>>) -> Result<()> {
    sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A job's files on this machine.
fn files<'a>(job: &'a Job) -> impl Iterator<Item = PathBuf> + 'a {
    job.files().map(|file| file_name(job.plan, job.output, file))
}

/// The name of a file of the plan, by its place there, which it has here and there.
pub fn name(plan: &Plan, output: &Path, file: usize) -> String {
    let path = file_name(plan, output, file);
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The places of a job's files in the plan, and their names.
fn names<'a>(job: &'a Job) -> impl Iterator<Item = (usize, String)> + 'a {
    job.files().map(|file| (file, name(job.plan, job.output, file)))
}

fn announced<'a>(job: &'a Job) -> impl Iterator<Item = Announced<'a>> + 'a {
    names(job).map(|(file, name)| {
        let layout = &job.plan.files[file].layout;
        Announced { name, size: layout.file_size, head: &layout.header }
    })
}

fn released(job: &Job, made: &Made) -> Vec<Released> {
    let file = |((file, name), sha256): ((usize, String), &String)| Released {
        name,
        bytes: job.plan.files[file].layout.file_size,
        sha256: sha256.clone(),
        already: false,
    };
    names(job).zip(&made.digests).map(file).collect()
}

impl Release<'_> {
    /// The job's files, if all are there and of this very work, as their manifests there say.
    fn find(&self, job: &Job) -> Result<Option<Vec<Released>>> {
        if self.force {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (file, name) in names(job) {
            let fault = |error| self.fault(&name, error);
            let Some(there) = self.place.find(&name).map_err(fault)? else {
                all.push(None);
                continue;
            };
            let manifest = self.place.read(&manifest_of(&name)).map_err(fault)?.unwrap_or_default();
            let sha256 = made_of(job, &manifest).filter(|sha256| there.sha256.as_ref() == Some(sha256));
            let bytes = job.plan.files[file].layout.file_size;
            let Some(sha256) = sha256.filter(|_| there.size == bytes) else {
                return Err(Error::Exists(self.path(&name)));
            };
            all.push(Some(Released { name, bytes, sha256, already: true }));
        }
        Ok(all.into_iter().collect())
    }

    /// Sends finished files, one after the other.
    fn send(&self, files: &[PathBuf], released: &[Released], mut card: Option<Upload>) -> Result<()> {
        for (path, Released { name, bytes, sha256, .. }) in files.iter().zip(released) {
            (self.told)(Told::Sending(name, *bytes));
            let manifest = beside(path, ".json");
            let read = |error| Error::io("read", &manifest, error);
            let mut uploads = vec![
                Upload {
                    name: name.clone(),
                    content: Content::File { path: path.clone(), size: *bytes, sha256: sha256.clone() },
                },
                Upload { name: manifest_of(name), content: Content::of_file(&manifest).map_err(read)? },
            ];
            uploads.extend(card.take());
            let sent = |bytes| (self.told)(Told::Sent(name, bytes));
            self.place.put(&uploads, &format!("Add {name}"), &sent).map_err(|error| {
                if error.kind() == io::ErrorKind::Interrupted {
                    let (cause, output) = (Box::new(Error::Interrupted), path.clone());
                    return Error::Unfinished { cause, percent: 100, output };
                }
                let kept = format!("; {} is finished and kept, and the same command goes on", path.display());
                self.fault(name, io::Error::new(error.kind(), format!("{error}{kept}")))
            })?;
            (self.told)(Told::Uploaded(name));
            if self.remove {
                self.forget(path)?;
            }
        }
        Ok(())
    }

    /// Removes a file from this machine, and then its manifest.
    fn forget(&self, path: &Path) -> Result<()> {
        remove(path).and_then(|()| remove(&beside(path, ".json")))
    }

    /// The whole name of a file there.
    fn path(&self, name: &str) -> PathBuf {
        let target = self.target.to_string();
        format!("{}{name}", &target[..target.len() - self.target.file_name().len()]).into()
    }

    fn fault(&self, name: &str, error: io::Error) -> Error {
        Error::io("upload", self.path(name), error)
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn manifest_of(name: &str) -> String {
    format!("{name}.json")
}
