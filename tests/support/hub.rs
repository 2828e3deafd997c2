//! A hub of models on 127.0.0.1 that behaves as the Hugging Face hub does: revisions that are pinned to commits, lists in
//! pages, large files at signed addresses of another host that expire, small ones served directly; and, when a test
//! wants it, with failures of every kind.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use super::hex;

/// Files of a page of the list.
const PAGE: usize = 3;

/// What is asked of a server, one after the other, on one connection.
struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
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
    signed: Mutex<HashMap<String, u64>>,
    cdn: Mutex<String>,
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
            signed: Mutex::default(),
            cdn: Mutex::default(),
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
            return Self::list(&folder, path, query, &request.headers["host"]);
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
        if !is_large(&file) {
            return Answer::file(&folder.join(&file), request);
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

    fn list(folder: &Path, path: &str, query: &str, host: &str) -> Answer {
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).expect("read").map(|file| file.expect("a file").path()).collect();
        files.retain(|file| file.is_file());
        files.sort();
        let first = query.split('&').find_map(|part| part.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
        let entry = |file: &PathBuf| {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            let size = fs::metadata(file).expect("it is there").len();
            let mut entry = json!({"type": "file", "path": name, "size": size, "oid": "gitdigest"});
            if is_large(&name) {
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

fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file == "tokenizer.json"
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
        let mut request = Request { method: words.next()?, path: words.next()?, headers: HashMap::new() };
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).ok().filter(|&read| read > 0)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            request.headers.insert(name.to_lowercase(), value.trim().to_owned());
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
