//! How much of a card's memory is in use.

use std::sync::{Arc, Mutex};

use super::Declined;

/// What memory is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To be kept: half of all at most, so that there is always room to work in.
    Kept,
    /// During one operation.
    Work,
}

/// Memory that may be used. Nobody waits for it: a thread that waits might be the one that holds it, in work that it has taken
/// over in between. What has no room is done by the processor.
#[derive(Clone, Debug)]
pub struct Room {
    bytes: u64,
    /// What is kept, and all.
    used: Arc<Mutex<[u64; 2]>>,
}

/// So many bytes of it, until it is dropped.
#[derive(Debug)]
pub struct Grant {
    room: Room,
    bytes: u64,
    kept: bool,
}

impl Room {
    /// So much.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, used: Arc::default() }
    }

    /// All.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Some of it.
    ///
    /// # Errors
    /// If there is none left.
    pub fn take(&self, bytes: u64, of: Use) -> Result<Grant, Declined> {
        let mut used = self.used.lock().expect("no thread panics while it counts");
        let kept = of == Use::Kept;
        let [of_kept, all] = &mut *used;
        if *all + bytes > self.bytes || (kept && *of_kept + bytes > self.bytes / 2) {
            return Err(Declined::NoRoom);
        }
        *all += bytes;
        if kept {
            *of_kept += bytes;
        }
        Ok(Grant { room: self.clone(), bytes, kept })
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut used = self.room.used.lock().expect("no thread panics while it counts");
        used[1] -= self.bytes;
        if self.kept {
            used[0] -= self.bytes;
        }
    }
}
