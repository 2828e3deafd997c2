//! Records how work divides into tasks that wait for one another, as a Chrome trace.
//!
//! A *strand* is work that one thread does from beginning to end. At a [`fork`] it stops until the strands of its
//! [children](Fork::child) have ended, on whatever threads; then it goes on. So the whole is a tree, and a strand is a
//! row of *segments*, with a fork between each two. A segment is one event of the file:
//!
//! | field | is |
//! |---|---|
//! | `name` | the fork that the strand is a child of, or what [`step`] called it |
//! | `tid`, `ts`, `dur` | its thread, and when it began and how long it took, in microseconds |
//! | `args.strand`, `args.place` | which strand, and which of its segments, from 0 |
//! | `args.within` | strand and place of the segment at whose end the fork was that the strand is a child of |
//! | `args.processor` | microseconds for which its thread had a processor, less those for tasks of others that the thread took up meanwhile |
//! | `args.operations`, `args.bytes` | what [`count`] was told |

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Whether there is a recorder, so that all else need not ask for it.
static RECORDING: AtomicBool = AtomicBool::new(false);

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

static STRANDS: AtomicU64 = AtomicU64::new(0);

static THREADS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static STRAND: RefCell<Option<Strand>> = const { RefCell::new(None) };
    static THREAD: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
}

struct Recorder {
    file: BufWriter<File>,
    begun: Instant,
    events: u64,
    failed: Option<io::Error>,
}

/// What the current thread is at.
struct Strand {
    id: u64,
    place: u64,
    /// Strand and place of the fork that it is a child of.
    within: Option<(u64, u64)>,
    name: &'static str,
    /// None while it waits for children.
    segment: Option<Segment>,
}

struct Segment {
    begun: Instant,
    /// The thread's processor time then.
    processor: Duration,
    /// Processor time for strands of others that the thread took up meanwhile.
    elsewhere: Duration,
    operations: u64,
    bytes: u64,
}

/// Records `work`, of the current thread and of those that take its children, in a file.
///
/// # Errors
/// If the file cannot be written; the work is done nevertheless, but for one that cannot be created.
pub fn record<T>(path: &Path, work: impl FnOnce() -> T) -> io::Result<T> {
    let recorder = Recorder {
        file: BufWriter::new(File::create(path)?),
        begun: Instant::now(),
        events: 0,
        failed: None,
    };
    *lock() = Some(recorder);
    RECORDING.store(true, Ordering::Release);
    let made = Fork { at: None, name: "the whole", recording: true }.child(work);
    RECORDING.store(false, Ordering::Release);
    let recorder = lock().take();
    recorder.map_or(Ok(()), Recorder::finish)?;
    Ok(made)
}

/// A place at which a strand waits for others.
#[derive(Clone, Copy, Debug)]
pub struct Fork {
    at: Option<(u64, u64)>,
    name: &'static str,
    recording: bool,
}

/// Does `work`, which divides into the fork's children; the strand goes on when it returns, so all must have ended.
pub fn fork<T>(name: &'static str, work: impl FnOnce(&Fork) -> T) -> T {
    if !RECORDING.load(Ordering::Relaxed) {
        return work(&Fork { at: None, name, recording: false });
    }
    let at = STRAND.with_borrow_mut(|strand| {
        let strand = strand.as_mut()?;
        strand.end();
        Some((strand.id, strand.place))
    });
    // What is no part of recorded work is not recorded.
    let made = work(&Fork { at, name, recording: at.is_some() });
    STRAND.with_borrow_mut(|strand| {
        if let Some(strand) = strand.as_mut() {
            strand.place += 1;
            strand.begin();
        }
    });
    made
}

/// What the current strand does from here on has this name.
pub fn step(name: &'static str) {
    if !RECORDING.load(Ordering::Relaxed) {
        return;
    }
    STRAND.with_borrow_mut(|strand| {
        if let Some(strand) = strand.as_mut() {
            strand.end();
            strand.place += 1;
            strand.name = name;
            strand.begin();
        }
    });
}

/// Adds arithmetic operations (a multiply-add is two) and bytes, read or written, to the current segment.
pub fn count(operations: u64, bytes: u64) {
    if !RECORDING.load(Ordering::Relaxed) {
        return;
    }
    STRAND.with_borrow_mut(|strand| {
        if let Some(segment) = strand.as_mut().and_then(|strand| strand.segment.as_mut()) {
            segment.operations += operations;
            segment.bytes += bytes;
        }
    });
}

impl Fork {
    /// Does `work` as a strand of its own, on the calling thread.
    pub fn child<T>(&self, work: impl FnOnce() -> T) -> T {
        if !self.recording {
            return work();
        }
        let before = processor();
        let id = STRANDS.fetch_add(1, Ordering::Relaxed);
        let mut strand = Strand { id, place: 0, within: self.at, name: self.name, segment: None };
        strand.begin();
        let outer = STRAND.replace(Some(strand));
        let made = work();
        let mut outer = outer;
        if let Some(segment) = outer.as_mut().and_then(|outer| outer.segment.as_mut()) {
            segment.elsewhere += processor().saturating_sub(before);
        }
        if let Some(mut strand) = STRAND.replace(outer) {
            strand.end();
        }
        made
    }
}

impl Strand {
    fn begin(&mut self) {
        self.segment = Some(Segment {
            begun: Instant::now(),
            processor: processor(),
            elsewhere: Duration::ZERO,
            operations: 0,
            bytes: 0,
        });
    }

    /// Writes the segment.
    fn end(&mut self) {
        let Some(segment) = self.segment.take() else { return };
        let took = segment.begun.elapsed();
        let processor = processor().saturating_sub(segment.processor).saturating_sub(segment.elsewhere);
        if let Some(recorder) = lock().as_mut() {
            recorder.put(self, &segment, took, processor);
        }
    }
}

impl Recorder {
    fn put(&mut self, strand: &Strand, segment: &Segment, took: Duration, processor: Duration) {
        let Strand { id, place, within, name, .. } = strand;
        let Segment { operations, bytes, .. } = segment;
        let begun = segment.begun.saturating_duration_since(self.begun);
        let micros = |time: Duration| time.as_nanos() as f64 / 1000.0;
        let before = if self.events == 0 { "[" } else { "," };
        let within = within.map_or("null".to_owned(), |(strand, place)| format!("[{strand},{place}]"));
        let written = writeln!(
            self.file,
            "{before}{{\"name\":\"{name}\",\"ph\":\"X\",\"pid\":1,\"tid\":{},\"ts\":{:.3},\"dur\":{:.3},\
             \"args\":{{\"strand\":{id},\"place\":{place},\"within\":{within},\"processor\":{:.3},\
             \"operations\":{operations},\"bytes\":{bytes}}}}}",
            THREAD.with(|thread| *thread),
            micros(begun),
            micros(took),
            micros(processor),
        );
        self.events += 1;
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }

    fn finish(mut self) -> io::Result<()> {
        let end = if self.events == 0 { "[]" } else { "]" };
        writeln!(self.file, "{end}")?;
        self.file.flush()?;
        self.failed.map_or(Ok(()), Err)
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Recorder>> {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For how long this thread has had a processor; where the system does not tell, how long it has been there.
fn processor() -> Duration {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
    }
    #[cfg(not(unix))]
    {
        static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        BEGUN.get_or_init(Instant::now).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rayon::iter::{IntoParallelIterator, ParallelIterator};
    use serde_json::Value;

    use super::*;

    fn spin(milliseconds: u64) {
        let until = processor() + Duration::from_millis(milliseconds);
        while processor() < until {}
    }

    /// One test, since there is one recorder.
    #[test]
    fn a_tree_of_forks_is_written_with_the_time_of_each_segment() {
        assert_eq!(fork("unseen", |fork| fork.child(|| 1)), 1);
        let path = std::env::temp_dir().join(format!("work_trace-{}.json", std::process::id()));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
        let made = record(&path, || {
            spin(5);
            step("later");
            count(20, 3);
            fork("outer", |outer| {
                pool.install(|| {
                    (0..4).into_par_iter().for_each(|_| {
                        outer.child(|| {
                            spin(2);
                            fork("inner", |inner| {
                                (0..3).into_par_iter().for_each(|_| inner.child(|| spin(4)));
                            });
                        });
                    });
                });
            });
            7
        });
        assert_eq!(made.expect("written"), 7);
        let text = std::fs::read_to_string(&path).expect("there");
        std::fs::remove_file(&path).expect("removed");
        let events: Vec<Value> = serde_json::from_str(&text).expect("JSON");

        let number = |event: &Value, name: &str| event["args"][name].as_f64().expect("a number");
        let mut by_name: HashMap<&str, Vec<&Value>> = HashMap::new();
        events.iter().for_each(|e| by_name.entry(e["name"].as_str().expect("a name")).or_default().push(e));
        let counts = ["the whole", "later", "outer", "inner"].map(|name| by_name[name].len());
        // A strand that forks has a segment before the fork and one after it.
        assert_eq!(counts, [1, 2, 8, 12], "{text}");
        assert_eq!(
            number(by_name["later"][0], "operations") + number(by_name["later"][1], "operations"),
            20.0
        );
        let whole = number(by_name["the whole"][0], "strand");
        for event in &by_name["outer"] {
            let within: Vec<f64> = event["args"]["within"]
                .as_array()
                .expect("a pair")
                .iter()
                .filter_map(Value::as_f64)
                .collect();
            assert_eq!(within, [whole, 1.0]);
        }
        // Whatever threads took up each other's strands: every one has its own time.
        let time = |name: &str| by_name[name].iter().map(|e| number(e, "processor")).sum::<f64>() / 1000.0;
        assert!((8.0..24.0).contains(&time("outer")), "{}", time("outer"));
        assert!(time("inner") >= 48.0, "{}", time("inner"));
    }
}
