//! The file being written: under a temporary name beside the final one, which it takes only when whole.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::error::{Error, Result};

/// An unfinished file; dropped, it is gone.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    file: NamedTempFile,
}

impl Output {
    /// Creates the temporary file, `size` bytes of zeros.
    ///
    /// # Errors
    /// If the folder is not there or not writable, or `path` is a folder.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
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
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name =
            path.file_name().ok_or_else(|| Error::Argument(format!("{} names no file", path.display())))?;
        let mut prefix = name.to_owned();
        prefix.push(".");
        let mut builder = Builder::new();
        builder.prefix(&prefix).suffix(".part");
        #[cfg(unix)]
        {
            // As any program's output: the umask decides, not the privacy of temporary files.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let io = |e| Error::io("create", path, e);
        let file = builder.tempfile_in(folder).map_err(io)?;
        file.as_file().set_len(size).map_err(io)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes bytes at a position, from any thread.
    ///
    /// # Errors
    /// If the system cannot, for instance because the disk is full.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(self.file.as_file(), offset, bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Reads back bytes that were written.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        read_exact_at(self.file.as_file(), offset, bytes).map_err(|e| Error::io("read", &self.path, e))
    }

    /// Makes the data durable and gives the file its final name.
    ///
    /// # Errors
    /// If the system cannot; then the final name is as it was.
    pub fn finish(self) -> Result<()> {
        self.file.as_file().sync_all().map_err(|e| Error::io("write", &self.path, e))?;
        self.file.persist(&self.path).map_err(|e| Error::io("rename to", &self.path, e.error))?;
        Ok(())
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        offset += n as u64;
        bytes = &bytes[n..];
    }
    Ok(())
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                offset += n as u64;
                bytes = &mut bytes[n..];
            }
        }
    }
    Ok(())
}
