//! The folder beside the output in which layer-by-layer work keeps its state, so that it can be resumed: the hidden
//! states after the last finished layer, and other files of the work.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::milestones::file_name;
use super::states::States;
use super::states_file::{self, Sum};
use crate::checkpoint::Seen;
use crate::disk::{self, Create};
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::log;
use crate::moment;
use crate::whole;

/// The folder, locked against other processes.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    identity: Identity,
    /// Sizes and times of the shards now.
    now: Seen,
    lock: File,
}

/// The marker: what is done, and the checksums of the files that resuming needs. It is renamed last and removed
/// first, so that it never names files that are not there.
#[derive(Serialize, Deserialize)]
struct Done {
    identity: Identity,
    /// Sizes and times of the shards when the work began.
    seen: Seen,
    layers: usize,
    files: BTreeMap<String, Sum>,
}

const DONE: &str = "done.json";

/// The manifest of a result that is about to get its name.
pub const MANIFEST: &str = "manifest.json";

const LOCK: &str = "lock";

/// The most bytes that the marker may have.
const MAX_DONE: u64 = 1 << 20;

impl Saved {
    /// Opens or creates the folder at `path` for a work; `now` has sizes and times of its shards.
    ///
    /// # Errors
    /// If it cannot be created, is a link or no folder of this program's, or another process works in it.
    pub fn open(path: PathBuf, identity: Identity, now: Seen) -> Result<Self> {
        loop {
            make(&path)?;
            let lock_path = path.join(LOCK);
            let file = match disk::open_own(&lock_path, Create::Missing) {
                Ok(file) => file,
                // Another process has just finished and removed the folder.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("create", lock_path, e)),
            };
            if !disk::lock(&file).map_err(|e| Error::io("lock", &lock_path, e))? {
                return Err(Error::Busy(path.with_extension("")));
            }
            if disk::is_at(&file, &lock_path) {
                return Ok(Self { path, identity, now, lock: file });
            }
        }
    }

    /// Whether another process works in a folder of that name.
    pub fn is_busy(path: &Path) -> bool {
        disk::is_locked(&path.join(LOCK))
    }

    /// Removes such a folder, if there is one of this program's.
    ///
    /// # Errors
    /// If another process works in it, or it cannot be removed.
    pub fn forget(path: PathBuf) -> Result<()> {
        if !path.is_dir() {
            return Ok(());
        }
        match Self::open(path, Identity::default(), Seen::default()) {
            Ok(saved) => saved.remove(),
            Err(Error::Argument(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The difference, if the folder is of other work.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn other_work(&self) -> Result<Option<String>> {
        let done = self.done()?;
        let marker = self.path.join(DONE);
        if done.is_none() && marker.exists() {
            log::warn(format_args!(
                "{} is not as it was left; the layers are gone through again",
                marker.display()
            ));
        }
        Ok(done.and_then(|done| done.identity.differences(&self.identity)))
    }

    /// Sizes and times of the shards when the work began.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn seen(&self) -> Result<Seen> {
        Ok(self.mine()?.map_or_else(|| self.now.clone(), |done| done.seen))
    }

    /// Layers that are finished, of the same work, with all that was kept of them as it was; None if nothing was, or is
    /// of use no more.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn layers(&self) -> Result<Option<usize>> {
        let Some(done) = self.mine()? else { return Ok(None) };
        for (name, sum) in &done.files {
            let path = self.path.join(name);
            match Sum::of(&path) {
                Ok(found) if found == *sum => {}
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("read", path, e)),
                _ => {
                    log::warn(format_args!(
                        "{} is not as it was left; the layers are gone through again",
                        path.display()
                    ));
                    return Ok(None);
                }
            }
        }
        Ok(Some(done.layers))
    }

    fn done(&self) -> Result<Option<Done>> {
        let path = self.path.join(DONE);
        let fault = |problem: String| Error::io("read", &path, std::io::Error::other(problem));
        let bytes = match whole::read(&path, MAX_DONE, fault) {
            Ok(bytes) => bytes,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// What is done of the same work.
    fn mine(&self) -> Result<Option<Done>> {
        Ok(self.done()?.filter(|done| done.identity == self.identity))
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps the states after so many layers, and remembers the checksums of `files`, which are in the folder already.
    ///
    /// # Errors
    /// If the disk is full, say.
    pub fn keep(&self, layers: usize, states: &mut States, files: &[String]) -> Result<()> {
        let hidden = file_name(layers);
        let sum = states_file::write(&self.path.join(&hidden), states)?;
        let mut done = self.mine()?.unwrap_or_else(|| self.nothing());
        let before = std::mem::replace(&mut done.layers, layers);
        self.add(&mut done, files)?;
        done.files.insert(hidden, sum);
        if before != layers {
            done.files.remove(&file_name(before));
        }
        self.write(&done)?;
        if before != layers {
            let _ = fs::remove_file(self.path.join(file_name(before)));
        }
        moment::pass("kept");
        Ok(())
    }

    fn nothing(&self) -> Done {
        Done { identity: self.identity.clone(), seen: self.now.clone(), layers: 0, files: BTreeMap::new() }
    }

    fn add(&self, done: &mut Done, files: &[String]) -> Result<()> {
        for name in files {
            let path = self.path.join(name);
            let sum = Sum::of(&path).map_err(|e| Error::io("read", &path, e))?;
            done.files.insert(name.clone(), sum);
        }
        Ok(())
    }

    fn write(&self, done: &Done) -> Result<()> {
        let path = self.path.join(DONE);
        let json = serde_json::to_vec(done).expect("names and numbers are JSON");
        disk::write_whole(&path, &json).map_err(|e| Error::io("write", &path, e))
    }

    /// Reads the states after so many layers.
    ///
    /// # Errors
    /// If the file is not whole.
    pub fn restore(&self, layers: usize, states: &mut States) -> Result<()> {
        states_file::read(&self.path.join(file_name(layers)), states)
    }

    /// The work stopped: the folder stays if anything of it is of use.
    pub fn leave(self) {
        if matches!(self.mine(), Ok(None)) {
            let _ = self.remove();
        }
    }

    /// Forgets what was kept.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn clear(&mut self) -> Result<()> {
        let io = |path: &Path, e: std::io::Error| match e.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(Error::io("remove", path, e)),
        };
        // The marker is removed before the files that it names.
        let done = self.path.join(DONE);
        fs::remove_file(&done).or_else(|e| io(&done, e))?;
        disk::sync_folder(&done);
        moment::pass("unkept");
        let entries = fs::read_dir(&self.path).map_err(|e| Error::io("read", &self.path, e))?;
        for entry in entries {
            let path = entry.map_err(|e| Error::io("read", &self.path, e))?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
                fs::remove_file(&path).or_else(|e| io(&path, e))?;
            }
        }
        Ok(())
    }

    /// Removes what this program has made there, and the folder: the work is done. What others have put there stays,
    /// and the folder with it.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(mut self) -> Result<()> {
        self.clear()?;
        let lock = self.path.join(LOCK);
        match fs::remove_file(&lock) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", lock, e)),
            _ => drop(self.lock),
        }
        // Not empty: there is something of somebody else's.
        let _ = fs::remove_dir(&self.path);
        Ok(())
    }
}

/// Names of files that this program makes in such a folder.
fn is_ours(name: &str) -> bool {
    let numbered = |start: &str, end: &str| {
        let number = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    numbered("hidden-", ".f32")
        || numbered("layer-", ".imatrix")
        || numbered("layer-", ".sensitivity")
        || name == DONE
        || name == MANIFEST
        || name.starts_with(".quantpress-")
}

/// Makes the folder, or makes sure that it is one of this program's.
fn make(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::io("create", path, e)),
    }
    let io = |e| Error::io("read", path, e);
    let refuse = |what: &str| {
        let problem = format!(
            "{} {what}; quantpress keeps unfinished work under that name: remove what is there, or name another output",
            path.display()
        );
        Err(Error::Argument(problem))
    };
    if !path.symlink_metadata().map_err(io)?.is_dir() {
        return refuse("is no folder");
    }
    let mut names = fs::read_dir(path).map_err(io)?.map(|entry| entry.map(|entry| entry.file_name()));
    let foreign = names.find(|name| match name {
        Ok(name) => name.to_str().is_none_or(|name| name != LOCK && !is_ours(name)),
        Err(_) => true,
    });
    match foreign.transpose().map_err(io)? {
        None => Ok(()),
        Some(name) => refuse(&format!("has {} in it", name.display())),
    }
}
