//! Where a checkpoint's bytes come from: positioned reads of named files, and nothing else.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::disk;
use crate::error::{Error, Result};

/// Files that can be read at any position, from any thread. The seam for other places than a local folder.
pub trait Source: Send + Sync + fmt::Debug {
    /// Bytes in the file.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    fn size(&self, file: &str) -> io::Result<u64>;

    /// Fills `buffer` with the file's bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before.
    fn read_at(&self, file: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// The range will not be read again: whatever is cached of it may go.
    fn forget(&self, _file: &str, _range: Range<u64>) {}

    /// The file's place, as messages name it.
    fn path(&self, file: &str) -> PathBuf;
}

/// Reads a whole small file; `limit` bounds what a hostile size can allocate.
///
/// # Errors
/// If it is not there, cannot be read, or is larger than `limit` bytes.
pub fn read_file(source: &dyn Source, file: &str, limit: u64) -> Result<Vec<u8>> {
    let size = source.size(file).map_err(|e| Error::io("read", source.path(file), e))?;
    if size > limit {
        return Err(Error::file(file, format!("has {size} bytes; at most {limit} are expected")));
    }
    let mut bytes = vec![0; size as usize];
    source.read_at(file, 0, &mut bytes).map_err(|e| Error::io("read", source.path(file), e))?;
    Ok(bytes)
}

/// Whether the file exists.
///
/// # Errors
/// If that cannot be told.
pub fn exists(source: &dyn Source, file: &str) -> Result<bool> {
    match source.size(file) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("read", source.path(file), e)),
    }
}

/// A folder of the local file system; files stay open once read.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    open: Mutex<HashMap<String, Arc<File>>>,
}

impl Folder {
    /// The folder at `root`; nothing is read yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), open: Mutex::default() }
    }

    /// The folder that holds this file.
    pub fn of_file(path: &Path) -> Self {
        Self::new(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    fn file(&self, name: &str) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().expect("no thread panics while it holds the list of open files");
        if let Some(file) = open.get(name) {
            return Ok(Arc::clone(file));
        }
        // Asked before it is opened: opening a pipe would wait for a writer.
        if !std::fs::metadata(self.root.join(name))?.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        let file = Arc::new(File::open(self.root.join(name))?);
        open.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

impl Source for Folder {
    fn size(&self, file: &str) -> io::Result<u64> {
        Ok(self.file(file)?.metadata()?.len())
    }

    fn read_at(&self, file: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        disk::read_exact_at(&*self.file(file)?, offset, buffer)
    }

    fn forget(&self, file: &str, range: Range<u64>) {
        if let Ok(file) = self.file(file) {
            disk::forget(&file, range);
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }
}
