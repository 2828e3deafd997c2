//! Errors by blame: whose fault it is, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::plain::{plain, plain_lines};

/// An error; the variant says whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint is damaged or contradicts itself.
    #[error("{}{}", place(file, tensor.as_deref()), plain(problem))]
    Checkpoint {
        /// File inside the checkpoint's folder.
        file: String,
        /// Tensor in question, if it is about one.
        tensor: Option<String>,
        /// What was expected and what was found.
        problem: String,
    },
    /// The input may be sound, but this program cannot do it.
    #[error("{}", plain(.0))]
    Unsupported(String),
    /// A recipe or an override is wrong.
    // The reader of TOML shows the line in question, with a mark under it.
    #[error("recipe {}: {}", plain(recipe), plain_lines(problem))]
    Recipe {
        /// Name or file of the recipe.
        recipe: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// An importance matrix is damaged or does not belong to the model.
    #[error("{}{}", place(file, tensor.as_deref()), plain(problem))]
    Imatrix {
        /// The file.
        file: String,
        /// Entry in question, if it is about one.
        tensor: Option<String>,
        /// What was expected and what was found.
        problem: String,
    },
    /// A GGUF file is damaged.
    #[error("{}: {}", plain(file), plain(problem))]
    Gguf {
        /// The file.
        file: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// Something is asked for that makes no sense.
    #[error("{}", plain(.0))]
    Argument(String),
    /// What is quantized already would be quantized anew, which [`Options`](crate::Options) can allow.
    #[error("{}", plain(.0))]
    Requantize(String),
    /// An unfinished file is there, and it is not of this work, or damaged.
    #[error("{}: {}", plain(journal.display()), plain(problem))]
    Resume {
        /// The journal of the unfinished file.
        journal: PathBuf,
        /// What differs or is damaged.
        problem: String,
    },
    /// The work stopped, and what is done is kept: the same work goes on from there.
    #[error("{}; {percent} % of the work is done and kept beside {}", cause.chain(), plain(output.display()))]
    Unfinished {
        /// Why it stopped.
        cause: Box<Error>,
        /// Share of the weights that need not be done again.
        percent: u64,
        /// The file to be made.
        output: PathBuf,
    },
    /// The user, or the end of a job's time, stopped the work.
    #[error("interrupted")]
    Interrupted,
    /// A file is there that would be overwritten.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// The file that is there is of this very work, but not as the work makes it.
    #[error("{} is there already, made of this, but {}", plain(file.display()), plain(problem))]
    Remake {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The unfinished file was removed or replaced while it was written.
    #[error("{} was removed or replaced while it was being written", .0.display())]
    Lost(PathBuf),
    /// Another process is writing the same file.
    #[error("{} is being written by another process", plain(.0.display()))]
    Busy(PathBuf),
    /// The memory for buffers is too small.
    #[error("{given} bytes of memory for buffers; the largest pieces of this model need {needed}")]
    Memory {
        /// Bytes that the buffers may take.
        given: u64,
        /// Bytes that they take at least.
        needed: u64,
    },
    /// The disk is too small.
    #[error("the disk of {} has {free} bytes free, and {needed} are needed: {} bytes are missing", plain(output.display()), needed - free)]
    Space {
        /// The file to be made.
        output: PathBuf,
        /// Bytes still to be reserved.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// What would otherwise be a warning.
    #[error("{0}")]
    Strict(Warning),
    /// A graphics card that was asked for cannot be used.
    #[error("{}", plain(.0))]
    Device(String),
    /// The operating system said no.
    #[error("cannot {action} {}", plain(path.display()))]
    Io {
        /// What was tried: "read", "create".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The library's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A fault of a whole file of the checkpoint.
    pub fn file(file: &str, problem: impl Into<String>) -> Self {
        Self::Checkpoint { file: file.to_owned(), tensor: None, problem: problem.into() }
    }

    /// A fault of one tensor of the checkpoint.
    pub fn tensor(file: &str, tensor: &str, problem: impl Into<String>) -> Self {
        Self::Checkpoint { file: file.to_owned(), tensor: Some(tensor.to_owned()), problem: problem.into() }
    }

    /// A failed system call, or a wait that the user ended.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::Interrupted {
            return Self::Interrupted;
        }
        Self::Io { action, path: path.as_ref().to_owned(), source }
    }

    /// The error with its causes on one line.
    pub fn chain(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"))
    }

    /// The file that is to blame, and the tensor in it, where there are such.
    pub fn place(&self) -> Option<(&str, Option<&str>)> {
        match self {
            Self::Checkpoint { file, tensor, .. } | Self::Imatrix { file, tensor, .. } => {
                Some((file, tensor.as_deref()))
            }
            Self::Gguf { file, .. } => Some((file, None)),
            Self::Unfinished { cause, .. } => cause.place(),
            _ => None,
        }
    }

    /// The exit code of the program; docs/features.md lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } | Self::Device(_) | Self::Busy(_) | Self::Lost(_) | Self::Space { .. } => 1,
            Self::Argument(_)
            | Self::Requantize(_)
            | Self::Memory { .. }
            | Self::Recipe { .. }
            | Self::Resume { .. }
            | Self::Exists(_)
            | Self::Remake { .. } => 2,
            Self::Checkpoint { .. } | Self::Imatrix { .. } | Self::Gguf { .. } => 3,
            Self::Unsupported(_) => 4,
            // As a shell reports a program that SIGINT ended.
            Self::Interrupted => 130,
            Self::Unfinished { cause, .. } => cause.exit_code(),
            Self::Strict(warning) => warning.0.exit_code(),
        }
    }
}

/// Something suspicious that is let pass, unless the user is strict: then it is the error that it holds.
#[derive(Clone, Debug)]
pub struct Warning(Arc<Error>);

impl Warning {
    /// Lets the error pass.
    pub fn new(error: Error) -> Self {
        Self(Arc::new(error))
    }

    /// Does not let warnings pass if the user is `strict`.
    ///
    /// # Errors
    /// The first of them.
    pub fn refuse(warnings: &[Self], strict: bool) -> Result<()> {
        match warnings.first() {
            Some(first) if strict => Err(Error::Strict(first.clone())),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.chain())
    }
}

/// What must happen before the work can go on.
#[cfg(feature = "cli")]
pub(crate) fn once_mended(cause: &Error) -> &'static str {
    match cause.exit_code() {
        3 | 4 => "when that is mended, ",
        _ => "",
    }
}

fn place(file: &str, tensor: Option<&str>) -> String {
    let file = plain(file);
    match tensor {
        Some(tensor) => format!("{file}: tensor \"{}\": ", plain(tensor)),
        None => format!("{file}: "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_on_their_line() {
        let name = "a\npass: all is well\x1b[2K";
        let io = || io::Error::other("no");
        for error in [
            Error::file(name, name),
            Error::tensor(name, name, name),
            Error::Unsupported(name.into()),
            Error::Imatrix { file: name.into(), tensor: Some(name.into()), problem: name.into() },
            Error::Gguf { file: name.into(), problem: name.into() },
            Error::Argument(name.into()),
            Error::Device(name.into()),
            Error::Requantize(name.into()),
            Error::Resume { journal: name.into(), problem: name.into() },
            Error::Unfinished { cause: Box::new(Error::Busy(name.into())), percent: 1, output: name.into() },
            Error::Space { output: name.into(), needed: 2, free: 1 },
            Error::Remake { file: name.into(), problem: name.into() },
            Error::Strict(Warning::new(Error::file(name, name))),
            Error::io("read", name, io()),
        ] {
            let shown = error.chain();
            assert!(!shown.contains(char::is_control), "{shown:?}");
        }
        // Its lines are those of the reader of TOML.
        let recipe = Error::Recipe { recipe: name.into(), problem: "a\n  ^\x1b".into() }.to_string();
        assert_eq!(recipe, "recipe a\\npass: all is well\\u{1b}[2K: a\n  ^\\u{1b}");
    }
}
