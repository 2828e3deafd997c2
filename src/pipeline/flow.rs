//! The work itself: a thread that reads in the shards' order, threads that quantize, one that writes, and one that
//! makes durable and records what was written. Pieces go round between them in a fixed number of buffers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::done::checksum;
use super::session::{Keeper, Session};
use super::stages::{Clock, Stages};
use super::units::{Unit, Window, Work};
use super::{Budget, Deviation, Done, Event, Job};
use crate::error::{Error, Result};
use crate::gguf::Output;
use crate::log;
use crate::store::{Rows, Slice};
use crate::zeros::Zeros;

/// Written bytes after which they are made durable, however short the time.
const SYNC_BYTES: u64 = 64 << 20;

/// A unit on its way through the stages, with its buffers, which are used again for later ones.
#[derive(Default)]
struct Piece<'a> {
    /// Set by the reader.
    load: Option<(Unit, Arc<dyn Rows + 'a>)>,
    /// Bytes as stored in the shard.
    raw: Vec<u8>,
    /// Encoded blocks.
    blocks: Vec<u8>,
    done: Done,
}

/// A unit that is in the file, but not yet durable.
struct Written {
    number: u32,
    done: Done,
    bytes: u64,
}

/// The state that all threads share.
struct Shared<'a> {
    job: &'a Job<'a>,
    work: &'a Work,
    /// The first error; it stops all threads.
    error: Mutex<Option<Error>>,
    failed: AtomicBool,
    /// Whether it was said that some rows are not as the source has them.
    told: AtomicBool,
}

impl Shared<'_> {
    fn fail(&self, error: Error) {
        self.error.lock().expect("no thread panics while it holds the error").get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.job.stop.load(Ordering::Relaxed)
    }

    /// Where the rows of a unit come from.
    fn slice(&self, unit: &Unit) -> &Slice {
        &self.job.plan.model.tensors[unit.tensor].slices[unit.slice]
    }
}

/// Does all units that are not done.
///
/// # Errors
/// The first error of any thread, or [`Error::Interrupted`]; what was written until then is durable and recorded.
pub fn flow(job: &Job, work: &Work, session: &mut Session, budget: Budget) -> Result<Stages> {
    let shared = Shared {
        job,
        work,
        error: Mutex::default(),
        failed: AtomicBool::new(false),
        told: AtomicBool::new(false),
    };
    let finished: Vec<bool> = session.done.iter().map(Option::is_some).collect();
    let (outputs, keeper) = session.parts(job, work);
    let start = Instant::now();
    let mut busy = [Duration::ZERO; 4];
    thread::scope(|scope| {
        let shared = &shared;
        let (give, free) = bounded(budget.pieces);
        let (load, loaded) = bounded(budget.pieces);
        let (encode, encoded) = bounded(budget.pieces);
        // Without a time between syncs nothing is written long before it is recorded.
        let (note, written) = bounded(if job.sync.is_zero() { 1 } else { 4096 });
        for _ in 0..budget.pieces {
            let piece = Piece {
                raw: Vec::with_capacity(work.needs.piece as usize),
                blocks: Vec::with_capacity(work.needs.piece as usize),
                ..Piece::default()
            };
            give.send(piece).expect("its receiver is here");
        }
        let reader = scope.spawn(move || read(shared, &finished, &free, &load));
        let workers: Vec<_> = (0..budget.threads)
            .map(|_| {
                let (loaded, encode) = (loaded.clone(), encode.clone());
                scope.spawn(move || quantize(shared, &loaded, &encode))
            })
            .collect();
        // Each queue ends with its last sender.
        drop((loaded, encode));
        let writer = scope.spawn(move || write(shared, outputs, &encoded, &give, &note));
        let keeper = scope.spawn(move || keep(shared, keeper, &written));
        let join = |thread: ScopedJoinHandle<Duration>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        busy = [join(reader), workers.into_iter().map(join).sum(), join(writer), join(keeper)];
    });
    if let Some(error) = shared.error.into_inner().expect("no thread panics while it holds the error") {
        return Err(error);
    }
    let seconds = start.elapsed().as_secs_f64();
    let share = |index: usize, threads: usize| busy[index].as_secs_f64() / seconds / threads as f64;
    Ok(Stages {
        seconds,
        read: share(0, 1),
        quantize: share(1, budget.threads),
        write: share(2, 1),
        sync: share(3, 1),
    })
}

/// Reads what is not finished, each byte once.
fn read<'a>(
    shared: &Shared<'a>,
    finished: &[bool],
    free: &Receiver<Piece<'a>>,
    load: &Sender<Piece<'a>>,
) -> Duration {
    let plan = shared.job.plan;
    let mut clock = Clock::default();
    let open = |window: &&Window| window.units(plan).any(|unit| !finished[unit.number as usize]);
    for batch in shared.work.batches(plan) {
        let windows: Vec<&Window> = batch.iter().filter(open).collect();
        let matrices = match clock.time(|| matrices(shared, &windows)) {
            Ok(matrices) => matrices,
            Err(error) => {
                shared.fail(error);
                return clock.busy;
            }
        };
        for window in windows {
            let matrix = &matrices[&*window.source(plan).tensor];
            for unit in window.units(plan).filter(|unit| !finished[unit.number as usize]) {
                let Ok(mut piece) = free.recv() else { return clock.busy };
                if shared.stopped() {
                    return clock.busy;
                }
                let rows = shared.slice(&unit).stored_rows(&unit.rows);
                if let Err(error) = clock.time(|| matrix.load(rows.clone(), &mut piece.raw)) {
                    shared.fail(error);
                    return clock.busy;
                }
                clock.time(|| matrix.forget(rows));
                piece.load = Some((unit, Arc::clone(matrix)));
                if load.send(piece).is_err() {
                    return clock.busy;
                }
            }
        }
    }
    clock.busy
}

/// The matrices of the windows with their block scales, which are read in their own order.
fn matrices<'a>(shared: &Shared<'a>, windows: &[&Window]) -> Result<HashMap<&'a str, Arc<dyn Rows + 'a>>> {
    let (plan, store) = (shared.job.plan, shared.job.store);
    let mut names: Vec<&str> = windows.iter().map(|window| &*window.source(plan).tensor).collect();
    names.sort_by_cached_key(|name| store.find(name).and_then(|stored| stored.beside));
    let mut matrices: HashMap<&str, Arc<dyn Rows>> = HashMap::new();
    for name in names {
        if !matrices.contains_key(name) {
            matrices.insert(name, store.open(name)?.into());
        }
    }
    Ok(matrices)
}

/// Decodes, quantizes and compares pieces until there are no more.
fn quantize<'a>(shared: &Shared<'a>, loaded: &Receiver<Piece<'a>>, encode: &Sender<Piece<'a>>) -> Duration {
    let mut clock = Clock::default();
    let mut scratch = Scratch::default();
    for mut piece in loaded {
        if shared.failed.load(Ordering::Relaxed) {
            break;
        }
        match clock.time(|| scratch.process(shared, &mut piece)) {
            Ok(()) if encode.send(piece).is_ok() => {}
            Ok(()) => break,
            Err(error) => {
                shared.fail(error);
                break;
            }
        }
    }
    clock.busy
}

/// A quantizing thread's own buffers.
#[derive(Default)]
struct Scratch {
    /// The weights, and those of a transposed slice in the store's order.
    weights: Vec<f32>,
    stored: Vec<f32>,
    /// A decoded row.
    row: Vec<f32>,
}

impl Scratch {
    fn process(&mut self, shared: &Shared, piece: &mut Piece) -> Result<()> {
        let (plan, Self { weights, stored, row }) = (shared.job.plan, self);
        let (unit, matrix) = piece.load.as_ref().expect("the reader has set it");
        let tensor = &plan.model.tensors[unit.tensor];
        let format = plan.format(unit.tensor);
        let columns = tensor.columns();
        let slice = shared.slice(unit);
        // Blocks that stay of their type are copied: encoded anew they might come out a little different.
        let copied = tensor.stored == Some(format) && !format.is_float();
        let row_bytes = format.row_bytes(columns) as usize;
        let mut lost = Vec::new();
        if copied {
            piece.blocks.clear();
            piece.blocks.extend_from_slice(&piece.raw);
        } else {
            piece.blocks.resize((unit.rows.end - unit.rows.start) as usize * row_bytes, 0);
        }
        let regrouped = !copied && tensor.regrouped == Some(format);
        if regrouped {
            lost = slice.regroup(&**matrix, format, unit.rows.clone(), &piece.raw, &mut piece.blocks);
        }
        if !format.is_known() {
            if let Some(row) = lost.first() {
                let row = unit.rows.start + row;
                return Err(Error::Unsupported(format!(
                    "tensor \"{}\", row {row}, has a negative scale, for which {format} has no place; {} can be of \
                     another type",
                    slice.tensor, tensor.name
                )));
            }
            let mut zeros = Zeros::default();
            if format.is_decoded() {
                weights.resize(unit.weights(plan) as usize, 0.0);
                quant_kernels::dequantize(format, &piece.blocks, weights);
                zeros = Zeros::of(weights, columns as usize);
            }
            piece.done = Done { zeros, blocks: checksum(&piece.blocks), ..Done::default() };
            return Ok(());
        }
        let values = tensor.values(format);
        weights.resize(unit.weights(plan) as usize, 0.0);
        slice.decode(&**matrix, unit.rows.clone(), &piece.raw, values, stored, weights)?;
        let importance = shared.job.importances.slice(&plan.model, unit.tensor, unit.slice)?;
        let importance = importance.as_deref();
        let columns = columns as usize;
        for &row in &lost {
            let row = row as usize;
            let (weights, blocks) = (&weights[row * columns..], &mut piece.blocks[row * row_bytes..]);
            let (weights, blocks) = (&weights[..columns], &mut blocks[..row_bytes]);
            quant_kernels::quantize(format, weights, columns, importance, blocks);
        }
        if let Some(row) = lost.first()
            && !shared.told.swap(true, Ordering::Relaxed)
        {
            log::warn(format_args!(
                "tensor \"{}\", row {}, has a scale that is no F16 number, which {format} needs: such rows are encoded \
                 anew, and their errors are in the manifest",
                slice.tensor,
                unit.rows.start + row
            ));
        }
        if !copied && !regrouped {
            quant_kernels::quantize(format, weights, columns, importance, &mut piece.blocks);
        }
        let deviation = Deviation::of(format, weights, columns, importance, &piece.blocks, row);
        if deviation.is_finite() {
            let zeros = Zeros::of(weights, columns);
            piece.done = Done { deviation, zeros, blocks: checksum(&piece.blocks) };
            return Ok(());
        }
        let problem = format!(
            "tensor \"{}\", slice {}, rows {:?}: the {format} blocks do not decode to numbers",
            tensor.name, unit.slice, unit.rows
        );
        Err(Error::Gguf { file: shared.job.output.display().to_string(), problem })
    }
}

/// Writes blocks at their places and gives the buffers back.
fn write<'a>(
    shared: &Shared<'a>,
    outputs: &[Output],
    encoded: &Receiver<Piece<'a>>,
    give: &Sender<Piece<'a>>,
    note: &Sender<Written>,
) -> Duration {
    let plan = shared.job.plan;
    let mut clock = Clock::default();
    for mut piece in encoded {
        let (unit, _) = piece.load.take().expect("the reader has set it");
        let (file, blocks) = unit.place(plan);
        let (offset, output) = (blocks.start, &outputs[file - shared.job.files().start]);
        if let Err(error) = clock.time(|| output.write_at(offset, &piece.blocks)) {
            shared.fail(error);
            break;
        }
        let (read, written) = (piece.raw.len() as u64, piece.blocks.len() as u64);
        let tensor = &*plan.model.tensors[unit.tensor].name;
        tracing::trace!(tensor, slice = unit.slice, rows = ?unit.rows, read, written, "piece");
        let done = Written { number: unit.number, done: piece.done, bytes: written };
        if note.send(done).is_err() {
            break;
        }
        (shared.job.listener)(Event::Written { tensor, weights: unit.weights(plan), read, written });
        // The reader may have read all that it wants.
        let _ = give.send(piece);
    }
    clock.busy
}

/// Makes durable what was written, and only then records it: after a time, or a number of bytes, and at the end.
fn keep(shared: &Shared, mut keeper: Keeper, written: &Receiver<Written>) -> Duration {
    let mut clock = Clock::default();
    let mut due = Instant::now() + shared.job.sync;
    loop {
        let received = written.recv_deadline(due);
        let ended = matches!(received, Err(RecvTimeoutError::Disconnected));
        if let Ok(Written { number, done, bytes }) = received {
            keeper.note(number, done, bytes);
        }
        if ended || keeper.bytes() >= SYNC_BYTES || Instant::now() >= due {
            if let Err(error) = clock.time(|| keeper.record()) {
                shared.fail(error);
                break;
            }
            due = Instant::now() + shared.job.sync;
        }
        if ended {
            break;
        }
    }
    clock.busy
}
