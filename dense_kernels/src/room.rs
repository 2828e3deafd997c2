//! Memory of matrices that are gone, for those that come. What a system gives out anew it clears page by page as it is first
//! touched, one thread at a time: for matrices of megabytes that live for one product, this takes as long as the product.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use work_trace::fork;

/// Shorter ones are left to the allocator, which keeps their memory itself.
const LEAST: usize = 1 << 15;

static ROOMS: Mutex<Rooms> = Mutex::new(Rooms { limit: 0, living: 0, spare: VecDeque::new() });

/// While it lives, memory of matrices that are gone is kept for others, as long as all matrices together, those that are gone
/// included, take so many bytes at most. Without one nothing is kept.
#[derive(Debug)]
pub struct Reuse {
    values: usize,
}

impl Reuse {
    /// So many bytes, beside those that others allow.
    pub fn of(bytes: u64) -> Self {
        let values = usize::try_from(bytes / 4).unwrap_or(usize::MAX / 2);
        let mut rooms = rooms();
        rooms.limit = rooms.limit.saturating_add(values);
        Self { values }
    }
}

impl Drop for Reuse {
    fn drop(&mut self) {
        let mut rooms = rooms();
        rooms.limit = rooms.limit.saturating_sub(self.values);
        let gone = rooms.make_room(0);
        drop(rooms);
        fork("give back", |fork| {
            gone.into_par_iter().with_max_len(1).for_each(|values| fork.child(|| drop(values)));
        });
    }
}

/// The values of a matrix.
#[derive(Debug, Default)]
pub(crate) struct Room(Vec<f32>);

impl Room {
    /// Zeros.
    pub fn zeros(length: usize) -> Self {
        let (mut values, fresh) = taken(length);
        if !fresh {
            values.fill(0.0);
        }
        Self(values)
    }

    /// Values of no meaning, for one who replaces them all.
    pub fn to_fill(length: usize) -> Self {
        let (mut values, _) = taken(length);
        if cfg!(debug_assertions) {
            values.fill(f32::NAN);
        }
        Self(values)
    }

    /// These values.
    pub fn of(values: Vec<f32>) -> Self {
        if values.capacity() >= LEAST {
            rooms().living += values.capacity();
        }
        Self(values)
    }
}

impl Clone for Room {
    fn clone(&self) -> Self {
        let mut copy = Self::to_fill(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for Room {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.0);
        if values.capacity() >= LEAST {
            // Given back to the system, if at all, after others have their turn.
            let gone = rooms().give(values);
            drop(gone);
        }
    }
}

/// So many values, and whether they are zeros: if not, they are of no meaning.
fn taken(length: usize) -> (Vec<f32>, bool) {
    if length < LEAST {
        return (vec![0.0; length], true);
    }
    let mut rooms = rooms();
    if let Some(values) = rooms.take(length) {
        return (values, false);
    }
    let gone = rooms.make_room(length);
    rooms.living += length;
    drop(rooms);
    drop(gone);
    (vec![0.0; length], true)
}

fn rooms() -> MutexGuard<'static, Rooms> {
    // What is in it is right between any two statements.
    ROOMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory by numbers of values.
#[derive(Debug, Default)]
struct Rooms {
    /// Of all matrices, up to which those that are gone are kept.
    limit: usize,
    /// Of those that are not gone.
    living: usize,
    /// What is kept, the one that is gone longest in front.
    spare: VecDeque<Vec<f32>>,
}

impl Rooms {
    /// The smallest that is kept, if it has so many values and at most half as many more.
    fn take(&mut self, length: usize) -> Option<Vec<f32>> {
        let fits = |values: &Vec<f32>| (length..=length + length / 2).contains(&values.capacity());
        let fitting = self.spare.iter().enumerate().filter(|(_, values)| fits(values));
        let (best, _) = fitting.min_by_key(|(_, values)| values.capacity())?;
        let mut values = self.spare.remove(best)?;
        self.living += values.capacity();
        values.resize(length, 0.0);
        Some(values)
    }

    /// Keeps the memory of a matrix that is gone; what there is no room for now.
    fn give(&mut self, values: Vec<f32>) -> Vec<Vec<f32>> {
        self.living = self.living.saturating_sub(values.capacity());
        self.spare.push_back(values);
        self.make_room(0)
    }

    /// What must go for so many values more.
    fn make_room(&mut self, more: usize) -> Vec<Vec<f32>> {
        let mut kept: usize = self.spare.iter().map(Vec::capacity).sum();
        let mut gone = Vec::new();
        while self.living + kept + more > self.limit
            && let Some(oldest) = self.spare.pop_front()
        {
            kept -= oldest.capacity();
            gone.push(oldest);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_kept_as_long_as_all_are_within_the_limit() {
        let mut rooms = Rooms { limit: 100, ..Rooms::default() };
        rooms.living = 90;
        assert!(rooms.give(vec![1.0; 40]).is_empty());
        assert!(rooms.give(vec![2.0; 30]).is_empty());
        assert_eq!(rooms.living, 20);
        // The smallest that is large enough, and none that is far too large.
        assert_eq!(rooms.take(25).map(|values| values.len()), Some(25));
        assert_eq!((rooms.take(41), rooms.take(26)), (None, None));
        assert_eq!(rooms.living, 50);
        // 40 are kept: 11 more are too many.
        assert!(rooms.make_room(10).is_empty());
        assert_eq!(rooms.make_room(11).len(), 1);
        // Beyond the limit nothing is kept.
        rooms.living = 190;
        assert_eq!(rooms.give(vec![0.0; 20]).len(), 1);
    }

    #[test]
    fn memory_that_comes_again_is_as_clear_as_new() {
        let _reuse = Reuse::of(1 << 30);
        for length in [LEAST, LEAST + 100, 10] {
            drop(Room::of(vec![1.0; LEAST + 200]));
            assert!(Room::zeros(length).iter().all(|&value| value == 0.0));
        }
        let matrix = Room::of(vec![3.0; LEAST]);
        assert_eq!(*matrix.clone(), *matrix);
    }
}
