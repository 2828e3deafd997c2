//! A bucket on 127.0.0.1: moto's server, which speaks S3, and a line to it that breaks.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::python::moto;

/// The name of the bucket.
pub const BUCKET: &str = "models";

/// What whoever owns the objects says; moto does not look at the signature.
const SIGNED: &str =
    "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// A server, until it is dropped.
pub struct S3 {
    server: Child,
    /// `127.0.0.1:PORT`.
    address: String,
}

impl S3 {
    /// A server with an empty bucket; None, which the summary says, where moto is not to be had.
    pub fn start() -> Option<Self> {
        let mut command = Command::new(moto()?);
        command.args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        let mut server = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("moto starts");
        let mut lines = BufReader::new(server.stderr.take().expect("piped")).lines();
        let address = lines.by_ref().find_map(|line| {
            let line = line.expect("text");
            line.split_once("http://").map(|(_, address)| address.trim().to_owned())
        });
        // It tells of every request, and must not wait for a reader.
        thread::spawn(move || lines.for_each(drop));
        let s3 = Self { server, address: address.expect("moto says where it is") };
        s3.put("", &[]);
        Some(s3)
    }

    /// A line to it of which every `nth` connection breaks after so many bytes of answers.
    pub fn breaking(&self, nth: u64, bytes: u64) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (to, number) = (self.address.clone(), Arc::new(AtomicU64::new(0)));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&to).expect("moto is there");
                let breaks = (number.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(nth);
                let limit = if breaks { bytes } else { u64::MAX };
                let pair = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                thread::spawn(move || pass(pair.0, pair.1, u64::MAX));
                thread::spawn(move || pass(server, client, limit));
            }
        });
        format!("http://{address}")
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes an object, or makes the bucket if it has no name.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let status = self.ask("PUT", key, bytes).0;
        assert!(status.contains(" 200 "), "{key}: {status}");
    }

    /// The object's bytes, if it is there.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let (status, bytes) = self.ask("GET", key, &[]);
        status.contains(" 200 ").then_some(bytes)
    }

    /// Whether uploads have begun that are not complete.
    pub fn has_unfinished(&self) -> bool {
        let (_, list) = self.ask("GET", "?uploads", &[]);
        String::from_utf8_lossy(&list).contains("<UploadId>")
    }

    /// Writes every file of a folder below a prefix.
    pub fn fill(&self, prefix: &str, folder: &Path) {
        for file in fs::read_dir(folder).expect("read").flatten() {
            let name = file.file_name().into_string().expect("a name");
            self.put(&format!("{prefix}/{name}"), &fs::read(file.path()).expect("read"));
        }
    }

    fn ask(&self, method: &str, key: &str, bytes: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).expect("moto is there");
        let slash = if key.is_empty() || key.starts_with('?') { "" } else { "/" };
        let head = format!(
            "{method} /{BUCKET}{slash}{key} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: {SIGNED}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            bytes.len()
        );
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(bytes).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("headers") + 4;
        let status = String::from_utf8_lossy(&answer).lines().next().expect("a status").to_owned();
        (status, answer.split_off(end))
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Passes on at most so many bytes, then breaks both ways.
fn pass(mut from: TcpStream, mut to: TcpStream, limit: u64) {
    let _ = std::io::copy(&mut (&mut from).take(limit), &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
