//! The files that a command reads and writes, as plain data, compared before any work: no output is an input or
//! another output, by whatever name, and none replaces an existing file unless the user says --force.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Error, Result};
use crate::gguf::{Parts, beside};
use crate::plain;

/// Endings of names that are not the checkpoint's: this program writes such files into its folder.
const NOT_OF_THE_CHECKPOINT: [&str; 7] =
    [".gguf", ".gguf.json", ".part", ".journal", ".dat", ".toml", ".html"];

/// How deep folders within the checkpoint's are searched.
const DEPTH: usize = 4;

/// Steps from a link to a link.
const LINKS: usize = 40;

/// What happens to a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is refused.
    Refused,
    /// The work decides, which recognises its own files.
    Known,
}

/// The files of a command.
#[derive(Clone, Debug, Default)]
pub struct Files {
    checkpoint: Option<PathBuf>,
    /// Files that stay as they are, and who wants them to.
    inputs: Vec<(String, PathBuf)>,
    outputs: Vec<Output>,
}

#[derive(Clone, Debug)]
struct Output {
    /// The option that names it.
    option: &'static str,
    path: PathBuf,
    /// Ends of the names that are made from its name while it is written, and beside it.
    beside: &'static [&'static str],
    existing: Existing,
}

/// A small output that may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was not there, or other bytes were.
    Made,
    /// It was there with the same bytes.
    Already,
}

impl Files {
    /// All files of the checkpoint's folder are read.
    pub fn of_checkpoint(folder: &Path) -> Self {
        Self { checkpoint: Some(folder.to_owned()), ..Self::default() }
    }

    /// The option's files are read.
    pub fn read(&mut self, option: &'static str, paths: impl IntoIterator<Item = impl AsRef<Path>>) {
        self.keep(&format!("{option} reads"), paths);
    }

    /// The files stay as they are: `whose` says why.
    pub fn keep(&mut self, whose: &str, paths: impl IntoIterator<Item = impl AsRef<Path>>) {
        self.inputs.extend(paths.into_iter().map(|path| (whose.to_owned(), path.as_ref().to_owned())));
    }

    /// The option's file is written, if there is one.
    pub fn write(
        &mut self,
        option: &'static str,
        path: Option<&Path>,
        beside: &'static [&'static str],
        existing: Existing,
    ) {
        let output = |path: &Path| Output { option, path: path.to_owned(), beside, existing };
        self.outputs.extend(path.map(output));
    }

    /// Looks at all names.
    ///
    /// # Errors
    /// If an output cannot be a file, is an input or another output, or is there and not to be replaced.
    pub fn check(&self, force: bool) -> Result<()> {
        let mut written: Vec<(&Output, PathBuf, Identity)> = Vec::new();
        for output in &self.outputs {
            output.possible()?;
            let names = output.beside.iter().map(|end| beside(&output.path, end));
            for path in std::iter::once(output.path.clone()).chain(names) {
                let identity = Identity::of(&path);
                if let Some((other, ..)) = written.iter().find(|(_, _, known)| *known == identity) {
                    return Err(output.taken(&path, &format!("{} writes", other.option)));
                }
                if let Some((whose, input)) =
                    self.inputs.iter().find(|input| Identity::of(&input.1) == identity)
                {
                    let whose = format!("{whose} ({})", input.display());
                    return Err(output.taken(&path, &whose));
                }
                written.push((output, path, identity));
            }
        }
        let foreign = written.iter().find_map(|(output, path, identity)| {
            let file = self.checkpoint_file(identity, path)?;
            Some(output.taken(path, &format!("the checkpoint has ({})", file.display())))
        });
        match foreign {
            Some(error) => Err(error),
            None if force => Ok(()),
            None => self.outputs.iter().try_for_each(Output::free),
        }
    }

    /// The file of the checkpoint that this one is.
    fn checkpoint_file(&self, identity: &Identity, path: &Path) -> Option<PathBuf> {
        let folder = self.checkpoint.as_ref().filter(|_| path.exists())?;
        if folder.is_file() {
            // A GGUF file, or one of a split, whose others are read as well.
            let files = Parts::names(folder);
            return files.into_iter().find(|file| Identity::of(file) == *identity);
        }
        let mut found = None;
        for_each_file(folder, DEPTH, &mut |file| {
            found = (Identity::of(file) == *identity).then(|| file.to_owned());
            found.is_none()
        });
        found
    }

    /// Says that the outputs so far are written: they may exist when later ones are checked.
    pub fn now_written(&mut self) {
        self.outputs.iter_mut().for_each(|output| output.existing = Existing::Known);
    }
}

impl Output {
    fn refused(&self, problem: &str) -> Result<()> {
        Err(Error::Argument(format!("{} {}: {problem}", self.option, self.path.display())))
    }

    /// Whether a file of this name can be made.
    fn possible(&self) -> Result<()> {
        let (path, refused) = (&*self.path, |problem: &str| self.refused(problem));
        if path.file_name().is_none() {
            return refused("names no file");
        }
        if path.as_os_str().as_encoded_bytes().ends_with(std::path::MAIN_SEPARATOR_STR.as_bytes())
            && !path.is_dir()
        {
            return refused("ends as a folder's name; expected the name of a file");
        }
        if !disk::folder(path).is_dir() {
            let absent = io::Error::new(io::ErrorKind::NotFound, "there is no such folder");
            return Err(Error::io("create", path, absent));
        }
        if path.is_dir() {
            return refused("is a folder; expected the name of a file");
        }
        if is_of_the_system(path) || path.metadata().is_ok_and(|found| !found.is_file()) {
            return refused("is no regular file and will not be replaced");
        }
        let manifest = beside(path, MANIFEST);
        if self.beside.contains(&MANIFEST) && manifest.is_dir() {
            return refused(&format!(
                "the manifest is written beside it, and {} is a folder",
                manifest.display()
            ));
        }
        if let Some((limit, longest)) = self.longest_name() {
            return refused(&format!(
                "the name is too long: {longest} bytes with what is written beside it; the file system takes {limit}"
            ));
        }
        Ok(())
    }

    /// Whether nothing is there that would be replaced.
    fn free(&self) -> Result<()> {
        let path = &*self.path;
        match path.symlink_metadata() {
            Ok(found) if found.is_symlink() && path.metadata().is_err() => self.refused(
                "is a link to a file that is not there; name that file, or --force replaces the link",
            ),
            Ok(_) if self.existing == Existing::Refused => self.refused(THERE),
            _ => Ok(()),
        }
    }

    /// The file system's limit and the bytes of the longest name, if that is longer.
    fn longest_name(&self) -> Option<(u64, u64)> {
        let limit = disk::longest_name(disk::folder(&self.path))?;
        let name = self.path.file_name()?.len() as u64;
        let longest = name + self.beside.iter().map(|end| end.len() as u64).max().unwrap_or(0);
        (longest > limit).then_some((limit, longest))
    }

    /// The error that the file is another one's.
    fn taken(&self, path: &Path, whose: &str) -> Error {
        let Self { option, path: named, .. } = self;
        let what = match path == named {
            true => format!("{option} {}", named.display()),
            false => format!("{option} {}: {}, which is written besides,", named.display(), path.display()),
        };
        Error::Argument(format!("{what} is the file that {whose}"))
    }
}

/// The end of a manifest's name.
const MANIFEST: &str = ".json";

const THERE: &str = "is there already; --force replaces it";

/// Writes a small file whole or not at all, unless it is there with the same bytes.
///
/// # Errors
/// If there are other bytes and it is not to be replaced, or the system cannot.
pub fn write(option: &str, path: &Path, bytes: &[u8], force: bool) -> Result<Written> {
    match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !force => {
            // A file that appears there in this moment is not replaced either.
            let written = disk::write_new(path, bytes).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => {
                    Error::Argument(format!("{option} {}: {THERE}", path.display()))
                }
                _ => Error::io("write", path, e),
            });
            return written.map(|()| Written::Made);
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("write", path, e)),
        Ok(found) => {
            if found.len() == bytes.len() as u64 && fs::read(path).is_ok_and(|there| there == bytes) {
                return Ok(Written::Already);
            }
            if !force {
                return Err(Error::Argument(format!("{option} {}: {THERE}", path.display())));
            }
        }
    }
    disk::write_whole(path, bytes).map_err(|e| Error::io("write", path, e))?;
    Ok(Written::Made)
}

/// What makes two names the same file: its place on its disk, or where it will be.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    There(disk::Id),
    /// The folder, and the name there.
    Absent(PathBuf, PathBuf),
}

impl Identity {
    fn of(path: &Path) -> Self {
        match disk::id(path) {
            Some(id) => Self::There(id),
            None => {
                let folder = disk::folder(path);
                let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
                Self::Absent(folder, path.file_name().unwrap_or_default().into())
            }
        }
    }
}

/// Whether the name, or a link that it leads over, is one of the system's own, as /dev/stdout: the file behind it may
/// be an ordinary one, but the name is not to be replaced.
fn is_of_the_system(path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let folder = disk::folder(&path).to_owned();
        let Ok(folder) = folder.canonicalize() else { return false };
        if folder == Path::new("/dev") || ["/dev/fd", "/proc", "/sys"].iter().any(|of| folder.starts_with(of))
        {
            return true;
        }
        let Ok(target) = fs::read_link(&path) else { return false };
        path = folder.join(target);
    }
    false
}

/// Calls `look` with each file of the checkpoint's folder until it returns false. Whether it never did.
fn for_each_file(folder: &Path, depth: usize, look: &mut dyn FnMut(&Path) -> bool) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let name = plain::path(Path::new(&entry.file_name()));
        let go_on = match entry.file_type() {
            Ok(kind) if kind.is_dir() => depth == 0 || for_each_file(&path, depth - 1, look),
            Ok(_) if NOT_OF_THE_CHECKPOINT.iter().any(|end| name.ends_with(end)) => true,
            _ => look(&path),
        };
        if !go_on {
            return false;
        }
    }
    true
}
