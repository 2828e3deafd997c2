//! Requests that are made again until they are answered, and ranges of bytes that go on where a connection broke.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::{Response, StatusCode};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder, SendBody};

use super::patience::{self, TRIES};
use crate::{log, moment};

/// A connection that sends nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(30);

/// A server that puts a large file together may take so long to answer.
const THINKING: Duration = Duration::from_secs(300);

/// An answer that is read whole is never larger: a page of the hub's list has a thousand files.
pub const MAX_ANSWER: u64 = 16 << 20;

/// Steps from an address to the one that it redirects to.
pub const REDIRECTIONS: usize = 5;

/// A whole file that a server sends in place of a range is read up to the range if no more bytes come before it.
const SKIPPED: u64 = 8 << 20;

/// Connections that are kept open for the next requests: as many as are made at once, to a hub and to the host of its bytes.
const KEPT: usize = 32;

/// A request that has failed so often will take a while.
const TOLD: u32 = 3;

/// How often the wish to stop is looked at while a request waits for its next try.
const LOOK: Duration = Duration::from_millis(100);

/// A connection pool, and the flag that ends its patience.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    stop: &'static AtomicBool,
    /// Whether it was said that requests are tried again: once is enough.
    told: AtomicBool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// It may be another one later, after so long if the server said.
    Passing(io::Error, Option<Duration>),
    /// The next request must be another one, at once: an address has expired.
    Expired(io::Error),
    /// It will be the same.
    Lasting(io::Error),
}

/// An answer, or why there is none.
pub type Attempt<T> = Result<T, Failure>;

impl Client {
    /// Connects to nothing yet.
    pub fn new(stop: &'static AtomicBool) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Each address decides whether it gets the token.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("quantpress/", env!("CARGO_PKG_VERSION")))
            // Bytes as they lie, so that ranges are what they say.
            .accept_encoding("identity")
            .max_idle_connections(KEPT)
            .max_idle_connections_per_host(KEPT)
            .timeout_connect(Some(STALLED))
            .timeout_recv_response(Some(STALLED))
            .timeout_per_read(Some(STALLED))
            .build();
        Self { agent: config.new_agent(), stop, told: AtomicBool::new(false) }
    }

    /// One GET of an address, of a range if one is given, with the token if one is given; redirections are answers.
    pub fn get(&self, url: &str, range: Option<Range<u64>>, token: Option<&str>) -> Attempt<Response<Body>> {
        let mut request = self.agent.get(url);
        if let Some(Range { start, end }) = range {
            request = request.header("Range", format!("bytes={start}-{}", end - 1));
        }
        told("GET", url, by(token, request).call())
    }

    /// One GET of a whole file, which the server may pack on the way.
    pub fn get_packed(&self, url: &str, token: Option<&str>) -> Attempt<Response<Body>> {
        let request = self.agent.get(url).header("Accept-Encoding", "gzip");
        told("GET", url, by(token, request).call())
    }

    /// One HEAD of an address, as [`Client::get`].
    pub fn head(&self, url: &str, token: Option<&str>) -> Attempt<Response<Body>> {
        told("HEAD", url, by(token, self.agent.head(url)).call())
    }

    /// One POST of a body; redirections are answers.
    pub fn post(&self, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Attempt<Response<Body>> {
        let request = self.agent.post(url).config().timeout_recv_response(Some(THINKING)).build();
        let request = headers.iter().fold(request, |request, &(name, value)| request.header(name, value));
        told("POST", url, request.send(body))
    }

    /// One PUT of so many bytes that are read from `body`, which fails when the user wants to stop.
    pub fn put(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        size: u64,
        mut body: impl Read,
    ) -> Attempt<Response<Body>> {
        let request = self.agent.put(url).config().timeout_recv_response(Some(THINKING)).build();
        let request = headers.iter().fold(request, |request, &(name, value)| request.header(name, value));
        let request = request.header("Content-Length", size.to_string());
        told("PUT", url, request.send(SendBody::from_reader(&mut body)))
    }

    /// One DELETE of an address.
    pub fn delete(&self, url: &str) -> Attempt<Response<Body>> {
        told("DELETE", url, self.agent.delete(url).call())
    }

    /// Whether the user wants to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Tries until there is an answer, or none is to be expected.
    ///
    /// # Errors
    /// The last try's; `Interrupted` if the user wants to stop.
    pub fn patiently<T>(&self, mut attempt: impl FnMut() -> Attempt<T>) -> io::Result<T> {
        let mut tries = 0;
        loop {
            match attempt() {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.wait(failure, &mut tries)?,
            }
        }
    }

    /// The bytes of a range, in the room of `bytes`: `open` makes one request for what is missing of it. A connection
    /// that breaks off is followed by one that goes on behind its last byte.
    ///
    /// # Errors
    /// As [`Client::patiently`].
    pub fn bytes(
        &self,
        range: Range<u64>,
        mut bytes: Vec<u8>,
        open: impl Fn(Range<u64>) -> Attempt<Response<Body>>,
    ) -> io::Result<Vec<u8>> {
        bytes.clear();
        bytes.reserve_exact((range.end - range.start) as usize);
        let mut tries = 0;
        while (bytes.len() as u64) < range.end - range.start {
            let missing = range.start + bytes.len() as u64..range.end;
            let before = bytes.len();
            let read = open(missing.clone()).and_then(|answer| read(answer, missing, &mut bytes));
            if bytes.len() > before {
                tries = 0;
            }
            if let Err(failure) = read {
                self.wait(failure, &mut tries)?;
            }
        }
        Ok(bytes)
    }

    /// Follows redirections that need no token from the first answer on.
    pub fn follow(
        &self,
        url: &str,
        range: Option<Range<u64>>,
        mut send: impl FnMut(&str, Option<Range<u64>>) -> Attempt<Response<Body>>,
    ) -> Attempt<Response<Body>> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTIONS {
            let answer = send(&url, range.clone())?;
            match redirection(&url, &answer)? {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(Failure::Lasting(io::Error::other(format!("{url}: redirected more than {REDIRECTIONS} times"))))
    }

    /// Waits before the next try.
    fn wait(&self, failure: Failure, tries: &mut u32) -> io::Result<()> {
        *tries += 1;
        let (error, wait) = match failure {
            Failure::Lasting(error) => return Err(error),
            Failure::Expired(error) => (error, Duration::ZERO),
            Failure::Passing(error, asked) => (error, patience::wait(*tries, asked, fastrand::f64())),
        };
        if *tries >= TRIES {
            return Err(io::Error::new(error.kind(), format!("{error}, after {TRIES} tries")));
        }
        if *tries == TOLD && !self.told.swap(true, Ordering::Relaxed) {
            log::say(format_args!("{error}; tried again, up to {TRIES} times"));
        }
        tracing::debug!(%error, ?wait, tries, "the request is made again");
        moment::pass("waits");
        let until = Instant::now() + wait;
        loop {
            if self.is_stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(LOOK));
        }
    }
}

/// A request with the token, if one is given.
fn by(token: Option<&str>, request: RequestBuilder<WithoutBody>) -> RequestBuilder<WithoutBody> {
    match token {
        Some(token) => request.header("Authorization", format!("Bearer {token}")),
        None => request,
    }
}

/// Says what a request gave, without the query of its address, which may be a signature; and sorts it.
fn told(method: &str, url: &str, answer: Result<Response<Body>, ureq::Error>) -> Attempt<Response<Body>> {
    let address = without_query(url);
    match &answer {
        Ok(answer) => tracing::trace!(method, ?address, status = answer.status().as_u16(), "answer"),
        Err(error) => tracing::trace!(method, ?address, %error, "no answer"),
    }
    answered(url, answer)
}

/// Sorts what a request gave. A status that says no is a failure, but a redirection is an answer.
fn answered(url: &str, answer: Result<Response<Body>, ureq::Error>) -> Attempt<Response<Body>> {
    let place = without_query(url);
    let answer = answer.map_err(|error| match error {
        ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::InvalidProxyUrl
        | ureq::Error::Tls(_) => Failure::Lasting(io::Error::other(format!("{place}: {error}"))),
        error => Failure::Passing(io::Error::other(format!("{place}: {error}")), None),
    })?;
    let status = answer.status();
    if status.is_success() || status.is_redirection() {
        return Ok(answer);
    }
    let text = |name: &str| answer.headers().get(name).and_then(|text| text.to_str().ok());
    let said: Vec<&str> = ["x-error-code", "x-error-message"].into_iter().filter_map(text).collect();
    let code = if said.is_empty() { String::new() } else { format!(" ({})", said.join(": ")) };
    let error = |kind| io::Error::new(kind, format!("{place}: the server answers {status}{code}"));
    Err(match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Failure::Lasting(error(io::ErrorKind::NotFound)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Failure::Lasting(error(io::ErrorKind::PermissionDenied))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Failure::Lasting(io::ErrorKind::UnexpectedEof.into()),
        status if patience::may_pass(status.as_u16()) => {
            Failure::Passing(error(io::ErrorKind::Other), patience::asked(answer.headers()))
        }
        _ => Failure::Lasting(error(io::ErrorKind::Other)),
    })
}

/// Adds the bytes of an answer to a range that begins at `missing.start`.
fn read(answer: Response<Body>, missing: Range<u64>, bytes: &mut Vec<u8>) -> Attempt<()> {
    let wrong = |problem: String| Failure::Lasting(io::Error::other(problem));
    let wanted = missing.end - missing.start;
    let partial = answer.status() == StatusCode::PARTIAL_CONTENT;
    if partial {
        let range = answer.headers().get("content-range").and_then(|range| range.to_str().ok());
        let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        if start != Some(missing.start) {
            let range = range.unwrap_or("no range");
            return Err(wrong(format!("the server sends {range}, not from byte {} on", missing.start)));
        }
    } else if missing.start > SKIPPED {
        return Err(wrong("the server sends the whole file where a range of it is asked for".into()));
    }
    let mut body = answer.into_body().into_reader();
    let broken = |error: io::Error| Failure::Passing(error, None);
    if !partial {
        let skipped = io::copy(&mut (&mut body).take(missing.start), &mut io::sink()).map_err(broken)?;
        if skipped < missing.start {
            return Err(Failure::Passing(io::ErrorKind::UnexpectedEof.into(), None));
        }
    }
    // A body that ends early is asked for again; what it had is kept.
    let read = body.take(wanted).read_to_end(bytes).map_err(broken)?;
    if (read as u64) < wanted {
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended its answer early");
        return Err(Failure::Passing(error, None));
    }
    Ok(())
}

/// The whole body of an answer.
pub fn whole(mut answer: Response<Body>) -> Attempt<Vec<u8>> {
    let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    body.map_err(|error| Failure::Passing(io::Error::other(error), None))
}

/// Where an answer redirects to, if it does.
pub fn redirection(url: &str, answer: &Response<Body>) -> Attempt<Option<String>> {
    if !answer.status().is_redirection() {
        return Ok(None);
    }
    let wrong =
        |problem: &str| Failure::Lasting(io::Error::other(format!("{}: {problem}", without_query(url))));
    let location = answer.headers().get("location").and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| wrong("redirects to nowhere"))?;
    if location.starts_with("https://") || location.starts_with("http://") {
        return Ok(Some(location.to_owned()));
    }
    match location.starts_with('/') && !location.starts_with("//") {
        true => Ok(Some(format!("{}{location}", origin(url)))),
        false => Err(wrong("redirects to what is no address")),
    }
}

/// Scheme, host and port of an address.
pub fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    &url[..url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at)]
}

/// The address as messages may show it: signatures are secrets.
pub fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_end_where_paths_begin() {
        for (url, expected) in [
            ("https://a.b:1/c/d?e", "https://a.b:1"),
            ("https://a.b", "https://a.b"),
            ("http://a?b", "http://a"),
        ] {
            assert_eq!(origin(url), expected);
        }
        assert_eq!(without_query("https://a/b?X-Amz-Signature=secret"), "https://a/b");
    }
}
