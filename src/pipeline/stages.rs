//! How busy each stage was: which of reading, quantizing and writing limited the speed, and how idle the others were.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Shares of the time in which a stage worked and did not wait for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Stages {
    /// Time of the whole flow.
    pub seconds: f64,
    /// Of the one thread that reads.
    pub read: f64,
    /// Of all threads that quantize.
    pub quantize: f64,
    /// Of one thread that writes.
    pub write: f64,
    /// Of one thread that makes durable what was written; it holds nobody up.
    pub sync: f64,
}

impl Stages {
    /// The busiest of the three.
    pub fn limit(&self) -> &'static str {
        let stages = [("quantize", self.quantize), ("read", self.read), ("write", self.write)];
        stages.into_iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(a.0))).map_or("quantize", |s| s.0)
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = |busy: f64| (100.0 - busy * 100.0).clamp(0.0, 100.0);
        write!(
            f,
            "limited by {}; idle: read {:.0} %, quantize {:.0} %, write {:.0} %",
            self.limit(),
            idle(self.read),
            idle(self.quantize),
            idle(self.write)
        )
    }
}

/// Adds up the time that a thread works.
#[derive(Debug, Default)]
pub struct Clock {
    /// So far.
    pub busy: Duration,
}

impl Clock {
    /// Does something and counts the time it takes.
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.busy += start.elapsed();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stage_is_the_limit() {
        let stages = Stages { seconds: 9.0, read: 0.25, quantize: 0.98, write: 0.125, sync: 0.5 };
        assert_eq!(stages.limit(), "quantize");
        assert_eq!(stages.to_string(), "limited by quantize; idle: read 75 %, quantize 2 %, write 88 %");
        assert_eq!(Stages { read: 0.9, quantize: 0.5, ..stages }.limit(), "read");
        assert_eq!(Stages { write: 1.0, ..stages }.limit(), "write");
    }
}
