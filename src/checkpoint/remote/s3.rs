//! What lies below a prefix of a bucket.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use ureq::http::StatusCode;

use super::blocks::Fetch;
use crate::http::s3::{Bucket, Object};
use crate::http::{Client, Failure};

/// The files as they were listed first.
#[derive(Debug)]
pub struct S3 {
    bucket: Bucket,
    /// Empty, or ends with a slash.
    prefix: String,
    files: BTreeMap<String, Object>,
}

impl S3 {
    /// Lists the files.
    ///
    /// # Errors
    /// If the bucket is not there, or not for this user.
    pub fn open(client: Client, bucket: &str, prefix: &str) -> io::Result<Self> {
        let bucket = Bucket::open(client, bucket)?;
        let found = bucket.list(prefix)?;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "nothing is there"));
        }
        let files = found
            .into_iter()
            .filter_map(|(key, object)| Some((key.strip_prefix(prefix)?.to_owned(), object)));
        Ok(Self { prefix: prefix.to_owned(), files: files.collect(), bucket })
    }

    /// Files by their paths below the prefix.
    pub fn files(&self) -> &BTreeMap<String, Object> {
        &self.files
    }
}

impl Fetch for S3 {
    fn fetch(&self, file: &str, range: Range<u64>, room: Vec<u8>) -> io::Result<Vec<u8>> {
        let key = format!("{}{file}", self.prefix);
        let known = self.files.get(file).map_or("", |object| &object.etag);
        self.bucket.client.bytes(range, room, |missing| {
            let answer = self.bucket.range(&key, missing)?;
            let found = answer.headers().get("etag").and_then(|etag| etag.to_str().ok()).unwrap_or_default();
            if found != known && matches!(answer.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
                let error = io::Error::other(format!("{key}: the file was replaced while it was read"));
                return Err(Failure::Lasting(error));
            }
            Ok(answer)
        })
    }
}
