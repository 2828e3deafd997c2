//! A small file that gets its name only when it is whole. Until then it has another name beside it, which follows
//! from its own, so that the next run finds and removes what a killed run left.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

use super::{folder, is_at, rename, sync, sync_folder};

/// The unfinished file; dropped, it is gone.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    unfinished: PathBuf,
    file: File,
    finished: bool,
}

impl Replacement {
    /// Begins the file that will be `path`.
    ///
    /// # Errors
    /// If the system cannot create it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let unfinished = unfinished(path);
        // No link is followed and no other program's file is opened: what is there goes, and a new file comes.
        match fs::remove_file(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&unfinished)?;
        Ok(Self { path: path.to_owned(), unfinished, file, finished: false })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes it durable and gives it its name, in place of a file that is there, if it may `replace` one.
    ///
    /// # Errors
    /// If the system cannot; `AlreadyExists` if a file is there and may not be replaced.
    pub fn finish(mut self, replace: bool) -> io::Result<()> {
        sync(&self.file)?;
        if !is_at(&self.file, &self.unfinished) {
            return Err(io::Error::other("another process is writing it"));
        }
        rename(&self.unfinished, &self.path, replace)?;
        self.finished = true;
        sync_folder(&self.path);
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.finished && is_at(&self.file, &self.unfinished) {
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

/// The name until then. A digest, since a longer name than the file's own might not be possible.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().map_or_else(OsString::new, ToOwned::to_owned);
    folder(path).join(format!(".quantpress-{:016x}", XxHash3_64::oneshot(name.as_encoded_bytes())))
}

/// Writes a small file whole or not at all, in place of one that is there.
///
/// # Errors
/// If the system cannot.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    written(path, bytes)?.finish(true)
}

/// Writes a small file whole or not at all, where none is.
///
/// # Errors
/// If the system cannot; `AlreadyExists` if a file is there.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    written(path, bytes)?.finish(false)
}

fn written(path: &Path, bytes: &[u8]) -> io::Result<Replacement> {
    let replacement = Replacement::create(path)?;
    replacement.file().write_all(bytes)?;
    Ok(replacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.json");
        let names = || {
            let names = fs::read_dir(folder.path()).expect("read");
            names.map(|file| file.expect("a file").file_name()).collect::<Vec<_>>()
        };
        drop(Replacement::create(&path).expect("created"));
        assert!(names().is_empty());
        // As a killed run leaves it.
        let killed = Replacement::create(&path).expect("created");
        std::mem::forget(killed);
        write_whole(&path, b"one").expect("written");
        write_whole(&path, b"two").expect("written");
        assert_eq!((fs::read(&path).expect("read"), names()), (b"two".to_vec(), vec!["a.json".into()]));
        let second = Replacement::create(&path).expect("created");
        assert_eq!(second.finish(false).expect_err("there").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&path).expect("read"), names().len()), (b"two".to_vec(), 1));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let [path, victim] = ["a.json", "victim"].map(|name| folder.path().join(name));
        fs::write(&victim, "precious").expect("written");
        std::os::unix::fs::symlink(&victim, unfinished(&path)).expect("a link");
        write_whole(&path, b"one").expect("written");
        assert_eq!(fs::read(&victim).expect("read"), b"precious");
        assert_eq!(fs::read(&path).expect("read"), b"one");
    }
}
