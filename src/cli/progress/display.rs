//! An amount of work as it is shown: how much is done, of which tensor, how fast, and how long the rest will take.

use std::fmt;
use std::sync::{Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use super::Style;
use crate::log;
use crate::plain::plain;
use crate::progress::More;
use crate::report::Time;

/// Before the first line, and between lines at most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Work that is shown as it is done.
#[derive(Debug)]
pub struct Display {
    style: Style,
    bar: ProgressBar,
    state: Mutex<State>,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct SoFar {
    /// Units of work that are done, and all.
    pub done: u64,
    pub all: u64,
    /// Those that an earlier run had done.
    pub before: u64,
    /// Bytes that this run has read.
    pub bytes: u64,
    /// Time that it has taken.
    pub time: Duration,
}

#[derive(Debug)]
struct State {
    start: Instant,
    so_far: SoFar,
    lines: Lines,
}

/// When lines are due: soon at first, then ever less often.
#[derive(Clone, Copy, Debug)]
struct Lines {
    due: Duration,
    pause: Duration,
}

impl Display {
    /// Nothing is to be done yet.
    pub fn new(style: Style) -> Self {
        let so_far = SoFar { done: 0, all: 0, before: 0, bytes: 0, time: Duration::ZERO };
        let state = State { start: Instant::now(), so_far, lines: Lines::new() };
        Self { style, bar: ProgressBar::hidden(), state: Mutex::new(state) }
    }

    /// So much is to be done from now on, of which an earlier run has done a part.
    pub fn begin(&self, all: u64, before: u64) {
        let mut state = self.state();
        let so_far = SoFar { done: before, all, before, bytes: 0, time: Duration::ZERO };
        *state = State { start: Instant::now(), so_far, lines: Lines::new() };
        if self.style == Style::Bar {
            // The message is cut at the terminal's width.
            if let Ok(style) = ProgressStyle::with_template("{bar:16} {percent:>3} %  {wide_msg}") {
                self.bar.set_style(style);
            }
            self.bar.reset();
            self.bar.set_length(all);
            self.bar.set_position(before);
            if self.bar.is_hidden() {
                log::show(&self.bar);
            }
        }
    }

    /// More is done, of this tensor or file.
    pub fn more(&self, of: &str, done: u64, bytes: u64) {
        let mut state = self.state();
        state.so_far.done += done;
        state.so_far.bytes += bytes;
        let so_far = state.now();
        match self.style {
            Style::Bar if so_far.done >= so_far.all => self.bar.finish_and_clear(),
            Style::Bar => {
                self.bar.set_position(so_far.done);
                self.bar.set_message(so_far.message(of));
            }
            Style::Lines if state.lines.is_due(so_far.time) => log::say(so_far.line(of)),
            _ => {}
        }
    }

    /// More is done, of nothing that has a name.
    pub fn count(&self, done: u64) {
        self.state().so_far.done += done;
    }

    /// More is done, of work that says itself how much there is.
    pub fn told(&self) -> impl Fn(More<'_>) + Sync {
        let begun = Once::new();
        move |More { of, done, all, bytes }| {
            begun.call_once(|| self.begin(all, 0));
            self.more(of, done, bytes);
        }
    }

    /// Less is done than was thought.
    pub fn lost(&self, done: u64) {
        let so_far = &mut self.state().so_far;
        so_far.done = so_far.done.saturating_sub(done);
        so_far.before = so_far.before.min(so_far.done);
        self.bar.reset();
    }

    /// Something is finished that is worth a line where there are lines.
    pub fn passed(&self, what: impl fmt::Display) {
        if self.style == Style::Lines {
            self.say(what);
        }
    }

    /// Says something that everybody shall read who wants to read anything.
    pub fn say(&self, what: impl fmt::Display) {
        if matches!(self.style, Style::Lines | Style::Bar) {
            let mut state = self.state();
            let so_far = state.now();
            state.lines.said(so_far.time);
            log::say(so_far.line(&what.to_string()));
        }
    }

    /// How far the work is.
    pub fn so_far(&self) -> SoFar {
        self.state().now()
    }

    /// There is nothing more to show.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it counts")
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    fn now(&self) -> SoFar {
        SoFar { time: self.start.elapsed(), ..self.so_far }
    }
}

impl SoFar {
    /// Units a second, those of earlier runs left out.
    pub fn rate(&self) -> f64 {
        (self.done - self.before) as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// How much of the work is done.
    pub fn percent(&self) -> f64 {
        (self.done as f64 * 100.0 / self.all.max(1) as f64).min(100.0)
    }

    /// The time for the rest, at the rate so far.
    pub fn left(&self) -> Option<Duration> {
        let rate = Some(self.rate()).filter(|rate| *rate > 0.0)?;
        Duration::try_from_secs_f64(self.all.saturating_sub(self.done) as f64 / rate).ok()
    }

    fn left_told(&self) -> String {
        self.left().map_or_else(String::new, |left| format!("{} left", Time(left)))
    }

    fn bytes_told(&self) -> String {
        format!("{}/s", DecimalBytes((self.bytes as f64 / self.time.as_secs_f64().max(1e-9)) as u64))
    }

    /// What stands beside a bar: what may be cut off at its end.
    fn message(&self, of: &str) -> String {
        format!("{}  {}  {}", self.left_told(), plain(of), self.bytes_told())
    }

    fn line(&self, of: &str) -> String {
        let read = match self.bytes {
            0 => String::new(),
            bytes => format!("  {}, {}", DecimalBytes(bytes), self.bytes_told()),
        };
        format!("{:3.0} %  {of}{read}  {}", self.percent(), self.left_told()).trim_end().to_owned()
    }
}

impl Lines {
    fn new() -> Self {
        let [first, _] = PAUSES;
        Self { due: first, pause: first }
    }

    /// Whether it is time for a line, which is said then.
    fn is_due(&mut self, time: Duration) -> bool {
        let due = time >= self.due;
        if due {
            self.said(time);
        }
        due
    }

    fn said(&mut self, time: Duration) {
        let [_, longest] = PAUSES;
        self.pause = (self.pause * 2).min(longest);
        self.due = time + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn lines_come_from_the_first_second_on_and_then_once_a_minute() {
        let mut lines = Lines::new();
        let said: Vec<u32> =
            (0..4000).filter(|tick| lines.is_due(seconds(f64::from(*tick) / 10.0))).collect();
        assert_eq!(said, [10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030, 3630]);
    }

    #[test]
    fn a_line_says_how_much_of_what_how_fast_and_how_long() {
        let so_far = SoFar { done: 30, all: 100, before: 10, bytes: 460_000_000, time: seconds(2.0) };
        assert_eq!(
            so_far.line("blk.3.ffn_up_exps.weight"),
            " 30 %  blk.3.ffn_up_exps.weight  460.00 MB, 230.00 MB/s  7 seconds left"
        );
        assert_eq!(so_far.message("output.weight"), "7 seconds left  output.weight  230.00 MB/s");
        let nothing = SoFar { done: 10, bytes: 0, ..so_far };
        assert_eq!(nothing.line("layer 1 of 2"), " 10 %  layer 1 of 2");
        assert_eq!(nothing.left(), None);
        // More than was thought, and nothing at all.
        assert_eq!(SoFar { done: 120, ..so_far }.percent(), 100.0);
        assert_eq!(SoFar { done: 0, all: 0, before: 0, ..so_far }.percent(), 0.0);
    }

    #[test]
    fn what_is_told_begins_the_work() {
        let display = Display::new(Style::Quiet);
        let told = display.told();
        [3, 4].into_iter().for_each(|done| told(More { of: "a", done, all: 9, bytes: 2 * done }));
        let SoFar { done, all, bytes, .. } = display.so_far();
        assert_eq!((done, all, bytes), (7, 9, 14));
        display.lost(5);
        assert_eq!(display.so_far().done, 2);
    }
}
