//! A hub of models on 127.0.0.1 that behaves as the Hugging Face hub does: revisions that are pinned to commits, lists in
//! pages, large files at signed addresses of another host that expire, small ones served directly; and, when a test
//! wants it, with failures of every kind. It takes uploads as well: large files as git's, then commits.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tempfile::TempDir;

use super::hex;

/// Files of a page of the list.
const PAGE: usize = 3;

/// What is asked of a server, one after the other, on one connection.
struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 503 without a word.
    Unavailable,
    /// 429, with the time after which to come back.
    TooMany,
    /// The connection is closed without an answer.
    Silence,
    /// Half of the answer, then the end.
    Half,
}

pub const FAULTS: [Fault; 4] = [Fault::Unavailable, Fault::Half, Fault::TooMany, Fault::Silence];

/// The hub's state, which a test looks at and changes.
pub struct State {
    pub repository: String,
    /// The commits and their files; the last one is `main`.
    pub commits: Mutex<Vec<(String, PathBuf)>>,
    /// Whoever does not have this one is refused.
    pub token: Mutex<Option<String>>,
    /// Every so many requests fail, each in its way; none if 0.
    pub fails: AtomicU64,
    /// Uses of a signed address until it has expired.
    pub uses: AtomicU64,
    /// Requests, and bytes of answers.
    pub requests: AtomicU64,
    pub sent: AtomicU64,
    /// Whether the token was sent to the other host.
    pub leaked: AtomicBool,
    /// Whether nobody may write.
    pub read_only: AtomicBool,
    /// Whether tokenizer.json is kept with the large files, as those beyond 10 MB are.
    pub large_tokenizer: AtomicBool,
    /// Bytes of a part of an upload; 0 for uploads in one piece.
    pub part: AtomicU64,
    /// A folder of the uploader's, and the most files that lay there when bytes came.
    pub watched: Mutex<Option<PathBuf>>,
    pub most: AtomicUsize,
    signed: Mutex<HashMap<String, u64>>,
    cdn: Mutex<String>,
    uploads: Mutex<Uploads>,
}

/// What was uploaded.
struct Uploads {
    /// Large files by their SHA-256, and the folders of commits.
    folder: TempDir,
    /// Parts of unfinished files, by SHA-256 and number.
    parts: HashMap<(String, usize), Vec<u8>>,
}

/// Two servers, until the end of the process.
pub struct Hub {
    pub endpoint: String,
    pub state: Arc<State>,
}

/// A commit's name by a number.
pub fn commit(number: u64) -> String {
    format!("{number:040x}")
}

impl Hub {
    /// Serves a folder as the first commit of a repository.
    pub fn serving(repository: &str, folder: &Path) -> Self {
        let state = Arc::new(State {
            repository: repository.to_owned(),
            commits: Mutex::new(vec![(commit(0xa1), folder.to_owned())]),
            token: Mutex::default(),
            fails: AtomicU64::new(0),
            uses: AtomicU64::new(u64::MAX),
            requests: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            leaked: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            large_tokenizer: AtomicBool::new(true),
            part: AtomicU64::new(0),
            watched: Mutex::default(),
            most: AtomicUsize::new(0),
            signed: Mutex::default(),
            cdn: Mutex::default(),
            uploads: Mutex::new(Uploads {
                folder: TempDir::new().expect("a temporary folder"),
                parts: HashMap::new(),
            }),
        });
        let cdn = listen(Arc::clone(&state), Self::bytes);
        *state.cdn.lock().expect("sound") = cdn;
        Self { endpoint: listen(Arc::clone(&state), Self::answer), state }
    }

    /// The hub itself.
    fn answer(state: &State, request: &Request) -> Answer {
        let token = state.token.lock().expect("sound").clone();
        if let Some(token) = token {
            let given = request.headers.get("authorization");
            if given != Some(&format!("Bearer {token}")) {
                let status = if given.is_some() { "403 Forbidden" } else { "401 Unauthorized" };
                return Answer::status(status).header("X-Error-Code", "GatedRepo");
            }
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let commits = state.commits.lock().expect("sound").clone();
        if request.method == "POST" {
            return Self::write(state, request);
        }
        let api = format!("/api/models/{}/", state.repository);
        if let Some(revision) = path.strip_prefix(&format!("{api}revision/")) {
            let found = match revision {
                "main" => commits.last(),
                "refs%2Fpr%2F1" => commits.first(),
                commit => commits.iter().find(|known| known.0 == commit),
            };
            return match found {
                Some((sha, _)) => Answer::json(&json!({"id": state.repository, "sha": sha})),
                None => Answer::status("404 Not Found").header("X-Error-Code", "RevisionNotFound"),
            };
        }
        let folder_of =
            |commit: &str| commits.iter().find(|known| known.0 == commit).map(|known| known.1.clone());
        if let Some(folder) = path.strip_prefix(&format!("{api}tree/")).and_then(folder_of) {
            return Self::list(state, &folder, path, query, &request.headers["host"]);
        }
        let file = path.strip_prefix(&format!("/{}/resolve/", state.repository)).and_then(|rest| {
            let (commit, file) = rest.split_once('/')?;
            Some((folder_of(commit)?, file.to_owned()))
        });
        let Some((folder, file)) = file else {
            return Answer::status("401 Unauthorized").header("X-Error-Code", "RepoNotFound");
        };
        if !folder.join(&file).is_file() {
            return Answer::status("404 Not Found").header("X-Error-Code", "EntryNotFound");
        }
        if !state.is_large(&file) {
            return Answer::packed(&folder.join(&file), request);
        }
        let mut signed = state.signed.lock().expect("sound");
        let signature = format!("{}", signed.len());
        signed.insert(signature.clone(), state.uses.load(Ordering::Relaxed));
        let size = fs::metadata(folder.join(&file)).expect("it is there").len();
        let cdn = state.cdn.lock().expect("sound").clone();
        Answer::status("302 Found")
            .header("Location", &format!("{cdn}{}?X-Signature={signature}", folder.join(&file).display()))
            .header("X-Linked-Size", &size.to_string())
            .header("X-Xet-Hash", &commit(7))
    }

    /// Uploads and commits.
    fn write(state: &State, request: &Request) -> Answer {
        if state.read_only.load(Ordering::Relaxed) {
            return Answer::status("403 Forbidden").header("X-Error-Message", "this token only reads");
        }
        let repository = &state.repository;
        let mut uploads = state.uploads.lock().expect("sound");
        let at = uploads.folder.path().to_owned();
        if request.path == format!("/api/models/{repository}/preupload/main") {
            let files = request.json()["files"].as_array().expect("files").clone();
            let wanted = files.iter().map(|file| {
                let path = file["path"].as_str().expect("a path");
                assert!(file["sample"].is_string() && file["size"].is_u64());
                let mode = if state.is_large(path) { "lfs" } else { "regular" };
                json!({"path": path, "uploadMode": mode, "shouldIgnore": false})
            });
            return Answer::json(&json!({"files": wanted.collect::<Vec<_>>()}));
        }
        if request.path == format!("/{repository}.git/info/lfs/objects/batch") {
            assert_eq!(request.headers["accept"], "application/vnd.git-lfs+json");
            let object = &request.json()["objects"][0];
            let (oid, size) =
                (object["oid"].as_str().expect("an oid"), object["size"].as_u64().expect("a size"));
            if at.join(oid).exists() {
                return Answer::json(&json!({"objects": [object]}));
            }
            let (cdn, host) = (state.cdn.lock().expect("sound").clone(), &request.headers["host"]);
            let verify = json!({"href": format!("http://{host}/verify")});
            let upload = match state.part.load(Ordering::Relaxed) {
                0 => json!({"href": format!("{cdn}/upload/{oid}/0")}),
                part => {
                    let parts = 1..=size.div_ceil(part);
                    let mut header: serde_json::Map<_, _> = parts
                        .map(|n| (format!("{n:05}"), json!(format!("{cdn}/upload/{oid}/{n}"))))
                        .collect();
                    header.insert("chunk_size".into(), part.to_string().into());
                    json!({"href": format!("{cdn}/complete"), "header": header})
                }
            };
            return Answer::json(
                &json!({"objects": [{"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}]}),
            );
        }
        if request.path == "/verify" {
            let object = request.json();
            let file = at.join(object["oid"].as_str().expect("an oid"));
            assert_eq!(file.metadata().expect("it is there").len(), object["size"]);
            return Answer::status("200 OK");
        }
        assert_eq!(request.path, format!("/api/models/{repository}/commit/main"));
        let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&request.body)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let mut commits = state.commits.lock().expect("sound");
        let (parent, before) = commits.last().expect("a commit").clone();
        if lines[0]["value"]["parentCommit"] != parent.as_str() {
            return Answer::status("412 Precondition Failed")
                .header("X-Error-Message", "A commit has happened since");
        }
        uploads.parts.clear();
        let sha = commit(0xc0 + commits.len() as u64);
        let folder = at.join(&sha);
        copy(&before, &folder);
        for line in &lines[1..] {
            let value = &line["value"];
            let path = folder.join(value["path"].as_str().expect("a path"));
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            match line["key"].as_str().expect("a key") {
                "lfsFile" => {
                    let large = at.join(value["oid"].as_str().expect("an oid"));
                    assert_eq!(large.metadata().expect("it is there").len(), value["size"]);
                    fs::copy(large, path).expect("copied");
                }
                "file" => {
                    let content = value["content"].as_str().expect("a content");
                    fs::write(path, STANDARD.decode(content).expect("base64")).expect("written");
                }
                other => panic!("{other} is no key of a commit"),
            }
        }
        commits.push((sha.clone(), folder));
        Answer::json(&json!({"commitOid": sha}))
    }

    /// Bytes of a large file that come to the other host.
    fn take(state: &State, request: &Request) -> Answer {
        if let Some(folder) = &*state.watched.lock().expect("sound") {
            let files = fs::read_dir(folder).expect("read").flatten().filter(|file| {
                let name = file.file_name().into_string().expect("a name");
                name.ends_with(".gguf") || name.ends_with(".part")
            });
            state.most.fetch_max(files.count(), Ordering::Relaxed);
        }
        let mut uploads = state.uploads.lock().expect("sound");
        let at = uploads.folder.path().to_owned();
        if request.path == "/complete" {
            let question = request.json();
            let oid = question["oid"].as_str().expect("an oid");
            let mut whole = Vec::new();
            for (index, part) in question["parts"].as_array().expect("parts").iter().enumerate() {
                assert_eq!(part["partNumber"], index + 1);
                let bytes = &uploads.parts[&(oid.to_owned(), index + 1)];
                assert_eq!(part["etag"], hex(bytes));
                whole.extend_from_slice(bytes);
            }
            return keep(&at, oid, &whole);
        }
        let mut steps = request.path.trim_start_matches("/upload/").split('/');
        let (oid, part) =
            (steps.next().expect("an oid"), steps.next().expect("a part").parse().expect("a number"));
        if part == 0 {
            return keep(&at, oid, &request.body);
        }
        uploads.parts.insert((oid.to_owned(), part), request.body.clone());
        Answer::status("200 OK").header("ETag", &hex(&request.body))
    }

    fn list(state: &State, folder: &Path, path: &str, query: &str, host: &str) -> Answer {
        let mut files = files(folder);
        files.sort();
        let first = query.split('&').find_map(|part| part.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
        let entry = |file: &PathBuf| {
            let name = file.strip_prefix(folder).expect("it is in it").to_string_lossy().into_owned();
            let size = fs::metadata(file).expect("it is there").len();
            let mut entry = json!({"type": "file", "path": name, "size": size, "oid": "gitdigest"});
            if state.is_large(&name) {
                // A sparse file of a test is large, and its digest is not looked at.
                let digest =
                    if size > 1 << 26 { "0".repeat(64) } else { hex(&fs::read(file).expect("read")) };
                entry["lfs"] = json!({"oid": digest, "size": size, "pointerSize": 135});
            }
            entry
        };
        let mut page: Vec<_> = files.iter().skip(first).take(PAGE).map(entry).collect();
        page.push(json!({"type": "directory", "path": "figures", "size": 0, "oid": "gitdigest"}));
        let answer = Answer::json(&json!(page));
        match first + PAGE < files.len() {
            true => {
                let next =
                    format!("<http://{host}{path}?recursive=true&cursor={}>; rel=\"next\"", first + PAGE);
                answer.header("Link", &next)
            }
            false => answer,
        }
    }

    /// The host that has the bytes.
    fn bytes(state: &State, request: &Request) -> Answer {
        if request.headers.contains_key("authorization") {
            state.leaked.store(true, Ordering::Relaxed);
        }
        if request.method != "GET" {
            return Self::take(state, request);
        }
        let (path, signature) = request.path.split_once("?X-Signature=").unwrap_or((&request.path, ""));
        let mut signed = state.signed.lock().expect("sound");
        match signed.get_mut(signature) {
            Some(uses) if *uses > 0 => *uses -= 1,
            _ => return Answer::status("403 Forbidden"),
        }
        drop(signed);
        Answer::file(Path::new(path), request)
    }
}

/// A web server's folder.
pub fn web(folder: &Path) -> String {
    let hub = Hub::serving("web", folder);
    let served = |state: &State, request: &Request| {
        let folder = state.commits.lock().expect("sound")[0].1.clone();
        let file = folder.join(request.path.trim_start_matches("/models/"));
        if file.is_file() { Answer::file(&file, request) } else { Answer::status("404 Not Found") }
    };
    format!("{}/models", listen(hub.state, served))
}

impl State {
    fn is_large(&self, file: &str) -> bool {
        let tokenizer = self.large_tokenizer.load(Ordering::Relaxed);
        file.ends_with(".safetensors") || file.ends_with(".gguf") || (file == "tokenizer.json" && tokenizer)
    }
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).expect("read").map(|file| file.expect("a file").path()) {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in files(from) {
        let path = to.join(file.strip_prefix(from).expect("it is in it"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::copy(&file, path).expect("copied");
    }
}

/// Keeps a large file, if it is what its name says.
fn keep(folder: &Path, oid: &str, bytes: &[u8]) -> Answer {
    if hex(bytes) != oid {
        return Answer::status("422 Unprocessable Entity");
    }
    fs::write(folder.join(oid), bytes).expect("written");
    Answer::status("200 OK")
}

impl Request {
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// An answer, whose body may be a part of a file.
struct Answer {
    head: String,
    body: Vec<u8>,
    file: Option<(PathBuf, u64, u64)>,
}

impl Answer {
    fn status(status: &str) -> Self {
        Self { head: format!("HTTP/1.1 {status}\r\n"), body: Vec::new(), file: None }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    fn json(value: &serde_json::Value) -> Self {
        Self { body: value.to_string().into_bytes(), ..Self::status("200 OK") }
    }

    /// A whole file is packed for those who take it so.
    fn packed(path: &Path, request: &Request) -> Self {
        let wanted = request.headers.get("accept-encoding").is_some_and(|wanted| wanted.contains("gzip"));
        if !wanted || request.headers.contains_key("range") {
            return Self::file(path, request);
        }
        let body = gzip(&fs::read(path).expect("read"));
        Self { body, ..Self::status("200 OK").header("Content-Encoding", "gzip") }
    }

    fn file(path: &Path, request: &Request) -> Self {
        let size = fs::metadata(path).expect("it is there").len();
        let range = request.headers.get("range").map(|range| {
            let (first, last) = range.trim_start_matches("bytes=").split_once('-').expect("a range");
            (first.parse::<u64>().expect("a number"), last.parse::<u64>().expect("a number"))
        });
        match range {
            None => Self { file: Some((path.to_owned(), 0, size)), ..Self::status("200 OK") },
            Some((first, last)) if first <= last && last < size => {
                let answer = Self::status("206 Partial Content");
                let answer = answer.header("Content-Range", &format!("bytes {first}-{last}/{size}"));
                Self { file: Some((path.to_owned(), first, last + 1 - first)), ..answer }
            }
            Some(_) => Self::status("416 Range Not Satisfiable"),
        }
    }
}

/// Bytes packed as a whole answer may be.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("in memory");
    packed.finish().expect("in memory")
}

/// Starts a server; its address.
fn listen(state: Arc<State>, answer: fn(&State, &Request) -> Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = Arc::clone(&state);
            // A client that goes away ends its connection's thread.
            thread::spawn(move || serve(&state, stream, answer));
        }
    });
    address
}

fn serve(state: &State, stream: TcpStream, answer: fn(&State, &Request) -> Answer) -> Option<()> {
    let mut out = stream.try_clone().ok()?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let mut request = Request { method, path, headers: HashMap::new(), body: Vec::new() };
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).ok().filter(|&read| read > 0)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            request.headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        if let Some(length) = request.headers.get("content-length") {
            request.body = vec![0; length.parse().ok()?];
            lines.read_exact(&mut request.body).ok()?;
        }
        let number = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let fails = state.fails.load(Ordering::Relaxed);
        let fault = number.is_multiple_of(fails).then(|| FAULTS[(number / fails) as usize % FAULTS.len()]);
        let found = match fault {
            Some(Fault::Silence) => return None,
            Some(Fault::Unavailable) => Answer::status("503 Service Unavailable"),
            Some(Fault::TooMany) => Answer::status("429 Too Many Requests").header("Retry-After", "1"),
            _ => answer(state, &request),
        };
        let length = found.file.as_ref().map_or(found.body.len() as u64, |file| file.2);
        write!(out, "{}Content-Length: {length}\r\n\r\n", found.head).ok()?;
        if request.method == "HEAD" {
            continue;
        }
        let half = fault == Some(Fault::Half);
        let part = if half { length / 2 } else { length };
        match found.file {
            Some((path, offset, _)) => {
                let mut file = fs::File::open(path).ok()?;
                file.seek(SeekFrom::Start(offset)).ok()?;
                std::io::copy(&mut file.take(part), &mut out).ok()?;
            }
            None => out.write_all(&found.body[..part as usize]).ok()?,
        }
        state.sent.fetch_add(part, Ordering::Relaxed);
        if half {
            return None;
        }
    }
}
