//! A repository of the Hugging Face hub, at one commit: its list of files, and ranges of them by signed addresses.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use ureq::Body;
use ureq::http::Response;

use super::blocks::Fetch;
use crate::http::hub::{Api, File, cache};
use crate::http::{Attempt, Client, Failure, MAX_ANSWER, REDIRECTIONS, encoded, origin, redirection, whole};

/// A repository, pinned.
#[derive(Debug)]
pub struct Hub {
    api: Api,
    repository: String,
    commit: String,
    files: BTreeMap<String, File>,
    /// Signed addresses, until they expire.
    signed: Mutex<HashMap<String, String>>,
}

impl Hub {
    /// Asks for the commit of a revision, and for its files.
    ///
    /// # Errors
    /// If there is no such repository or revision, it is not for this user, or the hub does not answer.
    pub fn open(client: Client, repository: &str, revision: &str) -> io::Result<Self> {
        let api = Api::new(client);
        let commit = api.commit(repository, revision)?;
        let files = api.files(repository, &commit)?;
        Ok(Self { api, repository: repository.to_owned(), commit, files, signed: Mutex::default() })
    }

    /// The commit that is read.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Files by their paths.
    pub fn files(&self) -> &BTreeMap<String, File> {
        &self.files
    }

    /// A small file whole, packed on the way if the hub does that; None for a large one, which is elsewhere, or, on a mirror,
    /// of more bytes than are read at once.
    ///
    /// # Errors
    /// If it cannot be had, or has another size.
    pub fn packed(&self, file: &str, size: u64) -> io::Result<Option<Vec<u8>>> {
        if size > MAX_ANSWER {
            return Ok(None);
        }
        let Self { api, repository, commit, .. } = self;
        let first = format!("{}/{repository}/resolve/{commit}/{}", api.endpoint, encoded(file));
        let found = api.client.patiently(|| {
            let mut url = first.clone();
            for _ in 0..REDIRECTIONS {
                let answer = api.client.get_packed(&url, api.token_for(&url))?;
                match redirection(&url, &answer)? {
                    None => return whole(answer).map(Some),
                    Some(next) if is_same(&next, api) => url = next,
                    Some(_) => return Ok(None),
                }
            }
            Err(in_a_circle(file))
        });
        let found = found.map_err(|error| api.explained(error))?;
        match found {
            Some(bytes) if bytes.len() as u64 != size => {
                let problem = format!("{file}: the hub sends {} bytes, and lists {size}", bytes.len());
                Err(io::Error::other(problem))
            }
            found => Ok(found),
        }
    }

    /// One request for a range of a file.
    fn range(&self, file: &str, missing: Range<u64>) -> Attempt<Response<Body>> {
        let Self { api, repository, commit, .. } = self;
        let known = self.signed().get(file).cloned();
        if let Some(url) = known {
            return match api.client.get(&url, Some(missing), api.token_for(&url)) {
                Err(Failure::Lasting(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                    // Signatures hold for an hour.
                    self.signed().remove(file);
                    Err(Failure::Expired(error))
                }
                answer => answer,
            };
        }
        let mut url = format!("{}/{repository}/resolve/{commit}/{}", api.endpoint, encoded(file));
        for _ in 0..REDIRECTIONS {
            let answer = api.client.get(&url, Some(missing.clone()), api.token_for(&url))?;
            let Some(next) = redirection(&url, &answer)? else { return Ok(answer) };
            if is_same(&next, api) {
                url = next;
                continue;
            }
            self.signed().insert(file.to_owned(), next);
            return self.range(file, missing);
        }
        Err(in_a_circle(file))
    }

    fn signed(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.signed.lock().expect("no thread panics while it holds the addresses")
    }
}

/// A repository that was renamed is at another path of the hub; a large file's bytes are at a signed address.
fn is_same(next: &str, api: &Api) -> bool {
    origin(next) == origin(&api.endpoint) && next.contains("/resolve/")
}

fn in_a_circle(file: &str) -> Failure {
    Failure::Lasting(io::Error::other(format!("{file}: the hub redirects in a circle")))
}

impl Fetch for Hub {
    fn fetch(&self, file: &str, range: Range<u64>, room: Vec<u8>) -> io::Result<Vec<u8>> {
        let client = &self.api.client;
        client
            .bytes(range, room, |missing| self.range(file, missing))
            .map_err(|error| self.api.explained(error))
    }
}

/// The folder of a repository in the cache of the hub's own programs.
pub fn cached(repository: &str) -> Option<PathBuf> {
    cache().map(|cache| cache.join(format!("models--{}", repository.replace('/', "--"))))
}

/// The commit that the cache knows for a revision.
pub fn cached_commit(folder: &Path, revision: &str) -> Option<String> {
    match fs::read_to_string(folder.join("refs").join(revision)) {
        Ok(commit) => Some(commit.trim().to_owned()),
        Err(_) => folder.join("snapshots").join(revision).is_dir().then(|| revision.to_owned()),
    }
}
