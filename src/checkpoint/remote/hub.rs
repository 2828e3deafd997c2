//! A repository of the Hugging Face hub, at one commit: its list of files, and ranges of them by signed addresses.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::Body;
use ureq::http::Response;

use super::blocks::Fetch;
use super::client::{Attempt, Client, Failure, REDIRECTIONS, origin, redirection};
use super::encoded;

/// Where the hub is, unless HF_ENDPOINT names a mirror.
const ENDPOINT: &str = "https://huggingface.co";

/// An answer of the hub's own about files is never larger: a page lists a thousand of them.
const MAX_ANSWER: u64 = 16 << 20;

/// Pages of the list of files.
const MAX_PAGES: usize = 1000;

/// A repository, pinned.
#[derive(Debug)]
pub struct Hub {
    client: Client,
    endpoint: String,
    token: Option<String>,
    repository: String,
    commit: String,
    files: BTreeMap<String, File>,
    /// Signed addresses, until they expire.
    signed: Mutex<HashMap<String, String>>,
}

/// A file of the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub size: u64,
    /// SHA-256 of a large file's content, git's digest of a small one's.
    pub oid: String,
}

/// What the hub says of a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// What it lists.
#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    /// Asks for the commit of a revision, and for its files.
    ///
    /// # Errors
    /// If there is no such repository or revision, it is not for this user, or the hub does not answer.
    pub fn open(client: Client, repository: &str, revision: &str) -> io::Result<Self> {
        let endpoint = setting("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let mut hub = Self {
            client,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token(),
            repository: repository.to_owned(),
            commit: String::new(),
            files: BTreeMap::new(),
            signed: Mutex::default(),
        };
        let api = format!("{}/api/models/{repository}", hub.endpoint);
        let (found, _): (Revision, _) =
            hub.json(&format!("{api}/revision/{}", encoded(revision).replace('/', "%2F")))?;
        if found.sha.len() != 40 || !found.sha.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(io::Error::other(format!(
                "the hub says that {revision} is the commit {:?}",
                found.sha
            )));
        }
        hub.commit = found.sha;
        let mut page = Some(format!("{api}/tree/{}?recursive=true", hub.commit));
        for _ in 0..MAX_PAGES {
            let Some(url) = page else { return Ok(hub) };
            let (entries, next): (Vec<Entry>, _) = hub.json(&url)?;
            for entry in entries.into_iter().filter(|entry| entry.r#type == "file") {
                let (size, oid) = entry.lfs.map_or((entry.size, entry.oid), |lfs| (lfs.size, lfs.oid));
                hub.files.insert(entry.path, File { size, oid });
            }
            page = next;
        }
        Err(io::Error::other(format!("the hub lists more than {MAX_PAGES} pages of files")))
    }

    /// The commit that is read.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Files by their paths.
    pub fn files(&self) -> &BTreeMap<String, File> {
        &self.files
    }

    /// A value of the hub's interface, and the address of the next page.
    fn json<T: DeserializeOwned>(&self, url: &str) -> io::Result<(T, Option<String>)> {
        let answer = self.client.patiently(|| {
            let mut answer =
                self.client.follow(url, None, |url, _| self.client.get(url, None, self.token_for(url)))?;
            let next = answer.headers().get("link").and_then(|link| next_page(link.to_str().ok()?));
            let text = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
            let text = text.map_err(|error| Failure::Passing(io::Error::other(error), None))?;
            Ok((text, next))
        });
        let (text, next) = answer.map_err(|error| self.explained(error))?;
        let value = serde_json::from_slice(&text)
            .map_err(|error| io::Error::other(format!("{url}: expected the hub's list: {error}")))?;
        // A mirror's pages are the mirror's.
        let next = next.map(|next| format!("{}{}", self.endpoint, &next[origin(&next).len()..]));
        Ok((value, next))
    }

    /// The token, if the address is the hub's own: nobody else gets it.
    fn token_for(&self, url: &str) -> Option<&str> {
        self.token.as_deref().filter(|_| origin(url) == origin(&self.endpoint))
    }

    /// One request for a range of a file.
    fn range(&self, file: &str, missing: Range<u64>) -> Attempt<Response<Body>> {
        let known = self.signed().get(file).cloned();
        if let Some(url) = known {
            return match self.client.get(&url, Some(missing), self.token_for(&url)) {
                Err(Failure::Lasting(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                    // Signatures hold for an hour.
                    self.signed().remove(file);
                    Err(Failure::Expired(error))
                }
                answer => answer,
            };
        }
        let mut url =
            format!("{}/{}/resolve/{}/{}", self.endpoint, self.repository, self.commit, encoded(file));
        for _ in 0..REDIRECTIONS {
            let answer = self.client.get(&url, Some(missing.clone()), self.token_for(&url))?;
            let Some(next) = redirection(&url, &answer)? else { return Ok(answer) };
            // A repository that was renamed is at another path of the hub; a file's bytes are at a signed address.
            if origin(&next) == origin(&self.endpoint) && next.contains("/resolve/") {
                url = next;
                continue;
            }
            self.signed().insert(file.to_owned(), next);
            return self.range(file, missing);
        }
        Err(Failure::Lasting(io::Error::other(format!("{file}: the hub redirects in a circle"))))
    }

    fn signed(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.signed.lock().expect("no thread panics while it holds the addresses")
    }

    /// What a user can do about an answer.
    fn explained(&self, error: io::Error) -> io::Error {
        let advice = match (error.kind(), &self.token) {
            (io::ErrorKind::PermissionDenied, None) => {
                "there is no such repository, or it is private or gated: HF_TOKEN, or hf auth login, says who you are"
            }
            (io::ErrorKind::PermissionDenied, Some(_)) => {
                "the token (HF_TOKEN, or that of hf auth login) does not give access: a gated repository's page says how to get it"
            }
            (io::ErrorKind::NotFound, _) => "there is no such repository or revision",
            _ => return error,
        };
        io::Error::new(error.kind(), format!("{error}; {advice}"))
    }
}

impl Fetch for Hub {
    fn fetch(&self, file: &str, range: Range<u64>, room: Vec<u8>) -> io::Result<Vec<u8>> {
        self.client
            .bytes(range, room, |missing| self.range(file, missing))
            .map_err(|error| self.explained(error))
    }
}

/// The address behind `rel="next"` of a Link header.
fn next_page(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let url = next.trim().strip_prefix('<')?.split('>').next()?;
    url.contains("://").then(|| url.to_owned())
}

/// A variable that is set and not empty.
fn setting(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a variable says yes.
fn is_on(name: &str) -> bool {
    setting(name).is_some_and(|value| matches!(&*value.to_lowercase(), "1" | "true" | "yes" | "on"))
}

/// Whether only the cache may be read.
pub fn is_offline() -> bool {
    is_on("HF_HUB_OFFLINE")
}

/// The folder of the hub's own programs.
fn home() -> Option<PathBuf> {
    let cache =
        || setting("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cache")));
    setting("HF_HOME").map(PathBuf::from).or_else(|| Some(cache()?.join("huggingface")))
}

/// Who the user is: HF_TOKEN, else the file that `hf auth login` writes.
fn token() -> Option<String> {
    let kept = || {
        let file = setting("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")))?;
        fs::read_to_string(file).ok()
    };
    let token =
        setting("HF_TOKEN").or_else(|| if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { kept() })?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// The folder of a repository in the cache of the hub's own programs.
pub fn cached(repository: &str) -> Option<PathBuf> {
    let cache = setting("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home()?.join("hub")))?;
    Some(cache.join(format!("models--{}", repository.replace('/', "--"))))
}

/// The commit that the cache knows for a revision.
pub fn cached_commit(folder: &Path, revision: &str) -> Option<String> {
    match fs::read_to_string(folder.join("refs").join(revision)) {
        Ok(commit) => Some(commit.trim().to_owned()),
        Err(_) => folder.join("snapshots").join(revision).is_dir().then(|| revision.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_in_the_link() {
        let link = "<https://hub/api/models/a/b/tree/c?cursor=d>; rel=\"next\"";
        assert_eq!(next_page(link).as_deref(), Some("https://hub/api/models/a/b/tree/c?cursor=d"));
        assert_eq!(next_page("<https://hub/x>; rel=\"prev\""), None);
    }
}
