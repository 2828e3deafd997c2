//! Threads for work that is shared out to the current pool, which most functions of this crate do.

use std::thread::available_parallelism;

use dense_kernels::Dense;
use rayon::ThreadPoolBuilder;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::error::{Error, Result};

/// Values that a thread takes at a time for a few operations each: more than it costs to share them out.
const VALUES: usize = 1 << 16;

/// What the machine has; 1 where it does not tell.
pub fn available() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Does the work in a pool of `threads` threads. Results never depend on their number, in the whole crate.
///
/// # Errors
/// If the system does not start so many.
pub fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::Argument(format!("cannot start {threads} threads: {e}")))?;
    Ok(work_trace::fork("work on threads", |fork| pool.install(|| fork.child(work))))
}

/// Does both, at the same time if another thread is free.
pub fn both<A: Send, B: Send>(
    name: &'static str,
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    work_trace::fork(name, |fork| rayon::join(|| fork.child(a), || fork.child(b)))
}

/// Does the same with each item, on all threads of the pool.
pub fn each<P: IntoParallelIterator>(name: &'static str, items: P, work: impl Fn(P::Item) + Send + Sync) {
    work_trace::fork(name, |fork| items.into_par_iter().for_each(|item| fork.child(|| work(item))));
}

/// What `work` makes of each item, in their order, on all threads of the pool.
pub fn map<P: IntoParallelIterator, T: Send>(
    name: &'static str,
    items: P,
    work: impl Fn(P::Item) -> T + Send + Sync,
) -> Vec<T>
where
    P::Iter: IndexedParallelIterator,
{
    work_trace::fork(name, |fork| {
        items.into_par_iter().with_max_len(1).map(|item| fork.child(|| work(item))).collect()
    })
}

/// [`map`] for work that can fail: one of the errors, if there are some.
///
/// # Errors
/// Those of `work`.
pub fn try_map<P: IntoParallelIterator, T: Send>(
    name: &'static str,
    items: P,
    work: impl Fn(P::Item) -> Result<T> + Send + Sync,
) -> Result<Vec<T>>
where
    P::Iter: IndexedParallelIterator,
{
    work_trace::fork(name, |fork| {
        items.into_par_iter().with_max_len(1).map(|item| fork.child(|| work(item))).collect()
    })
}

/// Does something with some rows of `columns` values at a time, on all threads of the pool if there are enough of them.
pub fn each_rows(
    name: &'static str,
    values: &mut [f32],
    columns: usize,
    work: impl Fn(usize, &mut [f32]) + Send + Sync,
) {
    let rows = (VALUES / columns.max(1)).max(1);
    if values.len() <= rows * columns {
        return work(0, values);
    }
    let bands = values.par_chunks_mut(rows * columns).enumerate();
    each(name, bands, |(band, values)| work(band * rows, values));
}

/// A function of the values of two matrices of one size, in the place of the first, on all threads of the pool.
pub fn combine(name: &'static str, x: &mut Dense, y: &Dense, value: impl Fn(f32, f32) -> f32 + Send + Sync) {
    let columns = x.columns();
    each_rows(name, x.values_mut(), columns, |first, x| {
        let y = &y.values()[first * columns..];
        x.iter_mut().zip(y).for_each(|(x, y)| *x = value(*x, *y));
    });
}

/// Things in their order, by those that may be worked on at the same time: as many as need at most `memory` bytes together.
pub fn groups<T>(things: impl IntoIterator<Item = T>, memory: u64, bytes: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let (mut groups, mut room): (Vec<Vec<T>>, u64) = (Vec::new(), 0);
    for thing in things {
        let bytes = bytes(&thing);
        match groups.last_mut().filter(|_| bytes <= room) {
            Some(group) => {
                group.push(thing);
                room -= bytes;
            }
            None => {
                groups.push(vec![thing]);
                room = memory.saturating_sub(bytes);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_as_large_as_memory_allows_and_never_empty() {
        assert_eq!(groups([4, 3, 2, 9, 1, 1], 7, |bytes| *bytes), [vec![4, 3], vec![2], vec![9], vec![1, 1]]);
        assert!(groups([], 7, |bytes: &u64| *bytes).is_empty());
    }
}
