//! What a user writes in place of a folder: `hf://org/name@revision`, `s3://bucket/prefix`, or the address of a folder on a
//! web server; or of a GGUF file in one of these. Pure.

use std::path::Path;

use crate::error::{Error, Result};
use crate::http::hub::MAIN;

/// The scheme of the Hugging Face hub.
const HUB: &str = "hf://";

/// The scheme of S3.
const S3: &str = "s3://";

/// How the names of GGUF files end.
const GGUF: &str = ".gguf";

/// Schemes of web servers.
const WEB: [&str; 2] = ["https://", "http://"];

/// Where a remote checkpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A repository of models.
    Hub {
        /// `org/name`.
        repository: String,
        /// A branch, a tag or a commit.
        revision: String,
    },
    /// What lies below a prefix of a bucket.
    S3 {
        /// Its name.
        bucket: String,
        /// Empty, or ends with a slash.
        prefix: String,
    },
    /// A folder of a web server; the address ends with a slash.
    Web(String),
}

impl Address {
    /// The address that a path is, and the GGUF file in it, if one is meant and not the checkpoint there; None for a path
    /// of this machine. In a revision before a file `%2F` stands for a slash.
    ///
    /// # Errors
    /// If it begins as an address and goes on as none.
    pub fn of(path: &Path) -> Result<Option<(Self, Option<String>)>> {
        let Some(text) = path.to_str() else { return Ok(None) };
        if !text.ends_with(GGUF) {
            return Ok(Self::of_folder(text)?.map(|address| (address, None)));
        }
        let (folder, file) = match text.strip_prefix(HUB) {
            Some(rest) => {
                let mut parts = rest.splitn(3, '/');
                let (Some(owner), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
                    return Ok(Self::of_folder(text)?.map(|address| (address, None)));
                };
                (format!("{HUB}{owner}/{}", name.replace("%2F", "/")), file)
            }
            None => match text.rsplit_once('/') {
                Some((folder, file)) => (folder.to_owned(), file),
                None => return Ok(None),
            },
        };
        Ok(Self::of_folder(&folder)?.map(|address| (address, Some(file.to_owned()))))
    }

    fn of_folder(text: &str) -> Result<Option<Self>> {
        if let Some(rest) = text.strip_prefix(HUB) {
            return Self::of_hub(text, rest).map(Some);
        }
        if let Some(rest) = text.strip_prefix(S3) {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if !is_bucket(bucket) {
                let problem = "expected s3://bucket/prefix";
                return Err(Error::Argument(format!("{text}: {problem}")));
            }
            let prefix = match prefix.trim_matches('/') {
                "" => String::new(),
                prefix => format!("{prefix}/"),
            };
            return Ok(Some(Self::S3 { bucket: bucket.to_owned(), prefix }));
        }
        let Some(rest) = WEB.iter().find_map(|scheme| text.strip_prefix(scheme)) else {
            return other_scheme(text).map_or(Ok(None), |problem| Err(Error::Argument(problem)));
        };
        let host = rest.split('/').next().unwrap_or_default();
        if host.is_empty() || text.contains(['?', '#', ' ']) {
            let problem = "expected the address of a folder, as in https://host/models/name/";
            return Err(Error::Argument(format!("{text}: {problem}")));
        }
        Ok(Some(Self::Web(format!("{}/", text.trim_end_matches('/')))))
    }

    fn of_hub(text: &str, rest: &str) -> Result<Self> {
        let (repository, revision) = rest.trim_end_matches('/').split_once('@').unwrap_or((rest, MAIN));
        let repository = repository.trim_end_matches('/');
        if !is_repository(repository) || revision.is_empty() || revision.contains(char::is_whitespace) {
            let problem = "expected hf://org/name, or hf://org/name@revision for another branch, tag or commit than main";
            return Err(Error::Argument(format!("{text}: {problem}")));
        }
        Ok(Self::Hub { repository: repository.to_owned(), revision: revision.to_owned() })
    }
}

/// What is wrong with a text that begins as an address of another kind than those above; None if it is none.
pub fn other_scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let known = [HUB, S3].into_iter().chain(WEB).any(|known| text.starts_with(known));
    if known || scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let instead = match scheme {
        "gs" => {
            ": Google's buckets answer as s3://bucket, with AWS_ENDPOINT_URL=https://storage.googleapis.com and an HMAC key"
        }
        _ => "; there are hf://org/name, s3://bucket/prefix and https://host/folder/",
    };
    Some(format!("{text}: {scheme}:// is not supported{instead}"))
}

/// Whether a name may be a repository's: two parts of letters, digits, dots, hyphens and underscores.
pub fn is_repository(name: &str) -> bool {
    let part = |part: &str| {
        (1..=96).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
    };
    name.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// Whether a name may be a bucket's: letters, digits, dots, hyphens and underscores.
pub fn is_bucket(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<Address>> {
        Address::of(Path::new(text)).map(|found| found.map(|(address, _)| address))
    }

    #[test]
    fn files_are_told_from_folders() {
        let of = |text: &str| Address::of(Path::new(text)).expect("sound");
        let hub = |revision: &str| Address::Hub { repository: "org/GGUF".into(), revision: revision.into() };
        let file = |name: &str| Some(name.to_owned());
        assert_eq!(of("hf://org/GGUF/a.gguf"), Some((hub("main"), file("a.gguf"))));
        assert_eq!(
            of("hf://org/GGUF@v1/q4/a-00001-of-00002.gguf"),
            Some((hub("v1"), file("q4/a-00001-of-00002.gguf")))
        );
        assert_eq!(of("hf://org/GGUF@refs%2Fpr%2F7/a.gguf"), Some((hub("refs/pr/7"), file("a.gguf"))));
        assert_eq!(
            of("https://host/b/a.gguf"),
            Some((Address::Web("https://host/b/".into()), file("a.gguf")))
        );
        let s3 = |prefix: &str| Address::S3 { bucket: "models".into(), prefix: prefix.into() };
        assert_eq!(of("s3://models/b/a.gguf"), Some((s3("b/"), file("a.gguf"))));
        assert_eq!(of("s3://models/a.gguf"), Some((s3(""), file("a.gguf"))));
        assert_eq!(of("hf://org/name.gguf").map(|(_, file)| file), Some(None), "a repository");
        assert_eq!((of("a.gguf"), of("b/a.gguf")), (None, None));
    }

    #[test]
    fn addresses_are_told_from_paths() {
        let hub = |repository: &str, revision: &str| {
            Some(Address::Hub { repository: repository.into(), revision: revision.into() })
        };
        let r1 = "deepseek-ai/DeepSeek-R1";
        assert_eq!(of("hf://deepseek-ai/DeepSeek-R1").expect("sound"), hub(r1, "main"));
        assert_eq!(of("hf://deepseek-ai/DeepSeek-R1/").expect("sound"), hub(r1, "main"));
        assert_eq!(of("hf://deepseek-ai/DeepSeek-R1@refs/pr/7").expect("sound"), hub(r1, "refs/pr/7"));
        let web = Some(Address::Web("https://host:8080/a/b/".into()));
        assert_eq!(of("https://host:8080/a/b").expect("sound"), web);
        assert_eq!(of("https://host:8080/a/b/").expect("sound"), web);
        let s3 = |prefix: &str| Some(Address::S3 { bucket: "models".into(), prefix: prefix.into() });
        assert_eq!(of("s3://models").expect("sound"), s3(""));
        assert_eq!(of("s3://models/a/b").expect("sound"), s3("a/b/"));
        assert_eq!(of("s3://models/a/b/").expect("sound"), s3("a/b/"));
        for path in ["deepseek-ai/DeepSeek-R1", "/models/r1", "hf:/x/y", "a b://x", "./x://y"] {
            assert_eq!(of(path).expect("a path"), None, "{path}");
        }
        for (other, instead) in
            [("gs://bucket/r1", "AWS_ENDPOINT_URL"), ("az://account/r1", "s3://bucket/prefix")]
        {
            let error = of(other).expect_err(other).to_string();
            assert!(error.contains(other) && error.contains(instead), "{error}");
        }
        for wrong in [
            "hf://",
            "hf://r1",
            "hf://a/b/c",
            "hf://a/b@",
            "hf://a/.b",
            "https://",
            "https://host/a?b=c",
            "s3://",
            "s3:///a",
            "s3://a b/c",
        ] {
            let error = of(wrong).expect_err(wrong).to_string();
            assert!(error.starts_with(wrong) && error.contains("expected"), "{error}");
        }
    }
}
