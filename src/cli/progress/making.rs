//! Files that are made: weights that are in them, then bytes that are read back.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::display::SoFar;
use super::{Display, Style};
use crate::feedback::Step;
use crate::log;
use crate::pipeline::Event;
use crate::report::{Size, grouped};

/// Counts the events of a run.
#[derive(Debug)]
pub struct Making {
    style: Style,
    weights: Display,
    read_back: Display,
    events: Mutex<Events>,
}

/// What JSON events say besides, and when the last one was.
#[derive(Debug)]
struct Events {
    written: u64,
    told: Instant,
}

/// Between two JSON events.
const INTERVAL: Duration = Duration::from_secs(1);

impl Making {
    /// Nothing has happened yet.
    pub fn new(style: Style) -> Self {
        let events = Mutex::new(Events { written: 0, told: Instant::now() });
        Self { style, weights: Display::new(style), read_back: Display::new(style), events }
    }

    /// Hears of an event, from any thread.
    pub fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { weights, done, bytes, budget } => {
                // The time for planning is not work.
                self.weights.begin(weights, done);
                let count = grouped(weights);
                match self.style {
                    Style::Lines if done > 0 => log::say(format_args!(
                        "{count} weights to {}, {:.0} % done before",
                        Size(bytes),
                        self.weights.so_far().percent()
                    )),
                    Style::Lines => log::say(format_args!("{count} weights to {}", Size(bytes))),
                    Style::Json => emit(&json!({
                        "event": "started",
                        "weights": weights,
                        "done_before": done,
                        "bytes": bytes,
                        "threads": budget.threads,
                        "pieces": budget.pieces,
                    })),
                    _ => {}
                }
            }
            Event::Written { tensor, weights, read, written } => {
                self.weights.more(tensor, weights, read);
                let mut events = self.events();
                events.written += written;
                if self.style == Style::Json && events.told.elapsed() >= INTERVAL {
                    events.told = Instant::now();
                    let mut event = self.json("progress", &events);
                    event["tensor"] = tensor.into();
                    emit(&event);
                }
            }
            Event::Lost { weights } => {
                self.weights.lost(weights);
                match self.style {
                    Style::Json => {
                        let mut event = self.json("lost", &self.events());
                        event["lost_weights"] = weights.into();
                        emit(&event);
                    }
                    Style::Quiet => {}
                    _ => log::warn(format_args!(
                        "the disk has lost {} weights of what was written; they are made again",
                        grouped(weights)
                    )),
                }
            }
            Event::Sealing => {
                if self.style == Style::Json {
                    emit(&self.json("sealing", &self.events()));
                }
            }
            Event::ReadingBack { bytes } => self.read_back.begin(bytes, 0),
            Event::ReadBack { tensor, bytes } => {
                self.read_back.more(&format!("read back: {tensor}"), bytes, bytes)
            }
            Event::Finished => {
                self.weights.end();
                self.read_back.end();
                if self.style == Style::Json {
                    emit(&self.json("finished", &self.events()));
                }
            }
        }
    }

    /// Hears of a layer that was gone through.
    pub fn layer(&self, Step { done, layers, .. }: Step) {
        let seconds = self.weights.so_far().time.as_secs_f64();
        match self.style {
            Style::Json => {
                emit(&json!({"event": "layer", "layer": done, "layers": layers, "seconds": seconds}))
            }
            _ => self.weights.passed(format_args!("layer {done:3} of {layers}: {seconds:.1} s")),
        }
    }

    /// How this progress is shown.
    pub fn style(&self) -> Style {
        self.style
    }

    /// How far the weights are, and how long it has taken.
    pub fn so_far(&self) -> SoFar {
        self.weights.so_far()
    }

    fn json(&self, event: &str, events: &Events) -> Value {
        let so_far = self.weights.so_far();
        json!({
            "event": event,
            "weights": so_far.done,
            "percent": so_far.percent(),
            "bytes_read": so_far.bytes,
            "bytes_written": events.written,
            "seconds": so_far.time.as_secs_f64(),
            "seconds_left": so_far.left().map(|left| left.as_secs_f64()),
        })
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().expect("no thread panics while it counts")
    }
}

/// A line on stdout. That it is closed is no error.
fn emit(value: &Value) {
    let _ = writeln!(io::stdout(), "{value}");
}
