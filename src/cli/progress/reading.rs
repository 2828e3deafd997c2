//! A model that is gone through, layer after layer: the weights that were read of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Display;
use crate::model::{EMBEDDING, HEAD, TensorPlan};
use crate::progress::More;

/// Counts the weights of a model as they are read, each as often as it is needed and no more: what a pass reads again on its
/// way is no progress.
#[derive(Debug)]
pub struct Reading<'a> {
    display: &'a Display,
    tensors: HashMap<&'a str, Counted>,
}

#[derive(Debug)]
struct Counted {
    layer: Option<u32>,
    weights: u64,
    /// All that were read, and what they are to be.
    read: AtomicU64,
    wanted: u64,
}

impl<'a> Reading<'a> {
    /// All layers of these tensors are to be read so many times, and with `head` what comes after them once.
    pub fn new(display: &'a Display, tensors: &'a [TensorPlan], times: u64, head: bool) -> Self {
        let is_there = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
        let last = if is_there(HEAD) { HEAD } else { EMBEDDING };
        let counted = tensors.iter().filter_map(|tensor| {
            let times = match tensor.layer {
                Some(_) => times,
                None => u64::from(head && tensor.name == last),
            };
            let (layer, weights) = (tensor.layer, tensor.weights());
            let counted = Counted { layer, weights, read: AtomicU64::new(0), wanted: weights * times };
            (times > 0).then_some((&*tensor.name, counted))
        });
        Self { display, tensors: counted.collect() }
    }

    /// Weights that are to be read in all.
    pub fn all(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.wanted).sum()
    }

    /// What hears of weights that are read.
    pub fn told(&self) -> impl Fn(More<'_>) + Sync {
        |More { of, done, bytes, .. }| {
            let counts = self.tensors.get(of).map_or(0, |tensor| {
                let before = tensor.read.fetch_add(done, Ordering::Relaxed);
                (before + done).min(tensor.wanted) - before.min(tensor.wanted)
            });
            self.display.more(of, counts, bytes);
        }
    }

    /// The weights of the first layers, which an earlier run has gone through.
    pub fn skip(&self, layers: usize) -> u64 {
        (0..layers).map(|layer| self.catch_up(layer, 1)).sum()
    }

    /// A layer was gone through so many times, whatever of it was read: experts that no token chose are not.
    pub fn passed(&self, layer: usize, times: u64) {
        self.display.count(self.catch_up(layer, times));
    }

    /// Takes a layer for read; gives the weights that were not.
    fn catch_up(&self, layer: usize, times: u64) -> u64 {
        let of_layer = self.tensors.values().filter(|tensor| tensor.layer == Some(layer as u32));
        let missing = of_layer.map(|tensor| {
            let least = (tensor.weights * times).min(tensor.wanted);
            least.saturating_sub(tensor.read.fetch_max(least, Ordering::Relaxed))
        });
        missing.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Style;
    use super::*;
    use crate::model::{Part, Role};

    #[test]
    fn weights_count_once_however_often_they_are_read() {
        let tensor = |name: &str, layer| {
            TensorPlan::of_file(name.into(), layer, Role::Other, Part::default(), vec![4, 5])
        };
        let names = [(EMBEDDING, None), ("blk.0.a", Some(0)), ("blk.1.a", Some(1)), (HEAD, None)];
        let tensors = names.map(|(name, layer)| tensor(name, layer));
        let display = Display::new(Style::Quiet);
        let reading = Reading::new(&display, &tensors, 2, true);
        // Two layers twice, and the head once.
        assert_eq!(reading.all(), 2 * 2 * 20 + 20);
        display.begin(reading.all(), 0);
        let told = reading.told();
        let read = |of, done| told(More { of, done, all: 20, bytes: 1 });
        let mut seen = Vec::new();
        for (of, done) in [(EMBEDDING, 4), ("blk.0.a", 15), ("blk.0.a", 15), ("blk.0.a", 15), (HEAD, 30)] {
            read(of, done);
            seen.push(display.so_far().done);
        }
        assert_eq!(seen, [0, 15, 30, 40, 60]);
        // Of the second layer some experts had no token.
        read("blk.1.a", 5);
        reading.passed(1, 1);
        assert_eq!(display.so_far().done, 80);
        reading.passed(1, 2);
        let so_far = display.so_far();
        assert_eq!((so_far.done, so_far.bytes), (reading.all(), 6));
    }

    #[test]
    fn what_an_earlier_run_has_gone_through_is_skipped() {
        let of_layer = |layer: u32| {
            TensorPlan::of_file(format!("blk.{layer}.a"), Some(layer), Role::Other, Part::default(), vec![4])
        };
        let (tensors, display) = ([0, 1, 2].map(of_layer), Display::new(Style::Quiet));
        let reading = Reading::new(&display, &tensors, 1, false);
        assert_eq!((reading.all(), reading.skip(2)), (12, 8));
    }
}
