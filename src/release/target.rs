//! What a user writes in place of an output's name: `hf://org/name/FILE.gguf`, `s3://bucket/FILE.gguf`. Pure.

use std::fmt;
use std::path::Path;

use crate::checkpoint::{is_bucket, is_repository, other_scheme};
use crate::error::{Error, Result};
use crate::http::hub::MAIN;

/// Where a file goes, and under which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A repository of models.
    Hub {
        /// `org/name`.
        repository: String,
        /// A branch.
        revision: String,
        /// The file's path in it.
        path: String,
    },
    /// A bucket.
    S3 {
        /// Its name.
        bucket: String,
        /// The file's key.
        key: String,
    },
}

impl Target {
    /// The target that an output's name is; None for a path of this machine.
    ///
    /// # Errors
    /// If it begins as a target and goes on as none.
    pub fn of(output: &Path) -> Result<Option<Self>> {
        let Some(text) = output.to_str() else { return Ok(None) };
        let wrong = |expected: &str| Error::Argument(format!("-o {text}: expected {expected}"));
        let is_path =
            |path: &str| !path.ends_with('/') && path.split('/').all(|step| !matches!(step, "" | "." | ".."));
        if let Some(rest) = text.strip_prefix("hf://") {
            let expected = "hf://org/name/FILE.gguf, or hf://org/name@branch/FILE.gguf";
            let mut steps = rest.splitn(3, '/');
            let (Some(owner), Some(name), Some(path)) = (steps.next(), steps.next(), steps.next()) else {
                return Err(wrong(expected));
            };
            let (name, revision) = name.split_once('@').unwrap_or((name, MAIN));
            let repository = format!("{owner}/{name}");
            if !is_repository(&repository) || revision.is_empty() || !is_path(path) {
                return Err(wrong(expected));
            }
            return Ok(Some(Self::Hub { repository, revision: revision.to_owned(), path: path.to_owned() }));
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            return match rest.split_once('/').filter(|(bucket, key)| is_bucket(bucket) && is_path(key)) {
                Some((bucket, key)) => Ok(Some(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() })),
                None => Err(wrong("s3://bucket/FILE.gguf")),
            };
        }
        match text.starts_with("https://") || text.starts_with("http://") {
            true => Err(wrong("a file, hf://org/name/FILE.gguf or s3://bucket/FILE.gguf")),
            false => {
                other_scheme(text).map_or(Ok(None), |problem| Err(Error::Argument(format!("-o {problem}"))))
            }
        }
    }

    /// The file's name.
    pub fn file_name(&self) -> &str {
        let (Self::Hub { path, .. } | Self::S3 { key: path, .. }) = self;
        &path[folder(path).len()..]
    }
}

/// The folder of a path, empty or with a slash at its end.
pub fn folder(path: &str) -> &str {
    &path[..path.rfind('/').map_or(0, |at| at + 1)]
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repository, revision, path } if revision == MAIN => {
                write!(f, "hf://{repository}/{path}")
            }
            Self::Hub { repository, revision, path } => write!(f, "hf://{repository}@{revision}/{path}"),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_from_paths() {
        let of = |text: &str| Target::of(Path::new(text));
        for (text, name, file) in [
            ("hf://me/R1-GGUF/R1.gguf", "hf://me/R1-GGUF/R1.gguf", "R1.gguf"),
            ("hf://me/R1-GGUF@main/R1.gguf", "hf://me/R1-GGUF/R1.gguf", "R1.gguf"),
            ("hf://me/R1-GGUF@try/UD-IQ1_S/R1.gguf", "hf://me/R1-GGUF@try/UD-IQ1_S/R1.gguf", "R1.gguf"),
            ("s3://bucket/a/b/R1.gguf", "s3://bucket/a/b/R1.gguf", "R1.gguf"),
        ] {
            let target = of(text).expect("sound").expect("a target");
            assert_eq!((target.to_string().as_str(), target.file_name()), (name, file));
        }
        assert_eq!(folder("a/b/R1.gguf"), "a/b/");
        assert_eq!(folder("R1.gguf"), "");
        for path in ["R1.gguf", "/a/R1.gguf", "hf:/x"] {
            assert_eq!(of(path).expect("a path"), None);
        }
        for wrong in [
            "hf://me/R1",
            "hf://me/R1/",
            "hf://me/R1@/a",
            "hf://me/R1/../a",
            "s3://b",
            "s3://b/",
            "https://h/a.gguf",
        ] {
            let error = of(wrong).expect_err(wrong).to_string();
            assert!(error.contains(wrong) && error.contains("expected"), "{error}");
        }
        let error = of("gs://bucket/a.gguf").expect_err("another scheme").to_string();
        assert!(error.starts_with("-o gs://bucket/a.gguf: gs:// is not supported"), "{error}");
    }
}
