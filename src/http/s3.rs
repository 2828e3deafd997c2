//! Buckets of S3, and of what speaks its language: addresses are signed here, and requests are made as all others.

use std::env;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use rusty_s3::S3Action;
use rusty_s3::actions::{
    CompleteMultipartUploadResponse, CreateMultipartUpload, ListObjectsV2, ListParts, PartsContent,
};
use rusty_s3::{Bucket as Named, Credentials, UrlStyle};
use ureq::Body;
use ureq::http::Response;

use super::{Attempt, Client, Failure, setting, whole};

/// For so long a signed address holds; each request has its own.
const VALID: Duration = Duration::from_secs(3600);

/// The header in which an object has the SHA-256 of its content, and the answer's name for it.
const SHA256: &str = "x-amz-meta-sha256";

/// A bucket, as one user sees it.
#[derive(Debug)]
pub struct Bucket {
    /// Makes the requests.
    pub client: Client,
    named: Named,
    /// None for everybody.
    credentials: Option<Credentials>,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Bytes.
    pub size: u64,
    /// What tells one version from another.
    pub etag: String,
    /// SHA-256 of the content, if whoever uploaded it has said so.
    pub sha256: Option<String>,
}

/// A part of an upload that the bucket has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1 on.
    pub number: u16,
    /// As it is told back at the end.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

impl Bucket {
    /// Whom AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and AWS_REGION name, for whom AWS_ACCESS_KEY_ID or the file of
    /// `aws configure` says; without them for everybody.
    ///
    /// # Errors
    /// If the name cannot be a bucket's, or the endpoint no address.
    pub fn open(client: Client, name: &str) -> io::Result<Self> {
        let region = setting("AWS_REGION").or_else(|| setting("AWS_DEFAULT_REGION"));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let own = setting("AWS_ENDPOINT_URL_S3").or_else(|| setting("AWS_ENDPOINT_URL"));
        // Other servers than Amazon's, and certificates for names with dots, want the bucket in the path.
        let style = if own.is_some() || name.contains('.') { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let endpoint = own.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let wrong =
            |error: &dyn std::fmt::Display| io::Error::other(format!("{endpoint}, bucket {name}: {error}"));
        let url = endpoint.parse().map_err(|error| wrong(&error))?;
        let named = Named::new(url, style, name.to_owned(), region).map_err(|error| wrong(&error))?;
        Ok(Self { client, named, credentials: Credentials::from_env().or_else(of_profile) })
    }

    /// Everything below a prefix, by its key.
    ///
    /// # Errors
    /// If the bucket is not there, or not for this user.
    pub fn list(&self, prefix: &str) -> io::Result<Vec<(String, Object)>> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let mut action = ListObjectsV2::new(&self.named, self.credentials.as_ref());
            action.with_prefix(prefix);
            if let Some(token) = next {
                action.with_continuation_token(token);
            }
            let text = self.text(|| self.client.get(action.sign(VALID).as_str(), None, None))?;
            let page = ListObjectsV2::parse_response(&text).map_err(|error| self.unexpected(error))?;
            found.extend(page.contents.into_iter().map(|object| {
                let etag = object.etag.unwrap_or_default();
                (object.key, Object { size: object.size.unwrap_or_default(), etag, sha256: None })
            }));
            next = page.next_continuation_token;
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// An object; None if it is not there.
    ///
    /// # Errors
    /// If the bucket is not for this user.
    pub fn find(&self, key: &str) -> io::Result<Option<Object>> {
        let asked = || {
            let action = self.named.head_object(self.credentials.as_ref(), key);
            self.client.head(action.sign(VALID).as_str(), None)
        };
        let answer = match self.client.patiently(asked) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            answer => answer.map_err(|error| self.explained(error))?,
        };
        let text = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
        let size = text("content-length").and_then(|size| size.parse().ok());
        let size = size.ok_or_else(|| self.unexpected("an object without a size"))?;
        Ok(Some(Object { size, etag: text("etag").unwrap_or_default(), sha256: text(SHA256) }))
    }

    /// One request for a range of an object.
    pub fn range(&self, key: &str, range: Range<u64>) -> Attempt<Response<Body>> {
        let action = self.named.get_object(self.credentials.as_ref(), key);
        self.client.get(action.sign(VALID).as_str(), Some(range), None)
    }

    /// A small object; None if it is not there.
    ///
    /// # Errors
    /// If the bucket is not for this user, or it is large.
    pub fn read(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let asked = || {
            let action = self.named.get_object(self.credentials.as_ref(), key);
            self.client.get(action.sign(VALID).as_str(), None, None).and_then(whole)
        };
        match self.client.patiently(asked) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            answer => answer.map(Some).map_err(|error| self.explained(error)),
        }
    }

    /// Writes a small object, which has the SHA-256 of its content.
    ///
    /// # Errors
    /// If the bucket does not take it.
    pub fn write(&self, key: &str, bytes: &[u8], sha256: Option<&str>) -> io::Result<()> {
        let headers: Vec<_> = sha256.iter().map(|&sha256| (SHA256, sha256)).collect();
        let put = || {
            let mut action = self.named.put_object(self.credentials.as_ref(), key);
            headers.iter().for_each(|&(name, value)| action.headers_mut().insert(name, value));
            self.client.put(action.sign(VALID).as_str(), &headers, bytes.len() as u64, bytes)
        };
        self.client.patiently(put).map(drop).map_err(|error| self.explained(error))
    }

    /// Begins an upload in parts of an object with that SHA-256: its number.
    ///
    /// # Errors
    /// If the bucket does not take it.
    pub fn begin(&self, key: &str, sha256: &str) -> io::Result<String> {
        let text = self.text(|| {
            let mut action = self.named.create_multipart_upload(self.credentials.as_ref(), key);
            action.headers_mut().insert(SHA256, sha256);
            self.client.post(action.sign(VALID).as_str(), &[(SHA256, sha256)], &[])
        })?;
        let answer = CreateMultipartUpload::parse_response(&text).map_err(|error| self.unexpected(error))?;
        Ok(answer.upload_id().to_owned())
    }

    /// Gives up an upload, of which nothing stays.
    ///
    /// # Errors
    /// If the bucket does not answer.
    pub fn abandon(&self, key: &str, upload: &str) -> io::Result<()> {
        let delete = || {
            let action = self.named.abort_multipart_upload(self.credentials.as_ref(), key, upload);
            self.client.delete(action.sign(VALID).as_str())
        };
        self.client.patiently(delete).map(drop).map_err(|error| self.explained(error))
    }

    /// The parts that an upload has; None if there is no such upload any more.
    ///
    /// # Errors
    /// If the bucket is not for this user.
    pub fn parts(&self, key: &str, upload: &str) -> io::Result<Option<Vec<Part>>> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let mut action = self.named.list_parts(self.credentials.as_ref(), key, upload);
            if let Some(marker) = next {
                action.set_part_number_marker(marker);
            }
            let text = match self.text(|| self.client.get(action.sign(VALID).as_str(), None, None)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                text => text?,
            };
            // Some servers name the list otherwise than Amazon's do.
            let text = text.replace("ListPartsResponse", "ListPartsResult");
            let page = ListParts::parse_response(&text).map_err(|error| self.unexpected(error))?;
            let part = |part: PartsContent| Part { number: part.number, etag: part.etag, size: part.size };
            found.extend(page.parts.into_iter().map(part));
            next = page.next_part_number_marker;
            if next.is_none() {
                return Ok(Some(found));
            }
        }
    }

    /// One PUT of a part of an upload: its ETag.
    pub fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: u16,
        size: u64,
        body: impl io::Read,
    ) -> Attempt<String> {
        let action = self.named.upload_part(self.credentials.as_ref(), key, number, upload);
        let answer = self.client.put(action.sign(VALID).as_str(), &[], size, body)?;
        let etag = answer.headers().get("etag").and_then(|etag| etag.to_str().ok());
        etag.map(str::to_owned).ok_or_else(|| Failure::Lasting(self.unexpected("a part without an ETag")))
    }

    /// Makes the object of its parts, in whose order the ETags are.
    ///
    /// # Errors
    /// If the bucket does not.
    pub fn complete(&self, key: &str, upload: &str, etags: &[String]) -> io::Result<()> {
        let all = || etags.iter().map(String::as_str);
        let text = self.text(|| {
            let credentials = self.credentials.as_ref();
            let action = self.named.complete_multipart_upload(credentials, key, upload, all());
            let url = action.sign(VALID);
            self.client.post(url.as_str(), &[], action.body().as_bytes())
        })?;
        // A failure may come after the status, which then says that all is well.
        CompleteMultipartUploadResponse::parse(&text).map_err(|_| self.unexpected(text.trim())).map(drop)
    }

    /// The text of an answer.
    fn text(&self, mut ask: impl FnMut() -> Attempt<Response<Body>>) -> io::Result<String> {
        let text = self.client.patiently(|| ask().and_then(whole)).map_err(|error| self.explained(error))?;
        String::from_utf8(text).map_err(|error| self.unexpected(error))
    }

    fn unexpected(&self, problem: impl std::fmt::Display) -> io::Error {
        io::Error::other(format!("s3://{}: expected S3's answer: {problem}", self.named.name()))
    }

    /// What a user can do about an answer.
    fn explained(&self, error: io::Error) -> io::Error {
        let advice = match (error.kind(), &self.credentials) {
            (io::ErrorKind::PermissionDenied, None) => {
                "the bucket is not for everybody: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or aws configure, say who you are"
            }
            (io::ErrorKind::PermissionDenied, Some(_)) => {
                "the key does not give access to it, or has expired; AWS_REGION says where the bucket is"
            }
            _ => return error,
        };
        io::Error::new(error.kind(), format!("{error}; {advice}"))
    }
}

/// The keys of AWS_PROFILE in the file that `aws configure` writes.
fn of_profile() -> Option<Credentials> {
    let file = setting("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let file = file.or_else(|| Some(env::home_dir()?.join(".aws/credentials")))?;
    let profile = setting("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    in_profile(&fs::read_to_string(file).ok()?, &profile)
}

/// The keys of a profile: lines `name = value` below `[profile]`.
fn in_profile(text: &str, profile: &str) -> Option<Credentials> {
    let (mut here, mut key, mut secret, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            here = name.trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| here) {
            let value = Some(value.trim());
            match name.trim() {
                "aws_access_key_id" => key = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(match token {
        Some(token) => Credentials::new_with_token(key?, secret?, token),
        None => Credentials::new(key?, secret?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_sections() {
        let text = "[a]\naws_access_key_id = A\naws_secret_access_key=B\n# x = y\n[ b ]\naws_access_key_id=C\n\
                    aws_secret_access_key = D=\naws_session_token = E\n[c]\naws_access_key_id=F\n";
        let found = |profile| {
            let found = in_profile(text, profile)?;
            Some((found.key().to_owned(), found.secret().to_owned(), found.token().map(str::to_owned)))
        };
        assert_eq!(found("a"), Some(("A".into(), "B".into(), None)));
        assert_eq!(found("b"), Some(("C".into(), "D=".into(), Some("E".into()))));
        assert_eq!(found("c"), None);
        assert_eq!(found("d"), None);
    }
}
