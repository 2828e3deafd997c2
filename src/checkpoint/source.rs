//! Where a checkpoint's bytes come from: positioned reads of named files, and nothing else.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::disk;
use crate::error::{Error, Result};
use crate::limits;

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

    /// A whole file of `size` bytes, if the place has a shorter way to it than its ranges.
    ///
    /// # Errors
    /// As [`Source::read_at`].
    fn packed(&self, _file: &str, _size: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Names of the files directly in a folder of the checkpoint ("" is its own), sorted; none if there is no such
    /// folder.
    ///
    /// # Errors
    /// If the folder cannot be read.
    fn files(&self, folder: &str) -> io::Result<Vec<String>>;

    /// What tells one version of the file from another without a look inside, where that is known: a local file's is
    /// when it was written last, in nanoseconds.
    ///
    /// # Errors
    /// If it is not there, or the system call fails.
    fn version(&self, _file: &str) -> io::Result<Option<String>> {
        Ok(None)
    }

    /// Reads all these pieces, at once where that takes less time.
    ///
    /// # Errors
    /// As [`Source::read_at`], with the number of the piece.
    fn read_all(&self, wanted: &mut [Wanted]) -> Result<(), (usize, io::Error)> {
        let mut pieces = wanted.iter_mut().enumerate();
        pieces.try_for_each(|(index, piece)| {
            self.read_at(&piece.file, piece.offset, &mut piece.bytes).map_err(|error| (index, error))
        })
    }

    /// The file will be read from `offset` on, soon: a place far away may begin to send.
    fn expect(&self, _file: &str, _offset: u64) {}

    /// Bytes of memory that it takes for reading ahead.
    fn buffers(&self) -> u64 {
        0
    }

    /// The range will not be read again: whatever is cached of it may go.
    fn forget(&self, _file: &str, _range: Range<u64>) {}

    /// The file's place, as messages name it.
    fn path(&self, file: &str) -> PathBuf;
}

/// A piece of a file to be read, and the room for its bytes.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The file.
    pub file: String,
    /// Where the piece begins.
    pub offset: u64,
    /// As long as the piece.
    pub bytes: Vec<u8>,
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
    let read = || match source.packed(file, size)? {
        Some(bytes) => Ok(bytes),
        None => {
            let mut bytes = vec![0; size as usize];
            source.read_at(file, 0, &mut bytes).map(|()| bytes)
        }
    };
    let bytes = read().map_err(|e| Error::io("read", source.path(file), e))?;
    refuse_stand_in(file, &bytes)?;
    Ok(bytes)
}

/// Refuses what tools leave in a file's place when they could not get it.
///
/// # Errors
/// If the file begins as one of these.
pub fn refuse_stand_in(file: &str, start: &[u8]) -> Result<()> {
    if start.starts_with(b"version https://git-lfs") {
        let problem = "is a Git LFS pointer and not the file itself: git lfs pull, or hf download, gets it";
        return Err(Error::file(file, problem));
    }
    let start = start.trim_ascii_start();
    let is_page = |tag: &[u8]| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    if is_page(b"<!doctype html") || is_page(b"<html") {
        return Err(Error::file(file, "is a web page, as a download leaves that was refused"));
    }
    Ok(())
}

/// Whether the file exists.
///
/// # Errors
/// If the system cannot say.
pub fn exists(source: &dyn Source, file: &str) -> Result<bool> {
    match source.size(file) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("read", source.path(file), e)),
    }
}

/// More files are never kept open.
const MOST_OPEN: usize = 512;

/// A folder of the local file system. Files stay open once read, but no more than the system lets a process have: the
/// one that was not read for longest is closed.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    open: Mutex<OpenFiles>,
}

/// Open files by name, and when each was last asked for.
#[derive(Debug)]
struct OpenFiles {
    files: HashMap<String, (Arc<File>, u64)>,
    asked: u64,
    most: usize,
}

impl OpenFiles {
    fn get(&mut self, name: &str) -> Option<Arc<File>> {
        self.asked += 1;
        let (file, last) = self.files.get_mut(name)?;
        *last = self.asked;
        Some(Arc::clone(file))
    }

    fn insert(&mut self, name: &str, file: &Arc<File>) {
        while self.files.len() >= self.most {
            let oldest = self.files.iter().min_by_key(|(_, (_, last))| *last).map(|(name, _)| name.clone());
            self.files.remove(&oldest.expect("at least one may be open"));
        }
        self.files.insert(name.to_owned(), (Arc::clone(file), self.asked));
    }
}

impl Folder {
    /// The folder at `root`; nothing is read yet.
    pub fn new(root: &Path) -> Self {
        // Outputs, journals and temporary files need some too.
        Self::with_open_files(root, limits::open_files() / 2)
    }

    /// The same with at most so many files open.
    fn with_open_files(root: &Path, most: usize) -> Self {
        let open = OpenFiles { files: HashMap::new(), asked: 0, most: most.clamp(1, MOST_OPEN) };
        Self { root: root.to_owned(), open: Mutex::new(open) }
    }

    /// The folder that holds this file.
    pub fn of_file(path: &Path) -> Self {
        Self::new(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    fn file(&self, name: &str) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().expect("no thread panics while it holds the list of open files");
        if let Some(file) = open.get(name) {
            return Ok(file);
        }
        let path = self.root.join(name);
        // Asked before it is opened: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(&path).map_err(|e| leads_nowhere(&path).unwrap_or(e))?;
        if !metadata.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        let file = Arc::new(File::open(path)?);
        open.insert(name, &file);
        Ok(file)
    }
}

/// The error of a link whose end is not there, which is not absent: somebody means something to be there.
fn leads_nowhere(path: &Path) -> Option<io::Error> {
    let target = std::fs::read_link(path).ok().filter(|_| !path.exists())?;
    Some(io::Error::other(format!("it is a link to {}, which is not there", target.display())))
}

impl Source for Folder {
    fn size(&self, file: &str) -> io::Result<u64> {
        Ok(self.file(file)?.metadata()?.len())
    }

    fn read_at(&self, file: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        disk::read_exact_at(&*self.file(file)?, offset, buffer)
    }

    fn files(&self, folder: &str) -> io::Result<Vec<String>> {
        let path = self.root.join(folder);
        let entries = match std::fs::read_dir(&path).map_err(|e| leads_nowhere(&path).unwrap_or(e)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // Files whose names are not UTF-8 do not belong to a checkpoint.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !entry.path().is_dir() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn version(&self, file: &str) -> io::Result<Option<String>> {
        // By the name: the shard may have been replaced since it was opened.
        let time = std::fs::metadata(self.root.join(file))?.modified()?;
        let time = time.duration_since(SystemTime::UNIX_EPOCH).ok();
        Ok(time.map(|time| time.as_nanos().to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_files_are_open_than_may_be() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        for n in 0..10u8 {
            std::fs::write(folder.path().join(n.to_string()), [n]).expect("written");
        }
        let source = Folder::with_open_files(folder.path(), 3);
        for n in (0..10).chain((0..10).rev()).chain([5, 5, 0, 5]) {
            let mut byte = [99];
            source.read_at(&n.to_string(), 0, &mut byte).expect("read");
            assert_eq!(byte, [n]);
            assert!(source.open.lock().expect("sound").files.len() <= 3);
        }
        let open = source.open.lock().expect("sound");
        let mut names: Vec<&str> = open.files.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["0", "1", "5"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_not_absent() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        std::os::unix::fs::symlink("../blobs/0000", folder.path().join("a.json")).expect("a link");
        let source = Folder::new(folder.path());
        let error = exists(&source, "a.json").expect_err("dangling");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(error.to_string().contains("a.json") && cause.contains("../blobs/0000"), "{error}: {cause}");
        assert!(!exists(&source, "b.json").expect("absent"));
        assert_eq!(source.files("b.json").expect("absent"), [""; 0]);
        assert!(source.files("a.json").expect_err("dangling").to_string().contains("../blobs/0000"));
    }
}
