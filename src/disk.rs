//! File system calls beyond reading and writing: free space, reservations, the page cache, locks, names.

mod replacement;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::path::Path;

pub use replacement::{Replacement, write_new, write_whole};
use sha2::{Digest, Sha256};

/// The page cache keeps what it cannot drop whole, and its pieces have up to this size.
const FOLIO: u64 = 4 << 20;

/// Bytes that an unprivileged writer may still use on the file's disk; None where the system does not say.
pub fn free(file: &File) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::fstatvfs(file).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    #[cfg(not(unix))]
    return Some(file).and(None);
}

/// Bytes of the disk that the file takes already.
///
/// # Errors
/// If the system call fails.
pub fn taken(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
    #[cfg(not(unix))]
    return Ok(metadata.len());
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

/// Opens a file of this program's own for reading and writing, creating it if asked. A link is not followed, and what
/// is no regular file is refused: neither can be such a file, and opening a pipe would wait.
///
/// # Errors
/// If the system cannot, or it is something else; `AlreadyExists` or `NotFound`, as for any file.
pub fn open_own(path: &Path, create: Create) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match create {
        Create::Never => {}
        Create::Missing => drop(options.create(true)),
        Create::New => drop(options.create_new(true)),
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;

        use rustix::fs::OFlags;
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    }
    let foreign = || {
        io::Error::other(
            "is no regular file; this program keeps its own files under such names: remove what is there, or name another output",
        )
    };
    // The system's messages about links, folders and sockets do not help a user.
    let is_other = || path.symlink_metadata().is_ok_and(|found| !found.is_file());
    let file = options.open(path).map_err(|e| if is_other() { foreign() } else { e })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(foreign()),
    }
}

/// Whether another process holds the lock of a file of this program's own; false if there is no such file.
pub fn is_locked(path: &Path) -> bool {
    open_own(path, Create::Never).is_ok_and(|file| matches!(lock(&file), Ok(false)))
}

/// Whether opening a file may create it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// It must be there.
    Never,
    /// If it is not there.
    Missing,
    /// It must not be there.
    New,
}

/// Locks a file against other processes until it is closed; false if another one holds it. A file system without
/// locks (some network file systems) counts as locked: nothing better is to be had there.
///
/// # Errors
/// If the system fails otherwise.
pub fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) if is_unsupported(&e) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Makes what was written to a file durable. A file system that cannot promise that is not asked to.
///
/// # Errors
/// If the system could, and failed.
pub fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(e) if is_unsupported(&e) => Ok(()),
        result => result,
    }
}

/// [`sync`] of the data and the size alone.
///
/// # Errors
/// As for [`sync`].
pub fn sync_data(file: &File) -> io::Result<()> {
    match file.sync_data() {
        Err(e) if is_unsupported(&e) => Ok(()),
        result => result,
    }
}

/// Whether the file system does not have what was asked for: no lock service, no syncing, no such call.
fn is_unsupported(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let known = [Errno::NOLCK, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP, Errno::INVAL];
        if error.raw_os_error().is_some_and(|code| known.iter().any(|errno| errno.raw_os_error() == code)) {
            return true;
        }
    }
    error.kind() == io::ErrorKind::Unsupported
}

/// Gives a file another name, in place of a file that has it, if it may `replace` one.
///
/// # Errors
/// If the system cannot; `AlreadyExists` if there is a file and it may not be replaced.
pub fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(from, to);
    }
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(e) if !is_unsupported(&e.into()) => return Err(e.into()),
            // Some network file systems cannot do it in one step.
            Err(_) => {}
        }
    }
    match to.symlink_metadata() {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// Whether the open file is still the one of this name: another process may have renamed or removed it.
pub fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        matches!((file.metadata(), path.symlink_metadata()), (Ok(a), Ok(b)) if identity(&a) == identity(&b))
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

/// SHA-256 of a file from its first byte to its last, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn sha256(file: &File) -> io::Result<String> {
    let size = file.metadata()?.len();
    let (mut digest, mut chunk, mut at) = (Sha256::new(), vec![0; 1 << 20], 0);
    while at < size {
        let chunk = &mut chunk[..(size - at).min(1 << 20) as usize];
        read_exact_at(file, at, chunk)?;
        digest.update(&*chunk);
        at += chunk.len() as u64;
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Identifies a file: two names with equal ids are the same file.
#[cfg(unix)]
pub type Id = (u64, u64);
/// Identifies a file: two names with equal ids are the same file.
#[cfg(not(unix))]
pub type Id = std::path::PathBuf;

/// The id of the file at `path`, links followed; None if there is none.
pub fn id(path: &Path) -> Option<Id> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        path.metadata().ok().map(|file| (file.dev(), file.ino()))
    }
    #[cfg(not(unix))]
    path.canonicalize().ok()
}

/// The most bytes that a name in this folder may have; None where the system does not say.
#[cfg(feature = "cli")]
pub fn longest_name(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(folder).ok().map(|disk| disk.f_namemax).filter(|&limit| limit > 0);
    #[cfg(not(unix))]
    return Some(folder).and(None);
}
