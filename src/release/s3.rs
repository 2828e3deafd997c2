//! Out to a bucket of S3: a file in parts, which appears when all are there. An upload that was interrupted goes on with
//! the parts that the bucket has.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::pieces::{Piece, each, ranges};
use super::target::folder;
use super::{Announced, Content, NOTE, Place, There, Upload};
use crate::disk;
use crate::gguf::beside;
use crate::http::Client;
use crate::http::s3::{Bucket, Part};
use crate::moment;

/// Bytes of a part at least.
const PART: u64 = 16 << 20;

/// An object has 10,000 parts at most.
const MAX_PARTS: u64 = 9_000;

/// A file of fewer bytes is sent in one piece.
const SMALL: u64 = 8 << 20;

/// What is kept beside a file while it is sent: the number of its upload.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    bucket: String,
    key: String,
    sha256: String,
    upload: String,
}

/// Objects that go below one prefix.
#[derive(Debug)]
pub struct S3 {
    bucket: Bucket,
    name: String,
    /// Empty, or ends with a slash.
    folder: String,
}

impl S3 {
    /// The bucket, which is not asked for anything yet.
    ///
    /// # Errors
    /// If the endpoint is no address.
    pub fn open(client: Client, bucket: &str, key: &str) -> io::Result<Self> {
        Ok(Self {
            bucket: Bucket::open(client, bucket)?,
            name: bucket.to_owned(),
            folder: folder(key).to_owned(),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    /// Sends a large file.
    fn send(
        &self,
        key: &str,
        path: &Path,
        size: u64,
        sha256: &str,
        sent: &(dyn Fn(u64) + Sync),
    ) -> io::Result<()> {
        let file = File::open(path)?;
        let note = beside(path, NOTE);
        let (upload, there) = match self.begun(&note, key, sha256)? {
            Some(begun) => begun,
            None => {
                let upload = self.bucket.begin(key, sha256)?;
                let begun = Begun {
                    bucket: self.name.clone(),
                    key: key.to_owned(),
                    sha256: sha256.to_owned(),
                    upload: upload.clone(),
                };
                disk::write_whole(&note, serde_json::to_string(&begun)?.as_bytes())?;
                (upload, Vec::new())
            }
        };
        let ranges = ranges(size, PART.max(size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20)));
        let client = &self.bucket.client;
        let etags = each(ranges.len(), |index| {
            let range = ranges[index].clone();
            let (number, bytes) = (index as u16 + 1, range.end - range.start);
            if let Some(part) = there.iter().find(|part| part.number == number && part.size == bytes)
                && part.etag.trim_matches('"') == md5(Piece::new(&file, range.clone(), client), client)?
            {
                sent(bytes);
                return Ok(part.etag.clone());
            }
            let etag = client.patiently(|| {
                let piece = Piece::new(&file, range.clone(), client);
                self.bucket.put_part(key, &upload, number, bytes, piece)
            })?;
            sent(bytes);
            moment::pass("sent");
            Ok(etag)
        })?;
        self.bucket.complete(key, &upload, &etags)?;
        fs::remove_file(note)
    }

    /// The upload that an earlier run has begun with this very file, and the parts that the bucket has.
    fn begun(&self, note: &Path, key: &str, sha256: &str) -> io::Result<Option<(String, Vec<Part>)>> {
        let begun = match fs::read(note) {
            Ok(text) => serde_json::from_slice::<Begun>(&text)
                .map(Some)
                .map_err(|_| io::Error::other(format!("{} is there, and no upload's", note.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let is_this = |begun: &Begun| begun.bucket == self.name && begun.key == key && begun.sha256 == sha256;
        let Some(Begun { upload, .. }) = begun.filter(is_this) else { return Ok(None) };
        Ok(self.bucket.parts(key, &upload)?.map(|parts| (upload, parts)))
    }
}

impl Place for S3 {
    fn find(&self, name: &str) -> io::Result<Option<There>> {
        let found = self.bucket.find(&self.key(name))?;
        Ok(found.map(|object| There { size: object.size, sha256: object.sha256 }))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.bucket.read(&self.key(name))
    }

    fn ask(&self, files: &[Announced]) -> io::Result<()> {
        // Whether it may be written to, only a write tells: an upload that is given up leaves nothing.
        let Some(first) = files.first() else { return Ok(()) };
        let key = self.key(&first.name);
        let upload = self.bucket.begin(&key, "")?;
        self.bucket.abandon(&key, &upload)
    }

    fn put(&self, files: &[Upload], _: &str, sent: &(dyn Fn(u64) + Sync)) -> io::Result<()> {
        // The manifest before its file: killed in between, the same command finds no file, and goes on.
        for upload in files.iter().rev() {
            let key = self.key(&upload.name);
            match &upload.content {
                Content::File { path, size, sha256 } if *size >= SMALL => {
                    self.send(&key, path, *size, sha256, sent)?;
                }
                content => {
                    let bytes = content.bytes()?;
                    self.bucket.write(&key, &bytes, content.sha256())?;
                    sent(bytes.len() as u64);
                }
            }
            moment::pass("put");
        }
        moment::pass("uploaded");
        Ok(())
    }

    fn page(&self) -> String {
        format!("s3://{}/{}", self.name, self.folder)
    }
}

/// What S3 calls the ETag of a part.
fn md5(mut piece: Piece, client: &Client) -> io::Result<String> {
    let (mut digest, mut bytes) = (Md5::new(), vec![0; 1 << 16]);
    loop {
        if client.is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match io::Read::read(&mut piece, &mut bytes)? {
            0 => break,
            count => digest.update(&bytes[..count]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
