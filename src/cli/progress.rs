//! Progress of the work: a bar on a terminal, lines elsewhere, JSON events for programs, or nothing.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::log;
use crate::pipeline::Event;
use crate::report::{Size, Time, grouped};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar on stderr.
    Bar,
    /// A line on stderr for every tenth.
    Lines,
    /// A JSON object a line on stdout.
    Json,
    /// Nothing.
    Quiet,
}

/// Counts events and reports progress.
#[derive(Debug)]
pub struct Progress {
    style: Style,
    bar: ProgressBar,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    start: Instant,
    told: Instant,
    total: u64,
    /// Done by an earlier run.
    before: u64,
    weights: u64,
    read: u64,
    written: u64,
}

/// Between two JSON events.
const INTERVAL: Duration = Duration::from_secs(1);

impl Progress {
    /// Nothing has happened yet.
    pub fn new(style: Style) -> Self {
        let now = Instant::now();
        let state = State { start: now, told: now, total: 0, before: 0, weights: 0, read: 0, written: 0 };
        Self { style, bar: ProgressBar::hidden(), state: Mutex::new(state) }
    }

    /// Hears of an event, from any thread.
    pub fn event(&self, event: Event) {
        let Ok(mut state) = self.state.lock() else { return };
        match event {
            Event::Started { weights, done, bytes, budget } => {
                // The time for planning is not work.
                state.start = Instant::now();
                state.total = weights;
                (state.before, state.weights) = (done, done);
                match self.style {
                    Style::Bar => self.start_bar(weights, done),
                    Style::Lines if done > 0 => {
                        let percent = done as f64 * 100.0 / weights as f64;
                        log::say(format_args!(
                            "{} weights to {}, {percent:.0} % done before",
                            grouped(weights),
                            Size(bytes)
                        ));
                    }
                    Style::Lines => log::say(format_args!("{} weights to {}", grouped(weights), Size(bytes))),
                    Style::Json => emit(&json!({
                        "event": "started",
                        "weights": weights,
                        "done_before": done,
                        "bytes": bytes,
                        "threads": budget.threads,
                        "pieces": budget.pieces,
                    })),
                    Style::Quiet => {}
                }
            }
            Event::Written { weights, read, written } => {
                let tenths = |state: &State| state.weights * 10 / state.total.max(1);
                let before = tenths(&state);
                state.weights += weights;
                state.read += read;
                state.written += written;
                match self.style {
                    Style::Bar => {
                        self.bar.set_position(state.weights);
                        self.bar.set_message(format!("{:.1} Mw/s, {} read", state.rate(), Size(state.read)));
                    }
                    Style::Lines if tenths(&state) > before => log::say(format_args!("{}", state.line())),
                    Style::Json if state.told.elapsed() >= INTERVAL => {
                        state.told = Instant::now();
                        emit(&state.json("progress"));
                    }
                    _ => {}
                }
            }
            Event::Lost { weights } => {
                state.weights = state.weights.saturating_sub(weights);
                state.before = state.before.min(state.weights);
                match self.style {
                    Style::Json => {
                        let mut event = state.json("lost");
                        event["lost_weights"] = weights.into();
                        emit(&event);
                    }
                    Style::Quiet => {}
                    _ => self.bar.suspend(|| {
                        log::warn(format_args!(
                            "the disk has lost {} weights of what was written; they are made again",
                            grouped(weights)
                        ));
                    }),
                }
            }
            Event::Sealing => {
                self.bar.set_message("reading the file back");
                if self.style == Style::Json {
                    emit(&state.json("sealing"));
                }
            }
            Event::Finished => {
                self.bar.finish_and_clear();
                if self.style == Style::Json {
                    emit(&state.json("finished"));
                }
            }
        }
    }

    /// Weights a second so far, those of earlier runs left out, in millions.
    pub fn rate(&self) -> f64 {
        self.state.lock().map(|state| state.rate()).unwrap_or_default()
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.state.lock().map(|state| state.start.elapsed()).unwrap_or_default()
    }

    fn start_bar(&self, weights: u64, done: u64) {
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        self.bar.set_length(weights);
        self.bar.set_position(done);
        self.bar.reset_eta();
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {msg}  {eta} left");
        if let Ok(style) = style {
            self.bar.set_style(style);
        }
    }
}

/// How much of a known number of bytes is done: a bar on a terminal, elsewhere lines at tenths that are far apart.
#[derive(Debug)]
pub struct Share {
    what: &'static str,
    start: Instant,
    bar: ProgressBar,
    /// Bytes that are done, and when a line said so last.
    done: Mutex<(u64, Instant)>,
}

/// Between two lines about a share.
const PATIENCE: Duration = Duration::from_secs(10);

impl Share {
    /// Nothing is done yet; what will be, as in "10 % checked".
    pub fn new(what: &'static str) -> Self {
        let now = Instant::now();
        let bar = ProgressBar::hidden();
        if io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {percent:>3} % {msg}  {eta} left");
            if let Ok(style) = style {
                bar.set_style(style);
            }
        }
        bar.set_message(what);
        Self { what, start: now, bar, done: Mutex::new((0, now)) }
    }

    /// What hears from any thread of so many more bytes, and of how many in all.
    pub fn told(&self) -> impl Fn(u64, u64) + Sync {
        |bytes, all| {
            let Ok(mut state) = self.done.lock() else { return };
            let (done, said) = &mut *state;
            let tenth = |done: u64| u128::from(done) * 10 / u128::from(all.max(1));
            let before = tenth(*done);
            *done += bytes;
            if !self.bar.is_hidden() {
                self.bar.set_length(all);
                self.bar.set_position(*done);
            } else if tenth(*done) > before && said.elapsed() >= PATIENCE {
                *said = Instant::now();
                let share = *done as f64 / all as f64;
                let left = self.start.elapsed().mul_f64((1.0 / share - 1.0).max(0.0));
                log::say(format_args!("{:3.0} % {}, {} left", share * 100.0, self.what, Time(left)));
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl State {
    /// Million weights a second.
    fn rate(&self) -> f64 {
        (self.weights - self.before) as f64 / self.start.elapsed().as_secs_f64().max(1e-9) / 1e6
    }

    fn line(&self) -> String {
        let done = self.weights as f64 / self.total as f64;
        let left = (self.total - self.weights) as f64 / 1e6 / self.rate();
        let left = Duration::try_from_secs_f64(left).unwrap_or_default();
        format!(
            "{:3.0} %  {} read  {:.1} Mw/s  {} left",
            done * 100.0,
            Size(self.read),
            self.rate(),
            Time(left)
        )
    }

    fn json(&self, event: &str) -> serde_json::Value {
        json!({
            "event": event,
            "weights": self.weights,
            "bytes_read": self.read,
            "bytes_written": self.written,
            "seconds": self.start.elapsed().as_secs_f64(),
        })
    }
}

/// A line on stdout. That it is closed is no error.
fn emit(value: &serde_json::Value) {
    let _ = writeln!(io::stdout(), "{value}");
}
