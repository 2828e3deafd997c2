//! The file being written: `NAME.part` beside the final name, which it takes only when whole. A `.part` stays where it
//! is until then, so that work on it can go on another day.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::disk;
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
    /// Of no use unless whole: nobody can go on with it.
    fleeting: bool,
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.fleeting && !self.renamed {
            let _ = fs::remove_file(&self.part);
        }
    }
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

    /// Creates the unfinished file, empty.
    ///
    /// # Errors
    /// If it is there, the folder is not there or not writable, or another process is writing the file.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let part = Self::part(path);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&part);
        Self::locked(path, part, file.map_err(|e| Error::io("create", path, e))?, size, false)
    }

    /// Creates a file that is made in one go, with its size and its space reserved; unfinished, it is gone when dropped.
    ///
    /// # Errors
    /// As [`create`](Self::create), and if there is no room.
    pub fn in_one_go(path: &Path, size: u64) -> Result<Self> {
        Self::check(path)?;
        let mut output = match Self::reopen(path, size, false)? {
            Some(output) => output,
            None => Self::create(path, size)?,
        };
        output.fleeting = true;
        output.clear()?;
        output.reserve(true)?;
        Ok(output)
    }

    /// Forgets what an earlier run wrote.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn clear(&self) -> Result<()> {
        self.file.set_len(0).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Opens the unfinished file of an earlier run, or, if that run may have `sealed` it, the one with the final name.
    /// None if there is neither.
    ///
    /// # Errors
    /// If it cannot be opened, or another process is writing it.
    pub fn reopen(path: &Path, size: u64, sealed: bool) -> Result<Option<Self>> {
        let names = [(Self::part(path), false), (path.to_owned(), true)];
        for (name, renamed) in names.into_iter().take(if sealed { 2 } else { 1 }) {
            match OpenOptions::new().read(true).write(true).open(&name) {
                Ok(file) => return Self::locked(path, Self::part(path), file, size, renamed).map(Some),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("open", name, e)),
            }
        }
        Ok(None)
    }

    fn locked(path: &Path, part: PathBuf, file: File, size: u64, renamed: bool) -> Result<Self> {
        let name = if renamed { path } else { &part };
        let free = disk::lock(&file).map_err(|e| Error::io("lock", name, e))?;
        if !free || !disk::is_at(&file, name) {
            return Err(Error::Busy(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), part, file, size, renamed, fleeting: false })
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

    /// Bytes that the disk must still have for it.
    ///
    /// # Errors
    /// If the system cannot tell.
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

    /// Whether the file has its whole size.
    pub fn is_whole_size(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.len() == self.size)
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
        self.file.sync_data().map_err(|e| Error::io("write", &self.path, e))?;
        disk::forget(&self.file, 0..self.size);
        Ok(())
    }

    /// Gives the file its final name, unless it has it.
    ///
    /// # Errors
    /// If the system cannot; then the final name is as it was.
    pub fn finish(&mut self) -> Result<()> {
        if !self.renamed {
            self.file.sync_all().map_err(|e| Error::io("write", &self.path, e))?;
            fs::rename(&self.part, &self.path).map_err(|e| Error::io("rename to", &self.path, e))?;
            disk::sync_folder(&self.path);
            self.renamed = true;
        }
        Ok(())
    }

    /// Removes the unfinished file.
    pub fn discard(mut self) {
        self.fleeting = true;
    }
}

/// `path` with something after its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
