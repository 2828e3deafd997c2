//! An observer that sums the covariances of a block's inputs, factors them, and hands the factors out slice by slice.

use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::metric::{Covariance, Metric, metrics, working_bytes};
use crate::error::Result;
use crate::forward::{Inputs, Observer};
use crate::model::{Input, Part, Role, Slices, TensorPlan};
use crate::threads;

/// The number of tokens at which an expert's own covariance counts as much as the layer's.
const STRENGTH: f32 = 128.0;

/// A slice of a tensor, with the covariances of its inputs factored.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The tensor's place in the model.
    pub tensor: usize,
    /// Expert or head.
    pub slice: usize,
    /// Tokens whose inputs are in the covariance.
    pub tokens: usize,
    /// The factored covariances of its inputs, one for each segment of the columns.
    pub metrics: &'a [Metric],
}

/// Uses the factored covariances of slices: to encode them, or to measure errors.
pub trait Taker: Sync {
    /// Whether the covariance of a slice's inputs is needed.
    fn wants(&self, tensor: usize, slice: usize) -> bool;

    /// Takes slices that share their inputs, among them some that it does not want; others are taken at the same time,
    /// on other threads.
    ///
    /// # Errors
    /// Ends the pass.
    fn take(&self, known: &[Known]) -> Result<()>;

    /// Is asked at every input.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`], if the user wants to stop.
    fn go_on(&self) -> Result<()>;
}

/// Inputs that some tensors share: their places, the slice, and the covariance.
struct Seen {
    tensors: Vec<usize>,
    slice: usize,
    covariance: Mutex<Covariance>,
}

/// Collects covariances, factors them and hands them to a taker: those of an expert as soon as it has been shown all of
/// its inputs, the others at the end, as many at once as memory has room for.
pub struct Watcher<'a, T> {
    model: &'a [TensorPlan],
    taker: T,
    memory: u64,
    seen: Mutex<Vec<Arc<Seen>>>,
    /// The covariance of all inputs of the layer's experts.
    layer: RwLock<Option<Covariance>>,
}

impl<'a, T: Taker> Watcher<'a, T> {
    /// Without inputs yet; `memory` bounds how many bytes of covariances are worked on at once.
    pub fn new(model: &'a [TensorPlan], taker: T, memory: u64) -> Self {
        Self { model, taker, memory, seen: Mutex::default(), layer: RwLock::default() }
    }

    /// Factors a covariance and hands it out. Those of experts are blended with the layer's first.
    fn hand_out(&self, seen: Seen) -> Result<()> {
        let Seen { tensors, slice, covariance } = seen;
        let covariance = covariance.into_inner().expect("no thread panics while it adds");
        let (Part { slices, input, .. }, tokens) = (self.model[tensors[0]].part, covariance.count());
        work_trace::step("blend a covariance");
        let mean = match (slices, input) {
            // Each expert has a part of the layer's inputs, which say something of those that it has not had.
            (Slices::Experts, Input::Stream) => {
                let layer = self.layer.read().expect("no thread panics while it adds");
                covariance.shrunk(layer.as_ref(), STRENGTH)
            }
            (Slices::Experts, _) => covariance.shrunk(None, STRENGTH),
            _ => covariance.mean(),
        };
        work_trace::step("factor");
        let metrics = &metrics(mean)?[..];
        work_trace::step("take");
        let known = |&tensor| Known { tensor, slice, tokens, metrics };
        self.taker.take(&tensors.iter().map(known).collect::<Vec<Known>>())
    }

    /// Hands out some of what was collected.
    fn hand_all(&self, seen: Vec<Arc<Seen>>) -> Result<()> {
        let hand = |seen| self.hand_out(Arc::into_inner(seen).expect("nobody adds to it any more"));
        threads::try_map("covariance", seen, hand).map(|_| ())
    }

    /// Hands out what is left.
    ///
    /// # Errors
    /// If inputs are not finite, and those of the taker.
    pub fn finish(self) -> Result<()> {
        let rest = std::mem::take(&mut *self.list());
        let bytes = |seen: &Arc<Seen>| working_bytes(self.model[seen.tensors[0]].columns() as usize);
        threads::groups(rest, self.memory, bytes).into_iter().try_for_each(|seen| self.hand_all(seen))
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Seen>>> {
        self.seen.lock().expect("no thread panics while it holds the list")
    }

    /// What was collected for the inputs of some tensors so far.
    fn entry(&self, input: &Inputs<'_>) -> Arc<Seen> {
        let mut list = self.list();
        let known = list.iter().find(|seen| seen.slice == input.slice && seen.tensors == input.tensors);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let covariance = Mutex::new(Covariance::new(input.inputs.columns()));
        let seen = Arc::new(Seen { tensors: input.tensors.to_vec(), slice: input.slice, covariance });
        list.push(Arc::clone(&seen));
        seen
    }
}

impl<T: Taker> Observer for Watcher<'_, T> {
    fn see(&self, input: Inputs<'_>) -> Result<()> {
        self.taker.go_on()?;
        // Every token goes through the router, so its inputs are those of all experts together.
        if self.model[input.tensors[0]].role == Role::Router {
            let mut layer = self.layer.write().expect("no thread panics while it adds");
            layer.get_or_insert_with(|| Covariance::new(input.inputs.columns())).add(input.inputs);
            return Ok(());
        }
        if input.tensors.iter().any(|&tensor| self.taker.wants(tensor, input.slice)) {
            let seen = self.entry(&input);
            seen.covariance.lock().expect("no thread panics while it adds").add(input.inputs);
        }
        Ok(())
    }

    fn bytes_of_expert(&self, columns: [usize; 2]) -> u64 {
        columns.map(working_bytes).iter().sum()
    }

    fn seen_expert(&self, expert: usize) -> Result<()> {
        let is_of = |seen: &mut Arc<Seen>| {
            seen.slice == expert && self.model[seen.tensors[0]].part.slices == Slices::Experts
        };
        let seen = self.list().extract_if(.., is_of).collect();
        self.hand_all(seen)
    }
}
