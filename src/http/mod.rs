//! Requests over HTTP, tried again until they are answered, and the interfaces of the places that large files lie at: the
//! Hugging Face hub and S3.

mod client;
pub mod hub;
mod patience;
pub mod s3;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use client::{Attempt, Client, Failure, MAX_ANSWER, REDIRECTIONS, origin, redirection, whole};

/// What stays as it is in the path of an address.
const IN_PATHS: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A path as a part of an address.
pub fn encoded(path: &str) -> String {
    utf8_percent_encode(path, IN_PATHS).to_string()
}

/// A variable of the environment that is set and not empty.
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
