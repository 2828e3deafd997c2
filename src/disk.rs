//! What is asked of the file system beyond reading and writing: free space, reservations, the page cache, locks.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

/// The page cache keeps what it cannot drop whole, and its pieces have up to this size.
const FOLIO: u64 = 4 << 20;

/// Bytes that an unprivileged writer may still use on the file's disk; None where the system does not tell.
pub fn free(file: &File) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::fstatvfs(file).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    #[cfg(not(unix))]
    return Some(file).and(None);
}

/// Bytes of the disk that the file takes already.
///
/// # Errors
/// If the system cannot tell.
pub fn taken(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
    #[cfg(not(unix))]
    return Ok(metadata.len());
}

/// Writes a small file whole or not at all: under its name with `.part`, synced, renamed.
///
/// # Errors
/// If the system cannot.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)
    };
    let written = write();
    match written {
        Ok(()) => sync_folder(path),
        Err(_) => drop(std::fs::remove_file(&unfinished)),
    }
    written
}

/// Sets aside the disk's blocks for the first `size` bytes, so that writing there cannot run out of space. False where
/// the file system cannot do that.
///
/// # Errors
/// If there is no room.
pub fn reserve(file: &File, size: u64) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        let _ = (file, size);
        Ok(false)
    }
}

/// Gives the cached pages of the range back: they will not be read again. Only advice, so it cannot fail.
pub fn forget(file: &File, range: Range<u64>) {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    {
        // The range before may have ended inside of a piece, which is complete only now.
        let start = range.start / FOLIO * FOLIO;
        if let Some(length) = std::num::NonZeroU64::new(range.end.saturating_sub(start)) {
            let _ = rustix::fs::fadvise(file, start, Some(length), rustix::fs::Advice::DontNeed);
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let _ = (file, range, FOLIO);
}

/// Locks a file against other processes until it is closed; false if another one holds it. A file system without
/// locks counts as locked: nothing better is to be had there.
///
/// # Errors
/// If the system fails otherwise.
pub fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Whether the open file is still the one of this name: another process may have renamed or removed it.
pub fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
        matches!((file.metadata(), path.metadata()), (Ok(a), Ok(b)) if identity(&a) == identity(&b))
    }
    #[cfg(not(unix))]
    return file.metadata().is_ok() && path.exists();
}

/// Makes new and changed names in the folder of `path` durable, where folders can be synced.
pub fn sync_folder(path: &Path) {
    if cfg!(unix)
        && let Ok(folder) = File::open(folder(path))
    {
        let _ = folder.sync_all();
    }
}

/// The folder that a file is in.
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fills `buffer` from a position, from any thread.
///
/// # Errors
/// `UnexpectedEof` if the file ends before.
pub fn read_exact_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset);
    #[cfg(windows)]
    {
        let (mut offset, mut buffer) = (offset, buffer);
        while !buffer.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    offset += n as u64;
                    buffer = &mut buffer[n..];
                }
            }
        }
        Ok(())
    }
}

/// Writes bytes at a position, from any thread.
///
/// # Errors
/// If the system cannot, for instance because the disk is full.
pub fn write_all_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let (mut offset, mut bytes) = (offset, bytes);
        while !bytes.is_empty() {
            let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
            offset += n as u64;
            bytes = &bytes[n..];
        }
        Ok(())
    }
}

/// What makes two names the same file.
#[cfg(unix)]
pub type Id = (u64, u64);
/// What makes two names the same file.
#[cfg(not(unix))]
pub type Id = std::path::PathBuf;

/// What makes two names the same file, links followed; None if there is none.
pub fn id(path: &Path) -> Option<Id> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        path.metadata().ok().map(|file| (file.dev(), file.ino()))
    }
    #[cfg(not(unix))]
    path.canonicalize().ok()
}

/// The most bytes that a name in this folder may have; None where the system does not tell.
pub fn longest_name(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(folder).ok().map(|disk| disk.f_namemax).filter(|&limit| limit > 0);
    #[cfg(not(unix))]
    return Some(folder).and(None);
}
