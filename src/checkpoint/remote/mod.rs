//! Checkpoints that are not on this machine: a repository of the Hugging Face hub, a prefix of a bucket of S3, or a folder
//! of a web server. Files are read where they lie, in ranges, and nothing is written to this machine's disk, unless a folder is
//! given for it.

mod address;
mod blocks;
mod cache;
mod hub;
mod s3;
mod web;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

pub use address::{Address, is_bucket, is_repository, other_scheme};
use blocks::{Blocks, Fetch, Shape};
use cache::{Cache, Of};
use hub::Hub;
use s3::S3;
use web::Web;

use super::source::{Folder, Source, Wanted};
use super::{Reach, Room};
use crate::error::{Error, Result};
use crate::http::Client;
use crate::http::hub::is_offline;

/// Short reads that are made at once, where many are known: headers and samples. Each takes as long as an answer is on its way,
/// whatever the line.
const AT_ONCE: usize = 24;

/// The place of a remote checkpoint.
#[derive(Debug)]
enum Site {
    Hub(Hub),
    S3(S3),
    Web(Web),
}

impl Fetch for Site {
    fn fetch(&self, file: &str, range: Range<u64>, room: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Hub(hub) => hub.fetch(file, range, room),
            Self::S3(s3) => s3.fetch(file, range, room),
            Self::Web(web) => web.fetch(file, range, room),
        }
    }
}

impl Site {
    /// Size and version of a file.
    fn find(&self, file: &str) -> io::Result<(u64, String)> {
        let found = match self {
            Self::Hub(hub) => hub.files().get(file).map(|found| (found.size, found.oid.clone())),
            Self::S3(s3) => s3.files().get(file).map(|found| (found.size, found.etag.clone())),
            Self::Web(web) => web.file(file)?.map(|found| (found.size, found.version)),
        };
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A place whose blocks are kept on this machine, if a folder is given for them.
#[derive(Debug)]
struct Kept {
    site: Site,
    cache: Option<Cache>,
    /// How messages name the place: `hf://org/name@commit`.
    name: String,
}

impl Fetch for Kept {
    fn fetch(&self, file: &str, range: Range<u64>, room: Vec<u8>) -> io::Result<Vec<u8>> {
        let Some(cache) = &self.cache else { return self.site.fetch(file, range, room) };
        let (_, version) = self.site.find(file)?;
        let of = Of { place: &self.name, file, version: &version };
        cache.get(of, range.clone(), room, |room| self.site.fetch(file, range, room))
    }
}

/// A remote checkpoint's files.
#[derive(Debug)]
pub struct Remote {
    kept: Arc<Kept>,
    blocks: Blocks<Kept>,
    /// Files of the same commit that the hub's own programs have downloaded.
    downloaded: Option<Folder>,
}

/// Opens a remote checkpoint's files: of a repository at the commit that its revision is now. What the hub's own
/// programs have in their cache is read there, and all of it if HF_HUB_OFFLINE is set.
///
/// # Errors
/// If the place does not answer, or has no such repository for this user; if the folder for a cache cannot be used.
pub fn open(address: &Address, Reach { stop, cache }: Reach) -> Result<Box<dyn Source>> {
    let client = Client::new(stop);
    let (site, downloaded, name) = match address {
        Address::Web(url) => (Site::Web(Web::new(client, url.clone())), None, url.clone()),
        Address::S3 { bucket, prefix } => {
            let name = format!("s3://{bucket}/{prefix}");
            let s3 = S3::open(client, bucket, prefix).map_err(|e| Error::io("read", &name, e))?;
            (Site::S3(s3), None, name)
        }
        Address::Hub { repository, revision } => {
            let cached = hub::cached(repository);
            let named = format!("hf://{repository}@{revision}");
            if is_offline() {
                let found = cached.and_then(|folder| {
                    let commit = hub::cached_commit(&folder, revision)?;
                    Some(folder.join("snapshots").join(commit)).filter(|snapshot| snapshot.is_dir())
                });
                let absent =
                    || io::Error::other("HF_HUB_OFFLINE is set, and the hub's cache does not have it");
                let snapshot = found.ok_or_else(|| Error::io("read", &named, absent()))?;
                return Ok(Box::new(Folder::new(&snapshot)));
            }
            let hub = Hub::open(client, repository, revision).map_err(|e| Error::io("read", &named, e))?;
            let snapshot = cached.map(|folder| folder.join("snapshots").join(hub.commit()));
            let downloaded =
                snapshot.filter(|snapshot| snapshot.is_dir()).map(|snapshot| Folder::new(&snapshot));
            let name = format!("hf://{repository}@{}", hub.commit());
            (Site::Hub(hub), downloaded, name)
        }
    };
    let open = |Room { folder, bytes }: &Room| {
        Cache::open(folder, *bytes).map_err(|e| Error::io("use as --cache", folder, e))
    };
    let cache = cache.as_ref().map(open).transpose()?;
    let kept = Arc::new(Kept { site, cache, name });
    let blocks = Blocks::new(Arc::clone(&kept), Shape::USUAL);
    Ok(Box::new(Remote { kept, blocks, downloaded }))
}

impl Remote {
    /// The hub's own cache, if it has the whole file.
    fn downloaded(&self, file: &str, size: u64) -> Option<&Folder> {
        self.downloaded.as_ref().filter(|cache| cache.size(file).is_ok_and(|found| found == size))
    }
}

impl Source for Remote {
    fn size(&self, file: &str) -> io::Result<u64> {
        self.kept.site.find(file).map(|(size, _)| size)
    }

    fn read_at(&self, file: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let size = self.size(file)?;
        match self.downloaded(file, size) {
            Some(folder) => folder.read_at(file, offset, buffer),
            None => self.blocks.read_at(file, size, offset, buffer),
        }
    }

    fn packed(&self, file: &str, size: u64) -> io::Result<Option<Vec<u8>>> {
        match &self.kept.site {
            // What a folder has is nearer.
            Site::Hub(hub) if self.kept.cache.is_none() && self.downloaded(file, size).is_none() => {
                hub.packed(file, size)
            }
            _ => Ok(None),
        }
    }

    fn read_all(&self, wanted: &mut [Wanted]) -> Result<(), (usize, io::Error)> {
        let share = wanted.len().div_ceil(AT_ONCE).max(1);
        thread::scope(|scope| {
            let read = |(number, share_of): (usize, &mut [Wanted])| -> Result<(), (usize, io::Error)> {
                for (index, piece) in share_of.iter_mut().enumerate() {
                    let read = self.read_at(&piece.file, piece.offset, &mut piece.bytes);
                    read.map_err(|error| (number * share + index, error))?;
                }
                Ok(())
            };
            let readers: Vec<_> =
                wanted.chunks_mut(share).enumerate().map(|part| scope.spawn(move || read(part))).collect();
            let join = |reader: thread::ScopedJoinHandle<_>| {
                reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            readers.into_iter().try_for_each(join)
        })
    }

    fn files(&self, folder: &str) -> io::Result<Vec<String>> {
        let files: Vec<&String> = match &self.kept.site {
            Site::Hub(hub) => hub.files().keys().collect(),
            Site::S3(s3) => s3.files().keys().collect(),
            // It cannot be listed.
            Site::Web(_) => Vec::new(),
        };
        let inside = |path: &str| match folder {
            "" => Some(path.to_owned()),
            folder => path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned),
        };
        Ok(files.into_iter().filter_map(|path| inside(path)).filter(|name| !name.contains('/')).collect())
    }

    fn version(&self, file: &str) -> io::Result<Option<String>> {
        self.kept.site.find(file).map(|(_, version)| Some(version))
    }

    fn expect(&self, file: &str, offset: u64) {
        // What is wrong with the file is told by whoever reads it.
        if let Ok(size) = self.size(file)
            && self.downloaded(file, size).is_none()
        {
            self.blocks.expect(file, size, offset);
        }
    }

    fn buffers(&self) -> u64 {
        Shape::USUAL.bytes()
    }

    fn path(&self, file: &str) -> PathBuf {
        format!("{}/{file}", self.kept.name.trim_end_matches('/')).into()
    }
}
