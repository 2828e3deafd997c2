//! An observer that sums the covariances of a block's inputs, factors them, and hands the factors out slice by slice.

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::metric::{Covariance, Metric, metrics};
use crate::error::Result;
use crate::forward::{Inputs, Observer};
use crate::model::{Input, Part, Role, Slices, TensorPlan};

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
pub trait Taker {
    /// Whether the covariance of a slice's inputs is needed.
    fn wants(&self, tensor: usize, slice: usize) -> bool;

    /// Takes slices, among them some that it does not want.
    ///
    /// # Errors
    /// Ends the pass.
    fn take(&mut self, known: &[Known]) -> Result<()>;

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
    covariance: Covariance,
}

impl Seen {
    /// Memory to factor it in: the sums, whose place the factor takes, and the half of it that is kept in panels.
    fn working_bytes(&self) -> u64 {
        self.covariance.bytes() * 3 / 2
    }

    /// Factors the covariance. Those of experts are blended with the layer's first.
    fn factor(self, model: &[TensorPlan], layer: Option<&Covariance>) -> Result<Factored> {
        let Self { tensors, slice, covariance } = self;
        let (Part { slices, input, .. }, tokens) = (model[tensors[0]].part, covariance.count());
        let mean = match (slices, input) {
            // Each expert has a part of the layer's inputs, which say something of those that it has not had.
            (Slices::Experts, Input::Stream) => covariance.shrunk(layer, STRENGTH),
            (Slices::Experts, _) => covariance.shrunk(None, STRENGTH),
            _ => covariance.mean(),
        };
        Ok(Factored { tensors, slice, tokens, metrics: metrics(mean)? })
    }
}

/// The same with the covariance factored.
struct Factored {
    tensors: Vec<usize>,
    slice: usize,
    tokens: usize,
    metrics: Vec<Metric>,
}

/// How many of them, from the first on and at least one, can be factored at once in this memory.
fn fitting(seen: &[Seen], memory: u64) -> usize {
    let mut bytes = 0;
    let beyond = |seen: &Seen| {
        bytes += seen.working_bytes();
        bytes > memory
    };
    seen.iter().position(beyond).unwrap_or(seen.len()).max(1)
}

/// Collects covariances and hands them out factored. Experts are handed out as many at once as memory has room for,
/// so that threads can factor them side by side.
pub struct Watcher<'a, T> {
    model: &'a [TensorPlan],
    taker: T,
    memory: u64,
    seen: Vec<Seen>,
    /// The covariance of all inputs of the layer's experts.
    layer: Option<Covariance>,
    expert: Option<usize>,
}

impl<'a, T: Taker> Watcher<'a, T> {
    /// Without inputs yet; `memory` bounds how many bytes of covariances are factored at once.
    pub fn new(model: &'a [TensorPlan], taker: T, memory: u64) -> Self {
        Self { model, taker, memory, seen: Vec::new(), layer: None, expert: None }
    }

    /// Hands out what was collected, as many covariances being factored at once as memory has room for.
    fn flush(&mut self) -> Result<()> {
        let mut rest = std::mem::take(&mut self.seen);
        while !rest.is_empty() {
            let together = fitting(&rest, self.memory);
            let later = rest.split_off(together);
            let (model, layer) = (self.model, self.layer.as_ref());
            let factored: Vec<Factored> =
                rest.into_par_iter().map(|seen| seen.factor(model, layer)).collect::<Result<_>>()?;
            let known: Vec<Known> = factored
                .iter()
                .flat_map(|Factored { tensors, slice, tokens, metrics }| {
                    let (slice, tokens) = (*slice, *tokens);
                    tensors.iter().map(move |&tensor| Known { tensor, slice, tokens, metrics })
                })
                .collect();
            self.taker.take(&known)?;
            rest = later;
        }
        Ok(())
    }

    /// Hands out what is left.
    ///
    /// # Errors
    /// If inputs are not finite, and those of the taker.
    pub fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

impl<T: Taker> Observer for Watcher<'_, T> {
    fn see(&mut self, input: Inputs<'_>) -> Result<()> {
        self.taker.go_on()?;
        let columns = input.inputs.columns();
        let TensorPlan { role, part, .. } = &self.model[input.tensors[0]];
        // Every token goes through the router, so its inputs are those of all experts together.
        if *role == Role::Router {
            self.layer.get_or_insert_with(|| Covariance::new(columns)).add(input.inputs);
            return Ok(());
        }
        if part.slices == Slices::Experts && self.expert != Some(input.slice) {
            if self.seen.iter().map(Seen::working_bytes).sum::<u64>() > self.memory {
                self.flush()?;
            }
            self.expert = Some(input.slice);
        }
        if !input.tensors.iter().any(|&tensor| self.taker.wants(tensor, input.slice)) {
            return Ok(());
        }
        let same = |seen: &&mut Seen| seen.tensors == input.tensors && seen.slice == input.slice;
        let known = self.seen.iter_mut().find(same);
        match known {
            Some(seen) => seen.covariance.add(input.inputs),
            None => {
                let mut covariance = Covariance::new(columns);
                covariance.add(input.inputs);
                let tensors = input.tensors.to_vec();
                self.seen.push(Seen { tensors, slice: input.slice, covariance });
            }
        }
        Ok(())
    }
}
