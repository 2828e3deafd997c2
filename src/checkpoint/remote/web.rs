//! A folder of a web server, which cannot be listed: files are asked for by their names.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Mutex;

use ureq::http::{HeaderMap, StatusCode};

use super::blocks::Fetch;
use crate::http::{Client, Failure, encoded};

/// The folder, and what was seen of its files.
#[derive(Debug)]
pub struct Web {
    client: Client,
    /// Ends with a slash.
    url: String,
    seen: Mutex<HashMap<String, Option<File>>>,
}

/// A file as it was when it was asked for first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub size: u64,
    /// ETag or time of change; empty if the server says neither.
    pub version: String,
}

impl Web {
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url, seen: Mutex::default() }
    }

    /// The file; None if it is not there.
    ///
    /// # Errors
    /// If the server does not answer, or does not say how large it is.
    pub fn file(&self, file: &str) -> io::Result<Option<File>> {
        if let Some(known) = self.seen().get(file) {
            return Ok(known.clone());
        }
        let url = self.url(file);
        let asked =
            self.client.patiently(|| self.client.follow(&url, None, |url, _| self.client.head(url, None)));
        let found = match asked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
            Ok(answer) => {
                let size =
                    answer.headers().get("content-length").and_then(|size| size.to_str().ok()?.parse().ok());
                let size =
                    size.ok_or_else(|| io::Error::other(format!("{url}: the server does not say its size")))?;
                Some(File { size, version: version(answer.headers()) })
            }
        };
        self.seen().insert(file.to_owned(), found.clone());
        Ok(found)
    }

    pub fn url(&self, file: &str) -> String {
        format!("{}{}", self.url, encoded(file))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<File>>> {
        self.seen.lock().expect("no thread panics while it holds the list of files")
    }
}

impl Fetch for Web {
    fn fetch(&self, file: &str, range: Range<u64>, room: Vec<u8>) -> io::Result<Vec<u8>> {
        let url = self.url(file);
        let known = self.file(file)?.map(|file| file.version).unwrap_or_default();
        self.client.bytes(range, room, |missing| {
            let answer =
                self.client.follow(&url, Some(missing), |url, range| self.client.get(url, range, None))?;
            let found = version(answer.headers());
            if found != known && matches!(answer.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
                let error = io::Error::other(format!("{url}: the file was replaced while it was read"));
                return Err(Failure::Lasting(error));
            }
            Ok(answer)
        })
    }
}

/// What tells one version of a file from another.
fn version(headers: &HeaderMap) -> String {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim_start_matches("W/").to_owned());
    text("etag").or_else(|| text("last-modified")).unwrap_or_default()
}
