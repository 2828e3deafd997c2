//! Out to a repository of the Hugging Face hub: large files as git's large files (LFS), then one commit on top of the one
//! that is known.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::pieces::{Piece, each, ranges};
use super::target::folder;
use super::{Announced, Content, Place, There, Upload};
use crate::http::hub::{self, Api, JSON, LARGE, LINES, in_one};
use crate::http::{Client, encoded, whole};
use crate::moment;

/// Bytes of a file's beginning that the hub looks at.
const SAMPLE: usize = 512;

/// A branch that moves is committed to anew so many times.
const TRIES: usize = 5;

/// Files that one question may be about.
const IN_ONE: usize = 256;

/// Files of a repository that go below one folder of a branch.
#[derive(Debug)]
pub struct Hub {
    api: Api,
    repository: String,
    revision: String,
    /// Empty, or ends with a slash.
    folder: String,
    seen: Mutex<Seen>,
}

/// The branch as it was seen last.
#[derive(Debug)]
struct Seen {
    commit: String,
    files: BTreeMap<String, hub::File>,
}

/// How the hub wants files.
#[derive(Deserialize)]
struct Wanted {
    files: Vec<WantedFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WantedFile {
    path: String,
    upload_mode: String,
}

/// Where a large file goes.
#[derive(Deserialize)]
struct Batch {
    #[serde(default)]
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    actions: Option<Actions>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: HashMap<String, Value>,
}

impl Hub {
    /// The branch as it is now.
    ///
    /// # Errors
    /// If there is no such repository or branch, or not for this user.
    pub fn open(client: Client, repository: &str, revision: &str, path: &str) -> io::Result<Self> {
        let api = Api::new(client);
        let seen = Mutex::new(Seen::of(&api, repository, revision).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                let advice = format!("if there is none yet, hf repo create {repository} makes it");
                io::Error::new(error.kind(), format!("{error}; {advice}"))
            }
            _ => error,
        })?);
        let [repository, revision, folder] = [repository, revision, folder(path)].map(str::to_owned);
        Ok(Self { api, repository, revision, folder, seen })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no thread panics while it holds the list of files")
    }

    /// The path of a file in the repository.
    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    /// Whether each file is to be a large one.
    fn are_large(&self, files: &[Announced]) -> io::Result<Vec<bool>> {
        let url = format!("{}/preupload/{}", self.api.of(&self.repository), in_one(&self.revision));
        let mut large = Vec::with_capacity(files.len());
        for files in files.chunks(IN_ONE) {
            let about = |file: &Announced| {
                let sample = STANDARD.encode(&file.head[..file.head.len().min(SAMPLE)]);
                json!({"path": self.path(&file.name), "size": file.size, "sample": sample})
            };
            let question = json!({"files": files.iter().map(about).collect::<Vec<_>>()});
            let Wanted { files: wanted } = self.api.post(&url, JSON, question.to_string().as_bytes())?;
            for file in files {
                let path = self.path(&file.name);
                let found = wanted.iter().find(|wanted| wanted.path == path);
                let found =
                    found.ok_or_else(|| io::Error::other(format!("{url}: says nothing of {path}")))?;
                large.push(found.upload_mode == "lfs");
            }
        }
        Ok(large)
    }

    /// Sends a large file, unless the hub has it.
    fn send(&self, path: &Path, size: u64, sha256: &str, sent: &(dyn Fn(u64) + Sync)) -> io::Result<()> {
        let url = format!("{}/{}.git/info/lfs/objects/batch", self.api.endpoint, self.repository);
        let object = json!({"oid": sha256, "size": size});
        let question = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [object],
            "hash_algo": "sha256",
        });
        let file = File::open(path)?;
        let batch: Batch = self.api.post(&url, LARGE, question.to_string().as_bytes())?;
        let answer = batch.objects.into_iter().next();
        let answer = answer.ok_or_else(|| io::Error::other(format!("{url}: says nothing of the file")))?;
        if let Some(Refusal { message }) = answer.error {
            return Err(io::Error::other(format!("{url}: the hub does not take the file: {message}")));
        }
        // Without anything to do it has the file.
        let Some(Actions { upload, verify }) = answer.actions else {
            sent(size);
            return Ok(());
        };
        if let Some(Action { href, header }) = upload {
            match header.get("chunk_size").and_then(number) {
                Some(chunk) if chunk > 0 => {
                    self.in_parts(&file, size, sha256, (&href, &header, chunk), sent)?
                }
                _ => {
                    let headers: Vec<_> =
                        header.iter().filter_map(|(name, value)| Some((&**name, value.as_str()?))).collect();
                    let client = &self.api.client;
                    client.patiently(|| {
                        client.put(&href, &headers, size, Piece::new(&file, 0..size, client))
                    })?;
                    sent(size);
                    moment::pass("sent");
                }
            }
        }
        if let Some(Action { href, .. }) = verify {
            self.api.send(&href, LARGE, object.to_string().as_bytes())?;
        }
        Ok(())
    }

    /// Sends a file in parts, each to an address of its own, and has them put together.
    fn in_parts(
        &self,
        file: &File,
        size: u64,
        sha256: &str,
        (whole_at, header, chunk): (&str, &HashMap<String, Value>, u64),
        sent: &(dyn Fn(u64) + Sync),
    ) -> io::Result<()> {
        let mut addresses: Vec<(u64, &str)> =
            header.iter().filter_map(|(name, url)| Some((name.parse().ok()?, url.as_str()?))).collect();
        addresses.sort_unstable();
        let ranges = ranges(size, chunk);
        if addresses.len() != ranges.len() {
            let (found, expected) = (addresses.len(), ranges.len());
            return Err(io::Error::other(format!("the hub gives {found} addresses for {expected} parts")));
        }
        let client = &self.api.client;
        let parts = each(ranges.len(), |index| {
            let (range, (number, url)) = (ranges[index].clone(), addresses[index]);
            let bytes = range.end - range.start;
            let answer =
                client.patiently(|| client.put(url, &[], bytes, Piece::new(file, range.clone(), client)))?;
            sent(bytes);
            moment::pass("sent");
            let etag = answer.headers().get("etag").and_then(|etag| etag.to_str().ok());
            let etag = etag.ok_or_else(|| io::Error::other("the hub's store gives no ETag for a part"))?;
            Ok(json!({"partNumber": number, "etag": etag}))
        })?;
        let body = json!({"oid": sha256, "parts": parts}).to_string();
        let headers = [("Content-Type", LARGE), ("Accept", LARGE)];
        client.patiently(|| client.post(whole_at, &headers, body.as_bytes()).and_then(whole)).map(drop)
    }

    /// Commits on top of what was seen last; again, if others were faster.
    fn commit(&self, lines: &[Value], files: &[(String, Option<&str>)], message: &str) -> io::Result<()> {
        let url = format!("{}/commit/{}", self.api.of(&self.repository), in_one(&self.revision));
        for last in (0..TRIES).rev() {
            let parent = self.seen().commit.clone();
            let header = json!({"key": "header", "value": {"summary": message, "description": "", "parentCommit": parent}});
            let body: String =
                std::iter::once(&header).chain(lines).map(|line| format!("{line}\n")).collect();
            let made = self.api.send(&url, LINES, body.as_bytes());
            // An answer that was lost, or another commit: the branch says which.
            *self.seen() = match Seen::of(&self.api, &self.repository, &self.revision) {
                Ok(seen) => seen,
                Err(error) => return made.and(Err(error)),
            };
            let is_there = |(path, oid): &(String, Option<&str>)| {
                let seen = self.seen();
                seen.files.get(path).is_some_and(|found| oid.is_none_or(|oid| found.oid == oid))
            };
            let moved = self.seen().commit != parent;
            match made {
                // The hub makes no commit of what is all there already.
                Ok(_) if files.iter().all(is_there) => return Ok(()),
                Err(_) if moved && files.iter().all(is_there) => return Ok(()),
                Err(error) if !moved || last == 0 => return Err(error),
                Ok(_) if last == 0 => {
                    return Err(io::Error::other("the hub took a commit that is not there"));
                }
                _ => {}
            }
        }
        unreachable!("the last try returns")
    }
}

impl Seen {
    fn of(api: &Api, repository: &str, revision: &str) -> io::Result<Self> {
        let commit = api.commit(repository, revision)?;
        let files = api.files(repository, &commit)?;
        Ok(Self { commit, files })
    }
}

impl Place for Hub {
    fn find(&self, name: &str) -> io::Result<Option<There>> {
        let seen = self.seen();
        let found = seen.files.get(&self.path(name));
        // Git's own digest of a small file is another one.
        let sha256 = |oid: &str| (oid.len() == 64).then(|| oid.to_owned());
        Ok(found.map(|file| There { size: file.size, sha256: sha256(&file.oid) }))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        if self.find(name)?.is_none() {
            return Ok(None);
        }
        let (api, commit) = (&self.api, self.seen().commit.clone());
        let path = encoded(&self.path(name));
        let url = format!("{}/{}/resolve/{commit}/{path}", api.endpoint, self.repository);
        let text = api.client.patiently(|| {
            let send = |url: &str, _| api.client.get(url, None, api.token_for(url));
            api.client.follow(&url, None, send).and_then(whole)
        });
        text.map(Some).map_err(|error| api.explained(error))
    }

    fn ask(&self, files: &[Announced]) -> io::Result<()> {
        self.are_large(files).map(drop).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                io::Error::new(error.kind(), format!("{error}; the token must be one that may write"))
            }
            _ => error,
        })
    }

    fn put(&self, files: &[Upload], message: &str, sent: &(dyn Fn(u64) + Sync)) -> io::Result<()> {
        let heads = files.iter().map(|upload| upload.content.head(SAMPLE)).collect::<io::Result<Vec<_>>>()?;
        let mut announced = Vec::with_capacity(files.len());
        for (upload, head) in files.iter().zip(&heads) {
            announced.push(Announced { name: upload.name.clone(), size: upload.content.size(), head });
        }
        let (mut lines, mut expected) = (Vec::new(), Vec::new());
        for (upload, large) in files.iter().zip(self.are_large(&announced)?) {
            let path = self.path(&upload.name);
            match &upload.content {
                Content::File { path: local, size, sha256 } if large => {
                    self.send(local, *size, sha256, sent)?;
                    let value = json!({"path": path, "algo": "sha256", "oid": sha256, "size": size});
                    lines.push(json!({"key": "lfsFile", "value": value}));
                    expected.push((path, Some(&**sha256)));
                }
                content => {
                    let bytes = content.bytes()?;
                    let value =
                        json!({"path": path, "content": STANDARD.encode(&bytes), "encoding": "base64"});
                    lines.push(json!({"key": "file", "value": value}));
                    expected.push((path, None));
                    sent(bytes.len() as u64);
                }
            }
        }
        moment::pass("committing");
        self.commit(&lines, &expected, message)?;
        moment::pass("uploaded");
        Ok(())
    }

    fn page(&self) -> String {
        format!("{}/{}", self.api.endpoint, self.repository)
    }
}

/// A number, which some servers write as a text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
