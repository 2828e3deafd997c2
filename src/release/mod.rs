//! Stage 6, out: finished files go to a repository of the Hugging Face hub or to a bucket of S3, each while the next is
//! made. A place shows a file only when it is whole, with its manifest; what it has already is not sent again.

mod card;
mod flow;
mod hub;
mod pieces;
mod s3;
mod target;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

pub use card::{Card, DEFAULT_CARD};
pub use flow::{Release, Released, Told, name, run};
pub use target::Target;

use crate::disk;
use crate::error::{Error, Result};
use crate::http::Client;
use crate::identity::hex;

/// The name of a model's card in its folder.
pub const CARD: &str = "README.md";

/// The end of the name of what is kept beside a file while it is sent, to go on from.
pub const NOTE: &str = ".upload";

/// A file that the place has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct There {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its content, if the place knows it.
    pub sha256: Option<String>,
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum Content {
    /// A finished file of this machine.
    File {
        /// Where it is.
        path: PathBuf,
        /// Bytes.
        size: u64,
        /// SHA-256 of its content, in hexadecimal.
        sha256: String,
    },
    /// A few bytes.
    Bytes(Vec<u8>),
}

impl Content {
    /// A finished file of this machine, which is read for its digest.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        Ok(Self::File {
            path: path.to_owned(),
            size: bytes.len() as u64,
            sha256: hex(&Sha256::digest(&bytes).into()),
        })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// SHA-256 of a file's content.
    fn sha256(&self) -> Option<&str> {
        match self {
            Self::File { sha256, .. } => Some(sha256),
            Self::Bytes(_) => None,
        }
    }

    /// At most so many bytes of its beginning.
    fn head(&self, count: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::File { path, size, .. } => {
                let mut head = vec![0; (*size).min(count as u64) as usize];
                disk::read_exact_at(&File::open(path)?, 0, &mut head).map(|()| head)
            }
            Self::Bytes(bytes) => Ok(bytes[..bytes.len().min(count)].to_vec()),
        }
    }

    /// All of it.
    fn bytes(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::File { path, .. } => fs::read(path),
            Self::Bytes(bytes) => Ok(bytes.clone()),
        }
    }
}

/// A file to be sent, by its name in the target's folder.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Its name there.
    pub name: String,
    /// What it holds.
    pub content: Content,
}

/// A file that will be sent later: what a place can say yes or no to beforehand.
#[derive(Clone, Debug)]
pub struct Announced<'a> {
    /// Its name there.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Its first bytes.
    pub head: &'a [u8],
}

/// Where files go. Names are those in the target's folder.
pub trait Place: Sync {
    /// A file that is there.
    ///
    /// # Errors
    /// If the place does not say.
    fn find(&self, name: &str) -> io::Result<Option<There>>;

    /// The content of a small file that is there.
    ///
    /// # Errors
    /// If the place does not give it.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Asks whether the place would take these files, before hours of work.
    ///
    /// # Errors
    /// If it would not.
    fn ask(&self, files: &[Announced]) -> io::Result<()>;

    /// Sends the files, which appear when they are whole, a file with its manifest or after it. `sent` is told the bytes.
    ///
    /// # Errors
    /// If the place does not take them; none of them is there by half then.
    fn put(&self, files: &[Upload], message: &str, sent: &(dyn Fn(u64) + Sync)) -> io::Result<()>;

    /// Where users find the files.
    fn page(&self) -> String;
}

/// The place of a target. `stop` ends sending.
///
/// # Errors
/// If there is no such repository or bucket, or not for this user.
pub fn open(target: &Target, stop: &'static AtomicBool) -> Result<Box<dyn Place>> {
    let client = Client::new(stop);
    let opened: io::Result<Box<dyn Place>> = match target {
        Target::Hub { repository, revision, path } => {
            hub::Hub::open(client, repository, revision, path).map(|hub| Box::new(hub) as _)
        }
        Target::S3 { bucket, key } => s3::S3::open(client, bucket, key).map(|s3| Box::new(s3) as _),
    };
    opened.map_err(|error| Error::io("upload to", Path::new(&target.to_string()), error))
}
