//! Small files that are read whole. The check is made on the open file, not on its path: it must be a regular file (a
//! pipe would wait for a writer, a device may never end), and no more than a limit is read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a regular file. `fault` makes an error of what is wrong with any other.
///
/// # Errors
/// If it cannot be opened, or is no regular file.
pub fn open(path: &Path, fault: impl FnOnce(String) -> Error) -> Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        // Opening a pipe waits for a writer otherwise. For regular files it means nothing.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits().cast_signed());
    }
    let file = options.open(path).map_err(|e| Error::io("read", path, e))?;
    match file.metadata().map_err(|e| Error::io("read", path, e))?.is_file() {
        true => Ok(file),
        false => Err(fault("is no regular file".into())),
    }
}

/// All bytes of a regular file of at most `limit`. `fault` makes an error of what is wrong with any other.
///
/// # Errors
/// If it cannot be read, is no regular file, or has more bytes.
pub fn read(path: &Path, limit: u64, fault: impl Fn(String) -> Error) -> Result<Vec<u8>> {
    let io = |e| Error::io("read", path, e);
    let file = open(path, &fault)?;
    let size = file.metadata().map_err(io)?.len();
    let large = |bytes: &str| Err(fault(format!("has {bytes} bytes; up to {limit} are read")));
    if size > limit {
        return large(&size.to_string());
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // Files of /proc say that they have no bytes, and others may grow.
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if read as u64 > limit { large(&format!("more than {limit}")) } else { Ok(bytes) }
}

/// The same as text.
///
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub fn read_text(path: &Path, limit: u64, fault: impl Fn(String) -> Error) -> Result<String> {
    String::from_utf8(read(path, limit, &fault)?).map_err(|e| fault(format!("is no text in UTF-8: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(path: &Path) -> String {
        read(path, 10, Error::Argument).expect_err("refused").to_string()
    }

    #[test]
    fn files_are_read_up_to_the_limit() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "0123456789").expect("written");
        assert_eq!(read(&path, 10, Error::Argument).expect("read"), b"0123456789");
        std::fs::write(&path, "0123456789+").expect("written");
        assert_eq!(problem(&path), "has 11 bytes; up to 10 are read");
        assert!(problem(&folder.path().join("absent")).contains("cannot read"));
        assert!(read_text(&path, 11, Error::Argument).is_ok());
        std::fs::write(&path, b"\xff").expect("written");
        assert!(read_text(&path, 11, Error::Argument).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_no_files() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts");
        assert!(made.success());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).expect("a link");
        for path in [&pipe, &link, Path::new("/dev/null")] {
            assert_eq!(problem(path), "is no regular file", "{}", path.display());
        }
        assert_eq!(problem(folder.path()), "is no regular file");
    }
}
