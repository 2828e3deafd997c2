//! The file being written: `NAME.part` until it is whole and gets its final name. A `.part` that an interrupted run
//! has left can be resumed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::disk::{self, Create};
use crate::error::{Error, Result};

/// An unfinished file, locked against other processes.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    part: PathBuf,
    file: File,
    size: u64,
    /// Under its final name already, by a run that ended between the renaming and the end.
    renamed: bool,
}

impl Output {
    /// Checks that `path` can be the name of a new file.
    ///
    /// # Errors
    /// If it is a folder or a device, or names nothing.
    pub fn check(path: &Path) -> Result<()> {
        if path.is_dir() {
            return Err(Error::Argument(format!(
                "{} is a folder; expected the name of a file",
                path.display()
            )));
        }
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            let problem = format!("{} is no regular file and will not be replaced", path.display());
            return Err(Error::Argument(problem));
        }
        match path.file_name() {
            Some(_) => Ok(()),
            None => Err(Error::Argument(format!("{} names no file", path.display()))),
        }
    }

    /// The name under which `path` is written.
    pub fn part(path: &Path) -> PathBuf {
        beside(path, ".part")
    }

    /// Whether another process is writing `path`.
    pub fn is_busy(path: &Path) -> bool {
        disk::is_locked(&Self::part(path))
    }

    /// Creates the unfinished file, empty.
    ///
    /// # Errors
    /// If it is there, the folder is not there or not writable, or another process is writing the file.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let part = Self::part(path);
        let file = disk::open_own(&part, Create::New).map_err(|e| Error::io("create", path, e))?;
        let output = Self { path: path.to_owned(), part, file, size, renamed: false };
        match output.lock() {
            Ok(()) => Ok(output),
            Err(error) => {
                output.discard();
                Err(error)
            }
        }
    }

    /// Opens the unfinished file of an earlier run, or, if that run may have `sealed` it, the one with the final name.
    /// None if there is neither.
    ///
    /// # Errors
    /// If it cannot be opened, or another process is writing it.
    pub fn reopen(path: &Path, size: u64, sealed: bool) -> Result<Option<Self>> {
        let part = Self::part(path);
        let names = [(false, part.as_path()), (true, path)];
        for (renamed, name) in names.into_iter().take(if sealed { 2 } else { 1 }) {
            match disk::open_own(name, Create::Never) {
                Ok(file) => {
                    let (path, part) = (path.to_owned(), part.clone());
                    let output = Self { path, part, file, size, renamed };
                    output.lock()?;
                    return Ok(Some(output));
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("open", name, e)),
            }
        }
        Ok(None)
    }

    fn lock(&self) -> Result<()> {
        let free = disk::lock(&self.file).map_err(|e| Error::io("lock", self.current(), e))?;
        if free && self.is_here() { Ok(()) } else { Err(Error::Busy(self.path.clone())) }
    }

    /// Forgets what an earlier run wrote.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn clear(&self) -> Result<()> {
        self.file.set_len(0).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Whether the file still has its name: somebody may have moved, removed or replaced it.
    pub fn is_here(&self) -> bool {
        disk::is_at(&self.file, self.current())
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the bytes are now.
    pub fn current(&self) -> &Path {
        if self.renamed { &self.path } else { &self.part }
    }

    /// Whether an earlier run has given it its final name.
    pub fn is_renamed(&self) -> bool {
        self.renamed
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes that the file has.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn bytes(&self) -> Result<u64> {
        self.file.metadata().map(|file| file.len()).map_err(|e| Error::io("read", self.current(), e))
    }

    /// Bytes that the disk must still have for it.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn needed(&self) -> Result<u64> {
        let taken = disk::taken(&self.file).map_err(|e| Error::io("read", &self.part, e))?;
        Ok(self.size.saturating_sub(taken))
    }

    /// Gives the file its size, zeros where nothing was written, with the space for it reserved if `reserve` and the
    /// file system can.
    ///
    /// # Errors
    /// If there is no room.
    pub fn reserve(&self, reserve: bool) -> Result<()> {
        let io = |e| Error::io("reserve space for", &self.path, e);
        if reserve {
            disk::reserve(&self.file, self.size).map_err(io)?;
        }
        self.file.set_len(self.size).map_err(io)
    }

    /// Writes bytes at a position, from any thread.
    ///
    /// # Errors
    /// If the system cannot, for instance because the disk is full.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        disk::write_all_at(&self.file, offset, bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Reads bytes back.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        disk::read_exact_at(&self.file, offset, bytes).map_err(|e| Error::io("read", self.current(), e))
    }

    /// Makes all that was written durable and drops it from the page cache.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn sync(&self) -> Result<()> {
        disk::sync_data(&self.file).map_err(|e| Error::io("write", &self.path, e))?;
        disk::forget(&self.file, 0..self.size);
        Ok(())
    }

    /// Gives the file its final name, unless it has it; in place of a file that is there, if it may `replace` one.
    ///
    /// # Errors
    /// If the system cannot, the unfinished file was removed or replaced, or a file is there that may not be replaced.
    /// Then the final name is as it was.
    pub fn finish(&mut self, replace: bool) -> Result<()> {
        if self.renamed {
            return Ok(());
        }
        disk::sync(&self.file).map_err(|e| Error::io("write", &self.path, e))?;
        if !self.is_here() {
            return Err(Error::Lost(self.part.clone()));
        }
        disk::rename(&self.part, &self.path, replace).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists(self.path.clone()),
            _ => Error::io("rename to", &self.path, e),
        })?;
        disk::sync_folder(&self.path);
        self.renamed = true;
        Ok(())
    }

    /// Removes the unfinished file.
    pub fn discard(self) {
        if !self.renamed && self.is_here() {
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// `path` with something after its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
