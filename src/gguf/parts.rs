//! A model in one file, or in llama.cpp's numbered split files, which agree.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::{Contents, Entry, Metadata, Value};
use crate::disk;
use crate::error::{Error, Result};

/// Bytes read at a time for a digest.
const CHUNK: usize = 1 << 20;

/// The files of one model, in order.
#[derive(Debug)]
pub struct Parts {
    /// At least one.
    pub files: Vec<Part>,
    /// Files of the split that are not here.
    pub absent: Vec<PathBuf>,
}

/// One file, which stays open.
#[derive(Debug)]
pub struct Part {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub contents: Contents,
    file: File,
}

impl Parts {
    /// Reads the headers of a model, whole or split, by the path of any of its files.
    ///
    /// # Errors
    /// If one is damaged or holds more than its tensors, or a part is missing or belongs to another model.
    pub fn read(path: &Path) -> Result<Self> {
        let parts = Self::read_here(path)?;
        match parts.absent.first() {
            None => Ok(parts),
            Some(absent) => Err(missing(path, absent)),
        }
    }

    /// As [`read`](Self::read) for the files of a split that are here; others may be on other machines.
    ///
    /// # Errors
    /// If one is damaged or holds more than its tensors, or belongs to another model.
    pub fn read_here(path: &Path) -> Result<Self> {
        let (files, absent) = all(path, Part::read)?;
        Ok(Self { files, absent })
    }

    /// The headers of all files of a model that lies elsewhere, by the name of any of them; `read` reads one, with what
    /// the file's size says. As [`read`](Self::read).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn heads(path: &Path, read: impl Fn(&Path) -> Result<Contents>) -> Result<Vec<(PathBuf, Contents)>> {
        let (files, absent) = all(path, |path| (path.to_owned(), read(path)?).whole())?;
        match absent.into_iter().next() {
            None => Ok(files),
            Some(absent) => Err(missing(path, &absent)),
        }
    }

    /// The files of the model that `path` is one of, by its name alone.
    pub fn names(path: &Path) -> Vec<PathBuf> {
        match path.file_name().and_then(Numbered::of) {
            Some(numbered) => {
                (1..=numbered.count).map(|number| path.with_file_name(numbered.name(number))).collect()
            }
            None => vec![path.to_owned()],
        }
    }

    /// The metadata of the model, which the first file holds; of a split without its first file only that of the split.
    pub fn metadata(&self) -> &Metadata {
        &self.files[0].contents.metadata
    }

    /// Whether the first file is here, which holds the metadata of the model.
    pub fn has_first(&self) -> bool {
        self.metadata().get("split.no").and_then(Value::as_u64).is_none_or(|number| number == 0)
    }

    /// Every tensor, with the place of its file.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.files
            .iter()
            .enumerate()
            .flat_map(|(number, part)| part.contents.tensors.iter().map(move |t| (number, t)))
    }
}

/// Reads all files of the model that `path` is one of, and the names of those that are not there.
fn all<T: Head>(path: &Path, read: impl Fn(&Path) -> Result<T>) -> Result<(Vec<T>, Vec<PathBuf>)> {
    let given = read(path)?;
    let count = given.key("split.count")?.unwrap_or(1);
    let numbered = path.file_name().and_then(Numbered::of);
    let Some(numbered) = numbered.filter(|numbered| count > 1 || numbered.count > 1) else {
        if count > 1 {
            let problem =
                format!("split.count is {count}, but the name is not NAME-00001-of-{count:05}.gguf");
            return Err(given.blame(problem));
        }
        return Ok((vec![given], Vec::new()));
    };
    if count != numbered.count {
        return Err(given.blame(format!("split.count is {count}, but the name says {}", numbered.count)));
    }
    let mut given = Some(given);
    let (mut files, mut absent) = (Vec::new(), Vec::new());
    for number in 1..=count {
        let path = match given.take_if(|_| number == numbered.number) {
            Some(given) => {
                files.push((number, given));
                continue;
            }
            None => path.with_file_name(numbered.name(number)),
        };
        match read(&path) {
            Ok(part) => files.push((number, part)),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                absent.push(path);
            }
            Err(e) => return Err(e),
        }
    }
    agree(&files, count)?;
    Ok((files.into_iter().map(|(_, part)| part).collect(), absent))
}

/// The error that a file of a split is not there.
fn missing(given: &Path, absent: &Path) -> Error {
    let problem = format!("is one of a split, whose file {} is not there", absent.display());
    Error::Gguf { file: given.display().to_string(), problem }
}

/// The header of a file, and the name that messages have for it.
trait Head: Sized {
    fn path(&self) -> &Path;

    fn contents(&self) -> &Contents;

    /// The file, if its tensors end where it does.
    fn whole(self) -> Result<Self> {
        let Contents { end, file_size, .. } = *self.contents();
        if file_size > end {
            return Err(self.blame(format!("has {file_size} bytes, but its tensors end at {end}")));
        }
        Ok(self)
    }

    /// A whole number of the metadata.
    fn key(&self, key: &str) -> Result<Option<u64>> {
        match self.contents().metadata.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.blame(format!("{key} is {value:?}; expected a number"))),
            },
        }
    }

    fn expect(&self, key: &str, expected: u64) -> Result<()> {
        match self.key(key)? {
            Some(found) if found == expected => Ok(()),
            found => {
                let found = found.map_or("missing".to_owned(), |n| n.to_string());
                Err(self.blame(format!("{key} is {found}; expected {expected}")))
            }
        }
    }

    /// The error about this file.
    fn blame(&self, problem: String) -> Error {
        Error::Gguf { file: self.path().display().to_string(), problem }
    }
}

impl Head for Part {
    fn path(&self) -> &Path {
        &self.path
    }

    fn contents(&self) -> &Contents {
        &self.contents
    }
}

impl Head for (PathBuf, Contents) {
    fn path(&self) -> &Path {
        &self.0
    }

    fn contents(&self) -> &Contents {
        &self.1
    }
}

/// The numbered files of a split are what their keys say, and hold no tensor twice.
fn agree<T: Head>(files: &[(u64, T)], count: u64) -> Result<()> {
    let here = files.iter().map(|(_, part)| part.contents().tensors.len() as u64).sum();
    // Of a split that is not all here, what the first of its files says.
    let all = if files.len() as u64 == count { Some(here) } else { files[0].1.key("split.tensors.count")? };
    for (number, part) in files {
        part.expect("split.no", number - 1)?;
        part.expect("split.count", count)?;
    }
    let mut seen = HashSet::new();
    for (_, part) in files {
        part.expect("split.tensors.count", all.unwrap_or(here).max(here))?;
        if let Some(twice) = part.contents().tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str()))
        {
            return Err(part.blame(format!("tensor \"{}\" is also in a part before", twice.name)));
        }
    }
    Ok(())
}

impl Part {
    /// Reads the header of one file, whatever its name.
    ///
    /// # Errors
    /// If it is damaged or the file holds more than its tensors.
    pub fn read(path: &Path) -> Result<Self> {
        let (contents, file) = Contents::open(path)?;
        Self { path: path.to_owned(), contents, file }.whole()
    }

    /// Fills `buffer` with the file's bytes from `offset` on.
    ///
    /// # Errors
    /// If the system cannot read, or the file has become shorter.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        disk::read_exact_at(&self.file, offset, buffer).map_err(|e| Error::io("read", &self.path, e))
    }

    /// Reads `bytes` bytes from `offset` on in pieces of `chunk`; `each` gets their place after `offset`.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at), and [`Error::Interrupted`] between pieces.
    pub fn stream(
        &self,
        offset: u64,
        bytes: u64,
        chunk: usize,
        stop: &AtomicBool,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<()> {
        let mut buffer = vec![0; bytes.min(chunk as u64) as usize];
        let mut at = 0;
        while at < bytes {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let buffer = &mut buffer[..(bytes - at).min(chunk as u64) as usize];
            self.read_at(offset + at, buffer)?;
            each(at, buffer);
            at += buffer.len() as u64;
        }
        Ok(())
    }

    /// SHA-256 of the whole file, in hexadecimal; `told` hears of every piece how many bytes it has.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn sha256(&self, stop: &AtomicBool, told: &dyn Fn(u64)) -> Result<String> {
        let mut hash = Sha256::new();
        self.stream(0, self.contents.file_size, CHUNK, stop, |_, bytes| {
            hash.update(bytes);
            told(bytes.len() as u64);
        })?;
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The error about this file.
    pub fn fault(&self, problem: String) -> Error {
        self.blame(problem)
    }
}

/// A name like `R1-00002-of-00004.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    /// What comes before the numbers.
    pub(super) stem: OsString,
    number: u64,
    count: u64,
}

/// Bytes of `-00002-of-00004.gguf`.
const NUMBERS: usize = 20;

impl Numbered {
    /// The name's parts, if it is one.
    pub(super) fn of(name: &OsStr) -> Option<Self> {
        let five = |digits: &str| -> Option<u64> {
            (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
        };
        let bytes = name.as_encoded_bytes();
        let (stem, numbers) = bytes.split_at(bytes.len().checked_sub(NUMBERS)?);
        let numbers = std::str::from_utf8(numbers).ok()?;
        let (number, count) = numbers.strip_prefix('-')?.strip_suffix(".gguf")?.split_once("-of-")?;
        let (number, count) = (five(number)?, five(count)?);
        // What is before the numbers need not be UTF-8, where names need not be.
        #[cfg(unix)]
        let stem = std::os::unix::ffi::OsStrExt::from_bytes(stem);
        #[cfg(not(unix))]
        let stem = OsStr::new(std::str::from_utf8(stem).ok()?);
        let stem: &OsStr = stem;
        (1..=count).contains(&number).then(|| Self { stem: stem.to_owned(), number, count })
    }

    fn name(&self, number: u64) -> OsString {
        let mut name = self.stem.clone();
        name.push(format!("-{number:05}-of-{:05}.gguf", self.count));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_split_files_are_taken_apart() {
        let found = Numbered::of("DeepSeek-R1-UD-IQ1_S-00002-of-00004.gguf".as_ref());
        let found = found.expect("a name with numbers");
        assert_eq!(found, Numbered { stem: "DeepSeek-R1-UD-IQ1_S".into(), number: 2, count: 4 });
        assert_eq!(found.name(3), "DeepSeek-R1-UD-IQ1_S-00003-of-00004.gguf");
        for name in [
            "R1.gguf",
            "R1-1-of-4.gguf",
            "R1-00005-of-00004.gguf",
            "R1-00000-of-00004.gguf",
            "a-00001-of-00004",
        ] {
            assert_eq!(Numbered::of(name.as_ref()), None, "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_need_not_be_utf_8() {
        let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff-00002-of-00004.gguf");
        let found = Numbered::of(name).expect("a name with numbers");
        assert_eq!(found.name(2), name);
    }
}
