//! Reading ahead: files in blocks, fetched by several connections at once, of which a fixed number is kept. What is read
//! from front to back waits for the network once, at its beginning.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Where bytes come from; called from several threads.
pub trait Fetch: Send + Sync + 'static {
    /// The bytes of a range, which lies inside of the file, in `room`, whose own bytes do not count.
    ///
    /// # Errors
    /// If they cannot be had, after all that could be tried again.
    fn fetch(&self, file: &str, range: Range<u64>, room: Vec<u8>) -> io::Result<Vec<u8>>;
}

/// Sizes of the buffers and the number of connections.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of a block.
    pub block: u64,
    /// Blocks that are kept, or on their way.
    pub blocks: usize,
    /// Blocks that are fetched at once.
    pub connections: usize,
}

impl Shape {
    /// Requests of 8 MiB: of R1 there are 82,000.
    pub const USUAL: Self = Self { block: 8 << 20, blocks: 10, connections: 6 };

    /// Bytes of all buffers.
    pub fn bytes(self) -> u64 {
        self.block * self.blocks as u64
    }
}

/// Short reads in a block that are made by themselves: headers, norms and samples. With one more the whole block is
/// fetched.
const ALONE: u32 = 16;

/// Shorter reads may be made by themselves: R1's headers have 75 kB, its largest norms and scales 14 kB; a piece of a
/// matrix has a megabyte.
const SHORT: usize = 128 << 10;

/// Blocks of short reads that are kept: scales are in front of a shard, and read again and again between its matrices.
const OF_SHORT_READS: usize = 2;

/// More is never waited before a fetch.
const MOST_APART: Duration = Duration::from_millis(50);

/// A block of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    file: Arc<str>,
    index: u64,
}

/// What is known of a block.
#[derive(Debug)]
enum State {
    /// A connection will fetch it, or is about to.
    Awaited,
    Here(Arc<Vec<u8>>),
    Failed(io::Error),
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// When it was asked for last, in reads.
    used: u64,
    /// Whether short reads were what asked for it.
    short: bool,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<Key, Slot>,
    /// Blocks that no connection has begun with, and their ranges.
    queue: VecDeque<(Key, Range<u64>)>,
    /// Room of blocks that are gone, for others: given back to the system it would stay with the threads' heaps.
    spare: Vec<Vec<u8>>,
    /// Short reads of blocks that are not here.
    alone: HashMap<Key, u32>,
    pace: Pace,
    clock: u64,
    closed: bool,
}

/// Keeps connections out of step. Those that begin together share the line and so end together, and then it is idle while all
/// of them wait for the first byte of the next answer.
#[derive(Debug, Default)]
struct Pace {
    /// When the last fetch began.
    begun: Option<Instant>,
    /// What a fetch took of late.
    took: Duration,
}

impl Pace {
    /// How long to wait before the next fetch, so that it is no nearer to the last than half of what it would be if so many
    /// connections were evenly in turn; the turn is taken.
    fn wait(&mut self, connections: usize, now: Instant) -> Duration {
        let apart = self.took / (2 * connections as u32);
        let begin = self.begun.map_or(now, |begun| (begun + apart.min(MOST_APART)).max(now));
        self.begun = Some(begin);
        begin - now
    }

    /// A fetch took so long.
    fn note(&mut self, took: Duration) {
        self.took = (3 * self.took + took) / 4;
    }
}

#[derive(Debug)]
struct Shared {
    shape: Shape,
    table: Mutex<Table>,
    /// A block is asked for.
    asked: Condvar,
    /// A block is here.
    here: Condvar,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no thread panics while it holds the table of blocks")
    }
}

/// The blocks of all files of a place.
#[derive(Debug)]
pub struct Blocks<F: Fetch> {
    fetch: Arc<F>,
    shared: Arc<Shared>,
    started: Mutex<bool>,
}

impl<F: Fetch> Blocks<F> {
    /// No block is fetched yet, and no thread started.
    pub fn new(fetch: Arc<F>, shape: Shape) -> Self {
        let (asked, here) = (Condvar::new(), Condvar::new());
        let shared = Shared { shape, table: Mutex::default(), asked, here };
        Self { fetch, shared: Arc::new(shared), started: Mutex::new(false) }
    }

    /// Fills `buffer` with the bytes from `offset` on of a file of `size` bytes.
    ///
    /// # Errors
    /// If the file ends before, or the bytes cannot be had.
    pub fn read_at(&self, file: &str, size: u64, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|&end| end <= size);
        let Some(end) = end else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        if buffer.is_empty() {
            return Ok(());
        }
        let (file, block): (Arc<str>, _) = (file.into(), self.shared.shape.block);
        let short = buffer.len() < SHORT;
        if short && self.alone(&file, offset / block..(end - 1) / block + 1) {
            let bytes = self.fetch.fetch(&file, offset..end, Vec::new())?;
            buffer.copy_from_slice(&bytes);
            return Ok(());
        }
        self.start();
        let mut at = offset;
        while at < end {
            let index = at / block;
            let bytes = self.block(&file, size, index, short)?;
            let from = (at - index * block) as usize;
            let filled = (at - offset) as usize;
            let count = (bytes.len() - from).min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&bytes[from..from + count]);
            at += count as u64;
        }
        Ok(())
    }

    /// Begins to fetch what will be read from `offset` on, as far as it is kept.
    pub fn expect(&self, file: &str, size: u64, offset: u64) {
        let Shape { block, blocks, connections } = self.shared.shape;
        self.start();
        let mut table = self.shared.table();
        let (file, first): (Arc<str>, _) = (file.into(), offset / block);
        for index in (first..size.div_ceil(block)).take(connections) {
            let (key, range) =
                (Key { file: Arc::clone(&file), index }, index * block..((index + 1) * block).min(size));
            if table.slots.len() < blocks && !table.slots.contains_key(&key) {
                let slot = Slot { state: State::Awaited, used: table.clock, short: false };
                table.slots.insert(key.clone(), slot);
                table.queue.push_back((key, range));
                self.shared.asked.notify_one();
            }
        }
    }

    /// Whether a short read is made by itself: none of its blocks is here, and few such reads were. (Scales that lie between
    /// the matrices are read before these: fetched whole, their blocks would be gone again when the matrices come.)
    fn alone(&self, file: &Arc<str>, mut blocks: Range<u64>) -> bool {
        let mut table = self.shared.table();
        let first = blocks.start;
        let key = |index: u64| Key { file: Arc::clone(file), index };
        if blocks.any(|index| table.slots.contains_key(&key(index))) {
            return false;
        }
        let reads = table.alone.entry(key(first)).or_default();
        *reads += 1;
        *reads <= ALONE
    }

    /// A block, with those behind it asked for, but for short reads, which may want no more.
    fn block(&self, file: &Arc<str>, size: u64, index: u64, short: bool) -> io::Result<Arc<Vec<u8>>> {
        let Shape { block, blocks, connections } = self.shared.shape;
        let key = |index: u64| Key { file: Arc::clone(file), index };
        let range = |index: u64| index * block..((index + 1) * block).min(size);
        let last = (size - 1) / block;
        let mut table = self.shared.table();
        table.clock += 1;
        let clock = table.clock;
        // The block itself before those behind it, which wait for room.
        let ahead = if short { 0 } else { connections.min(blocks - 1) as u64 };
        for wanted in index..=last.min(index + ahead) {
            if let Some(slot) = table.slots.get_mut(&key(wanted)) {
                slot.used = clock;
                continue;
            }
            if !table.has_room(blocks, clock) && wanted > index {
                break;
            }
            let short = short && wanted == index;
            table.slots.insert(key(wanted), Slot { state: State::Awaited, used: clock, short });
            match wanted == index {
                true => table.queue.push_front((key(wanted), range(wanted))),
                false => table.queue.push_back((key(wanted), range(wanted))),
            }
            self.shared.asked.notify_one();
        }
        let key = key(index);
        loop {
            match table.slots.get(&key).map(|slot| &slot.state) {
                Some(State::Here(bytes)) => return Ok(Arc::clone(bytes)),
                Some(State::Awaited) => {}
                // Asked for again by the next read.
                Some(State::Failed(_)) => {
                    let slot = table.slots.remove(&key).expect("it was there");
                    let State::Failed(error) = slot.state else { unreachable!("it has failed") };
                    return Err(error);
                }
                // Another reader has taken its error, or its room.
                None => {
                    drop(table);
                    return self.block(file, size, index, short);
                }
            }
            table = self.shared.here.wait(table).expect("no thread panics while it holds the table");
        }
    }

    /// Starts the connections' threads, once.
    fn start(&self) {
        let mut started = self.started.lock().expect("no thread panics while it starts others");
        if std::mem::replace(&mut *started, true) {
            return;
        }
        for _ in 0..self.shared.shape.connections {
            let (fetch, shared) = (Arc::clone(&self.fetch), Arc::clone(&self.shared));
            // Not waited for at the end: a fetch may take long, and its bytes are not wanted any more.
            thread::spawn(move || serve(&*fetch, &shared));
        }
    }
}

impl<F: Fetch> Drop for Blocks<F> {
    fn drop(&mut self) {
        self.shared.table().closed = true;
        self.shared.asked.notify_all();
    }
}

impl Table {
    /// Makes room for one more block, if there are `blocks`: the one goes that was not asked for longest, but none that
    /// this read, `clock`, asks for, and not the last ones of short reads.
    fn has_room(&mut self, blocks: usize, clock: u64) -> bool {
        if self.slots.len() < blocks {
            return true;
        }
        let idle = |slot: &Slot| slot.used < clock && !matches!(slot.state, State::Awaited);
        let kept = self.slots.values().filter(|slot| slot.short).count() <= OF_SHORT_READS;
        let may_go = self.slots.iter().filter(|(_, slot)| idle(slot) && !(kept && slot.short));
        let Some(oldest) = may_go.min_by_key(|(_, slot)| slot.used).map(|(key, _)| key.clone()) else {
            return false;
        };
        if let Some(Slot { state: State::Here(bytes), .. }) = self.slots.remove(&oldest) {
            self.spare.extend(Arc::into_inner(bytes));
        }
        true
    }
}

/// What a connection's thread does.
fn serve<F: Fetch>(fetch: &F, shared: &Shared) {
    let mut table = shared.table();
    loop {
        if table.closed {
            return;
        }
        let Some((key, range)) = table.queue.pop_front() else {
            table = shared.asked.wait(table).expect("no thread panics while it holds the table");
            continue;
        };
        let room = table.spare.pop().unwrap_or_default();
        let wait = table.pace.wait(shared.shape.connections, Instant::now());
        drop(table);
        thread::sleep(wait);
        let start = Instant::now();
        let found = fetch.fetch(&key.file, range, room);
        table = shared.table();
        table.pace.note(start.elapsed());
        if let Some(slot) = table.slots.get_mut(&key) {
            slot.state = match found {
                Ok(bytes) => State::Here(Arc::new(bytes)),
                Err(error) => State::Failed(error),
            };
        }
        shared.here.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SHAPE: Shape = Shape { block: 1 << 20, blocks: 6, connections: 3 };

    /// Bytes that follow from their place, how often they were fetched, and a block that fails once.
    #[derive(Debug, Default)]
    struct Counting {
        requests: AtomicU64,
        bytes: AtomicU64,
        broken: Mutex<Option<u64>>,
    }

    fn byte(place: u64) -> u8 {
        (place ^ (place >> 8) ^ (place >> 16)) as u8
    }

    impl Fetch for Counting {
        fn fetch(&self, _: &str, range: Range<u64>, mut room: Vec<u8>) -> io::Result<Vec<u8>> {
            if self.broken.lock().expect("sound").take_if(|place| range.contains(place)).is_some() {
                return Err(io::Error::other("the line is cut"));
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
            room.clear();
            room.extend(range.map(byte));
            Ok(room)
        }
    }

    fn check(blocks: &Blocks<Counting>, size: u64, offset: u64, length: usize) {
        let mut buffer = vec![0; length];
        blocks.read_at("a", size, offset, &mut buffer).expect("inside");
        assert!(buffer.iter().zip(offset..).all(|(&found, place)| found == byte(place)), "{offset}");
    }

    #[test]
    fn each_byte_of_a_file_read_in_order_is_fetched_once() {
        let (fetch, size) = (Arc::new(Counting::default()), (40 << 20) + 12_345);
        let blocks = Blocks::new(Arc::clone(&fetch), SHAPE);
        let mut offset = 0;
        // Longer and shorter than a block, and not at its borders.
        for length in [3_000_000, 1 << 20, 2_345_678, 5_000_000].into_iter().cycle() {
            let length = length.min(size - offset);
            check(&blocks, size, offset, length as usize);
            assert!(blocks.shared.table().slots.len() <= SHAPE.blocks);
            offset += length;
            if offset == size {
                break;
            }
        }
        assert_eq!(fetch.bytes.load(Ordering::Relaxed), size);
        let mut buffer = [0; 2];
        let beyond = blocks.read_at("a", size, size - 1, &mut buffer).expect_err("beyond");
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
        assert!(blocks.read_at("a", size, u64::MAX, &mut buffer).is_err());
    }

    #[test]
    fn short_reads_are_alone_until_there_are_many() {
        let (fetch, size) = (Arc::new(Counting::default()), 100 << 20);
        let blocks = Blocks::new(Arc::clone(&fetch), SHAPE);
        // A header, and samples that lie far apart.
        check(&blocks, size, 0, 8);
        check(&blocks, size, 8, 70_000);
        for sample in 1..50 {
            check(&blocks, size, sample * (2 << 20), 4096);
        }
        assert_eq!(fetch.bytes.load(Ordering::Relaxed), 8 + 70_000 + 49 * 4096);
        assert!(blocks.shared.table().slots.is_empty());
        // Many scales, one behind the other.
        for scale in 0..100 {
            check(&blocks, size, 100_000 + scale * 500, 500);
        }
        assert!(fetch.requests.load(Ordering::Relaxed) < 70, "{fetch:?}");
    }

    #[test]
    fn scales_stay_while_matrices_pass() {
        let (fetch, size) = (Arc::new(Counting::default()), 60 << 20);
        let blocks = Blocks::new(Arc::clone(&fetch), SHAPE);
        for piece in 0..58 {
            for scale in 0..10 {
                check(&blocks, size, (piece * 10 + scale) * 1000, 1000);
            }
            check(&blocks, size, (1 << 20) + piece * 1_000_000, 1_000_000);
        }
        // The first scales by themselves, and then every block once.
        assert!(fetch.bytes.load(Ordering::Relaxed) < size + 20_000, "{fetch:?}");
    }

    #[test]
    fn many_readers_in_many_places_get_their_bytes() {
        let (fetch, size) = (Arc::new(Counting::default()), 64 << 20);
        let blocks = Blocks::new(fetch, SHAPE);
        thread::scope(|scope| {
            for reader in 0..8 {
                let blocks = &blocks;
                scope.spawn(move || {
                    for step in 0..10 {
                        check(blocks, size, (reader * 7 + step * 5) % 62 * (1 << 20) + 77, 1_500_000);
                    }
                });
            }
        });
    }

    #[test]
    fn what_is_expected_is_fetched_once() {
        let (fetch, size) = (Arc::new(Counting::default()), (5 << 20) + 7);
        let blocks = Blocks::new(Arc::clone(&fetch), SHAPE);
        blocks.expect("a", size, 1 << 20);
        blocks.expect("a", size, 1 << 20);
        check(&blocks, size, 1 << 20, 4 << 20);
        check(&blocks, size, 5 << 20, 7);
        assert_eq!(fetch.bytes.load(Ordering::Relaxed), (4 << 20) + 7);
        // Beyond the end nothing is.
        blocks.expect("a", size, size);
        assert_eq!(fetch.requests.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn fetches_do_not_begin_together() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.wait(6, start), Duration::ZERO);
        // As long as nothing is known, and where a fetch takes no time, nobody waits.
        assert_eq!(pace.wait(6, start), Duration::ZERO);
        (0..50).for_each(|_| pace.note(Duration::from_millis(240)));
        let waits: Vec<u128> = (0..3).map(|_| pace.wait(6, start).as_millis()).collect();
        assert!((19..=20).contains(&waits[0]) && (38..=40).contains(&waits[1]), "{waits:?}");
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.wait(6, later), Duration::ZERO);
        (0..50).for_each(|_| pace.note(Duration::from_secs(60)));
        assert_eq!(pace.wait(6, later), MOST_APART);
    }

    #[test]
    fn a_block_that_failed_is_an_error_and_asked_for_again() {
        let (fetch, size) = (Arc::new(Counting::default()), 8 << 20);
        *fetch.broken.lock().expect("sound") = Some(5 << 20);
        let blocks = Blocks::new(fetch, SHAPE);
        let mut buffer = vec![0; 8 << 20];
        let error = blocks.read_at("a", size, 0, &mut buffer).expect_err("broken");
        assert_eq!(error.to_string(), "the line is cut");
        check(&blocks, size, 0, 8 << 20);
    }
}
