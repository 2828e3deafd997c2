//! Measures what types cost (`--sensitivity`) while the importances are collected, by the covariances of sampled
//! slices' inputs.

use std::path::Path;

use super::collector::Collector;
use super::run::Probing;
use crate::covariance::Watcher;
use crate::disk;
use crate::error::{Error, Result};
use crate::forward::{Inputs, Observer, Pass, Weights};
use crate::model::{Half, Model, TensorPlan};
use crate::sensitivity::{Probe, Probed};
use crate::whole;

/// A larger file is none of a layer's.
const MAX_FILE: u64 = 64 << 20;

/// Measures on the way, if that is asked for.
pub struct Prober<'a> {
    weights: &'a Weights<'a>,
    probe: Option<(&'a Model, Probe<'a>)>,
    memory: u64,
}

impl<'a> Prober<'a> {
    /// `memory` bounds what covariances are factored at once.
    pub fn new(probing: Option<&Probing<'a>>, weights: &'a Weights<'a>, memory: u64) -> Self {
        let probe = probing.map(|&Probing { model, types, .. }| (model, Probe::new(model, weights, types)));
        Self { weights, probe, memory }
    }

    /// One layer.
    pub fn layer(&mut self, pass: &mut Pass, layer: usize, collector: &Collector<'_>) -> Result<()> {
        let weights = self.weights;
        for half in Half::ALL {
            let before = self.probe.is_some().then(|| pass.states().copy(self.memory / 4)).transpose()?;
            let run = |observer: &dyn Observer| pass.half(half, weights, layer, observer, true);
            self.watch(collector, |tensor| tensor.is_of(layer, half), run)?;
            if let (Some((_, probe)), Some(mut before)) = (&mut self.probe, before) {
                probe.block(layer as u32, half, &mut before, pass.states())?;
            }
        }
        Ok(())
    }

    /// Runs `work` with an observer that collects importances and, if types are measured, covariances of the inputs of the
    /// tensors that `shown` picks.
    pub fn watch(
        &mut self,
        collector: &Collector<'_>,
        shown: impl Fn(&TensorPlan) -> bool,
        work: impl FnOnce(&dyn Observer) -> Result<()>,
    ) -> Result<()> {
        let Some((model, probe)) = &mut self.probe else { return work(collector) };
        let watcher = Watcher::new(&model.tensors, self.weights, &*probe, self.memory, shown)?;
        work(&Both { collector, watcher: &watcher })?;
        watcher.finish()
    }

    /// Writes what was found since the last time; false if nothing is measured.
    pub fn keep(&mut self, path: &Path) -> Result<bool> {
        let Some((_, probe)) = &mut self.probe else { return Ok(false) };
        let text = serde_json::to_vec(&probe.take_found()).expect("plain data is JSON");
        disk::write_whole(path, &text).map_err(|e| Error::io("write", path, e))?;
        Ok(true)
    }
}

/// Reads what was found of a layer.
pub fn read(path: &Path) -> Result<Probed> {
    let fault = |problem: String| Error::io("read", path, std::io::Error::other(problem));
    let text = whole::read(path, MAX_FILE, fault)?;
    serde_json::from_slice(&text).map_err(|e| Error::io("read", path, e.into()))
}

/// An observer that passes inputs on to two others.
struct Both<'a, C, W> {
    collector: &'a C,
    watcher: &'a W,
}

impl<C: Observer, W: Observer> Observer for Both<'_, C, W> {
    fn see(&self, input: Inputs<'_>) -> Result<()> {
        self.collector.see(input)?;
        self.watcher.see(input)
    }

    fn least_tokens(&self) -> usize {
        self.collector.least_tokens()
    }

    fn see_extra(&self, input: Inputs<'_>) -> Result<()> {
        self.collector.see_extra(input)
    }

    fn chosen(&self, tensors: &[usize], tokens: &[usize]) -> Result<()> {
        self.watcher.chosen(tensors, tokens)
    }

    fn bytes_of_expert(&self, expert: usize, columns: [usize; 2]) -> u64 {
        self.watcher.bytes_of_expert(expert, columns)
    }

    fn seen(&self, tensors: &[usize], slice: usize) -> Result<()> {
        self.watcher.seen(tensors, slice)
    }
}
