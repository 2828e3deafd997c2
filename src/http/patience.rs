//! How long to wait before a request is made again. Pure, but for the random share of a wait.

use std::time::Duration;

use ureq::http::HeaderMap;

/// Requests that are made in all, until one is answered.
pub const TRIES: u32 = 8;

/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(500);

/// No wait is longer, unless the server asks for it.
const LONGEST: Duration = Duration::from_secs(30);

/// What a server may ask for at most: the hub counts requests in windows of five minutes.
const LONGEST_ASKED: Duration = Duration::from_secs(330);

/// Whether an answer of this status may be another one a little later.
pub fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// The wait after the `tries`-th failure (from 1): what the server asks for, else twice the last one, of which a share
/// (0 to 1) is left to chance, so that many readers do not come back together.
pub fn wait(tries: u32, asked: Option<Duration>, share: f64) -> Duration {
    match asked {
        Some(asked) => asked.min(LONGEST_ASKED),
        None => {
            let doubled = FIRST.saturating_mul(1 << (tries.clamp(1, 16) - 1)).min(LONGEST);
            doubled.mul_f64(0.5 + 0.5 * share)
        }
    }
}

/// What the headers ask for: `Retry-After` in seconds, or the reset of `RateLimit` (`"name";r=LEFT;t=SECONDS`) and a
/// second.
pub fn asked(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    if let Some(seconds) = text("retry-after").and_then(|text| text.trim().parse().ok()) {
        return Some(Duration::from_secs(seconds));
    }
    let limit = text("ratelimit")?;
    let reset = limit.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
    reset.parse::<u64>().ok().map(|seconds| Duration::from_secs(seconds.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let seconds: Vec<f64> = (1..=9).map(|tries| wait(tries, None, 1.0).as_secs_f64()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        assert_eq!(wait(3, None, 0.0), Duration::from_secs(1));
        assert_eq!(wait(1, Some(Duration::from_secs(7)), 0.3), Duration::from_secs(7));
        assert_eq!(wait(1, Some(Duration::from_secs(1 << 40)), 0.3), LONGEST_ASKED);
    }

    #[test]
    fn servers_say_when_to_come_back() {
        let headers = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            headers
        };
        assert_eq!(asked(&headers("retry-after", "12")), Some(Duration::from_secs(12)));
        assert_eq!(asked(&headers("ratelimit", "\"resolvers\";r=0;t=55")), Some(Duration::from_secs(56)));
        assert_eq!(asked(&headers("ratelimit", "\"resolvers\";r=0")), None);
        assert_eq!(asked(&headers("retry-after", "Fri, 27 Nov 2026 00:00:00 GMT")), None);
    }
}
