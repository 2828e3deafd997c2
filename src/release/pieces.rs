//! Pieces of a file on their way, several at once.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::disk;
use crate::http::Client;

/// Pieces that are sent at once.
const AT_ONCE: usize = 4;

/// The bytes of a range of a file, until the user wants to stop.
pub struct Piece<'a> {
    file: &'a File,
    left: Range<u64>,
    client: &'a Client,
}

impl<'a> Piece<'a> {
    /// From the first byte of the range on.
    pub fn new(file: &'a File, range: Range<u64>, client: &'a Client) -> Self {
        Self { file, left: range, client }
    }
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.client.is_stopped() {
            return Err(io::Error::other("interrupted"));
        }
        let count = (self.left.end - self.left.start).min(buffer.len() as u64) as usize;
        disk::read_exact_at(self.file, self.left.start, &mut buffer[..count])?;
        self.left.start += count as u64;
        Ok(count)
    }
}

/// The ranges of pieces of that size.
pub fn ranges(size: u64, piece: u64) -> Vec<Range<u64>> {
    (0..size.div_ceil(piece)).map(|index| index * piece..((index + 1) * piece).min(size)).collect()
}

/// What becomes of each piece, in their order.
///
/// # Errors
/// The first one's; no other is begun then.
pub fn each<T: Send>(count: usize, send: impl Fn(usize) -> io::Result<T> + Sync) -> io::Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(done);
            }
            match send(index) {
                Ok(sent) => done.push((index, sent)),
                Err(error) => {
                    next.store(count, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let results: Vec<io::Result<Vec<(usize, T)>>> = thread::scope(|scope| {
        let senders: Vec<_> = (0..AT_ONCE.min(count)).map(|_| scope.spawn(take)).collect();
        let join = |sender: thread::ScopedJoinHandle<_>| {
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        senders.into_iter().map(join).collect()
    });
    let mut all = Vec::with_capacity(count);
    for result in results {
        all.extend(result?);
    }
    all.sort_by_key(|&(index, _)| index);
    Ok(all.into_iter().map(|(_, sent)| sent).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_file_once() {
        assert_eq!(ranges(10, 4), [0..4, 4..8, 8..10]);
        assert_eq!(ranges(8, 4), [0..4, 4..8]);
        assert!(ranges(0, 4).is_empty());
    }

    #[test]
    fn results_are_in_order_and_an_error_ends_all() {
        assert_eq!(
            each(50, |index| Ok(index * 2)).expect("sound"),
            (0..50).map(|i| i * 2).collect::<Vec<_>>()
        );
        let begun = AtomicUsize::new(0);
        let failing = |index: usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            if index == 3 { Err(io::Error::other("no")) } else { Ok(()) }
        };
        assert_eq!(each(10_000, failing).expect_err("3 fails").to_string(), "no");
        assert!(begun.load(Ordering::Relaxed) < 10_000);
    }
}
