//! The Hugging Face hub's interface: who asks, and whom; commits of repositories, and their files.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Client, Failure, encoded, origin, setting, whole};

/// Where the hub is, unless HF_ENDPOINT names a mirror.
const ENDPOINT: &str = "https://huggingface.co";

/// The branch that is meant where none is named.
pub const MAIN: &str = "main";

/// Pages of the list of files.
const MAX_PAGES: usize = 1000;

/// The hub, as one user sees it.
#[derive(Debug)]
pub struct Api {
    /// Makes the requests.
    pub client: Client,
    /// Without a slash at its end.
    pub endpoint: String,
    token: Option<String>,
}

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Bytes.
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

impl Api {
    /// Whom HF_ENDPOINT names, for whom HF_TOKEN or `hf auth login` says.
    pub fn new(client: Client) -> Self {
        let endpoint = setting("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Self { client, endpoint: endpoint.trim_end_matches('/').to_owned(), token: token() }
    }

    /// The token, if the address is the hub's own: nobody else gets it.
    pub fn token_for(&self, url: &str) -> Option<&str> {
        self.token.as_deref().filter(|_| origin(url) == origin(&self.endpoint))
    }

    /// The address of a repository's part of the interface.
    pub fn of(&self, repository: &str) -> String {
        format!("{}/api/models/{repository}", self.endpoint)
    }

    /// The commit that a revision is now, by its 40 digits.
    ///
    /// # Errors
    /// If there is no such repository or revision, it is not for this user, or the hub does not answer.
    pub fn commit(&self, repository: &str, revision: &str) -> io::Result<String> {
        let url = format!("{}/revision/{}", self.of(repository), in_one(revision));
        let (Revision { sha }, _) = self.json(&url)?;
        if sha.len() != 40 || !sha.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(io::Error::other(format!("the hub says that {revision} is the commit {sha:?}")));
        }
        Ok(sha)
    }

    /// The files of a commit by their paths.
    ///
    /// # Errors
    /// As [`Api::commit`].
    pub fn files(&self, repository: &str, commit: &str) -> io::Result<BTreeMap<String, File>> {
        let mut files = BTreeMap::new();
        let mut page = Some(format!("{}/tree/{commit}?recursive=true", self.of(repository)));
        for _ in 0..MAX_PAGES {
            let Some(url) = page else { return Ok(files) };
            let (entries, next): (Vec<Entry>, _) = self.json(&url)?;
            for entry in entries.into_iter().filter(|entry| entry.r#type == "file") {
                let (size, oid) = entry.lfs.map_or((entry.size, entry.oid), |lfs| (lfs.size, lfs.oid));
                files.insert(entry.path, File { size, oid });
            }
            page = next;
        }
        Err(io::Error::other(format!("the hub lists more than {MAX_PAGES} pages of files")))
    }

    /// A value of the interface, and the address of the next page.
    fn json<T: DeserializeOwned>(&self, url: &str) -> io::Result<(T, Option<String>)> {
        let answer = self.client.patiently(|| {
            let send = |url: &str, _| self.client.get(url, None, self.token_for(url));
            let answer = self.client.follow(url, None, send)?;
            let next = answer.headers().get("link").and_then(|link| next_page(link.to_str().ok()?));
            Ok((whole(answer)?, next))
        });
        let (text, next) = answer.map_err(|error| self.explained(error))?;
        // A mirror's pages are the mirror's.
        let next = next.map(|next| format!("{}{}", self.endpoint, &next[origin(&next).len()..]));
        Ok((parsed(url, &text)?, next))
    }

    /// The value that a POST of a body of that kind is answered with.
    ///
    /// # Errors
    /// If the hub refuses, or does not answer.
    pub fn post<T: DeserializeOwned>(&self, url: &str, kind: &str, body: &[u8]) -> io::Result<T> {
        parsed(url, &self.send(url, kind, body)?)
    }

    /// The bytes that a POST of a body of that kind is answered with.
    ///
    /// # Errors
    /// If the hub refuses, or does not answer.
    pub fn send(&self, url: &str, kind: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let bearer = self.token_for(url).map(|token| format!("Bearer {token}"));
        // Answers to git's large files are of their own kind.
        let accepted = if kind == LARGE { LARGE } else { JSON };
        let headers =
            [("Content-Type", Some(kind)), ("Accept", Some(accepted)), ("Authorization", bearer.as_deref())];
        let headers: Vec<_> = headers.iter().filter_map(|&(name, value)| Some((name, value?))).collect();
        let text = self.client.patiently(|| {
            let answer = self.client.post(url, &headers, body)?;
            if answer.status().is_redirection() {
                let problem = "the repository has another name now; expected its new one";
                return Err(Failure::Lasting(io::Error::other(problem)));
            }
            whole(answer)
        });
        text.map_err(|error| self.explained(error))
    }

    /// What a user can do about an answer.
    pub fn explained(&self, error: io::Error) -> io::Error {
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

/// A revision as one step of a path.
pub fn in_one(revision: &str) -> String {
    encoded(revision).replace('/', "%2F")
}

/// Kinds of bodies: JSON, JSON in lines, and git's requests for large files.
pub const JSON: &str = "application/json";
pub const LINES: &str = "application/x-ndjson";
pub const LARGE: &str = "application/vnd.git-lfs+json";

fn parsed<T: DeserializeOwned>(url: &str, text: &[u8]) -> io::Result<T> {
    serde_json::from_slice(text)
        .map_err(|error| io::Error::other(format!("{url}: expected the hub's answer: {error}")))
}

/// The address behind `rel="next"` of a Link header.
fn next_page(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let url = next.trim().strip_prefix('<')?.split('>').next()?;
    url.contains("://").then(|| url.to_owned())
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

/// Where the hub's own programs keep what they download.
pub fn cache() -> Option<PathBuf> {
    setting("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home()?.join("hub")))
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
