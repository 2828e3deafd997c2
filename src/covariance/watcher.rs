//! An observer that sums the covariances of a block's inputs, factors them, and hands the factors out slice by slice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};

use super::metric::{Covariance, DAMPING, Estimate, MeanSquares, Metric, metrics, working_bytes};
use super::outputs::{self, Coupling};
use super::prior::Prior;
use crate::error::Result;
use crate::forward::{Gradients, Inputs, Observer, Weights};
use crate::model::{Input, Part, Role, Slices, TensorPlan};
use crate::threads;

/// An expert with fewer tokens for each column has its layer's covariance, with one factor for all such experts: its own says no
/// more then (docs/records/2026-11-tokens.md).
const FEW: usize = 2;

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
    /// How its rows' errors are weighed against one another, if gradients at its outputs were shown.
    pub coupling: Option<&'a Coupling>,
}

/// Uses the factored covariances of slices: to encode them, or to measure errors.
pub trait Taker: Sync {
    /// Whether the covariance of a slice's inputs is needed.
    fn wants(&self, tensor: usize, slice: usize) -> bool;

    /// Bits of a weight of the tensor's type, if it is to have one.
    fn bits(&self, tensor: usize) -> Option<f64>;

    /// The mean squares of a slice's inputs, if an importance matrix has them.
    ///
    /// # Errors
    /// If it cannot be read.
    fn mean_squares(&self, tensor: usize, slice: usize) -> Result<Option<MeanSquares>>;

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
    /// None if the layer's serves.
    covariance: Option<Mutex<Covariance>>,
}

/// What the experts of a layer have in common.
#[derive(Default)]
struct Common {
    /// The places of the tensors that multiply the layer's inputs.
    tensors: Vec<usize>,
    /// Tokens of each expert.
    tokens: Vec<usize>,
    /// Of all inputs, for experts that have few.
    metrics: Option<Arc<Vec<Metric>>>,
}

impl Common {
    /// What serves an expert of which these are inputs, if its own do not.
    fn of(&self, tensors: &[usize], columns: usize, expert: usize) -> Option<&Arc<Vec<Metric>>> {
        let serves = |_: &&Arc<_>| self.tensors == tensors && is_few(self.tokens[expert], columns);
        self.metrics.as_ref().filter(serves)
    }
}

fn is_few(tokens: usize, columns: usize) -> bool {
    tokens < FEW * columns
}

/// Collects covariances, factors them and hands them to a taker: those of experts and of
/// what is quantized in turn as soon as it has been shown all of their inputs, the others at the end, as many at once as
/// memory has room for.
pub struct Watcher<'a, T> {
    model: &'a [TensorPlan],
    weights: &'a Weights<'a>,
    taker: T,
    memory: u64,
    /// What the readers of the residual stream say of it.
    stream: Option<Prior>,
    seen: Mutex<Vec<Arc<Seen>>>,
    /// The covariance of all inputs of the layer's experts.
    layer: RwLock<Option<Covariance>>,
    common: RwLock<Common>,
    /// Gradients at the outputs of a tensor's slice.
    gradients: Mutex<HashMap<(usize, usize), Covariance>>,
    /// Gradients at the states to which the half adds, and the couplings that follow from them, by bits of a weight.
    written: RwLock<Option<Covariance>>,
    couplings: Mutex<HashMap<u64, Arc<Coupling>>>,
}

/// What is added to the diagonals of moments, relative to their mean, before errors are fed back in a type of so many bits a
/// weight.
///
/// What is fed back is encoded as well, and so costs errors of its own: of a rate of b bits, 4^-b of its square at least
/// (Shannon's bound for numbers from a normal distribution). So errors cost as much more, and the moments whose errors are
/// least are those with as much on their diagonals.
pub fn damping(bits: Option<f64>) -> f32 {
    bits.map_or(DAMPING, |bits| DAMPING.max(libm::exp2(-2.0 * bits) as f32))
}

/// The same for moments of gradients. Besides, these are noisier, and change as the model is quantized.
fn damping_of_outputs(bits: Option<f64>) -> f32 {
    6.0 * damping(bits)
}

impl<'a, T: Taker> Watcher<'a, T> {
    /// Without inputs yet, for the tensors of the model that `shown` picks, which are those of one half of a layer, or the head;
    /// `memory` bounds how many bytes of covariances are worked on at once.
    ///
    /// # Errors
    /// If the weights cannot be read.
    pub fn new(
        model: &'a [TensorPlan],
        weights: &'a Weights<'a>,
        taker: T,
        memory: u64,
        shown: impl Fn(&TensorPlan) -> bool,
    ) -> Result<Self> {
        let reads = |tensor: &&TensorPlan| tensor.part.input == Input::Stream && shown(tensor);
        let slices = |tensor: &'a TensorPlan| tensor.slice_numbers().map(move |slice| (tensor, slice));
        let readers: Vec<_> = model.iter().filter(reads).flat_map(slices).collect();
        work_trace::step("what weights say");
        let stream = (!readers.is_empty()).then(|| Prior::read(weights, &readers)).transpose()?;
        Ok(Self {
            model,
            weights,
            stream,
            taker,
            memory,
            seen: Mutex::default(),
            layer: RwLock::default(),
            common: RwLock::default(),
            gradients: Mutex::default(),
            written: RwLock::default(),
            couplings: Mutex::default(),
        })
    }

    /// Factors a covariance and hands it out. Those of experts are blended with the layer's first.
    fn hand_out(&self, seen: Seen) -> Result<()> {
        let Seen { tensors, slice, covariance } = seen;
        let (tokens, metrics) = match covariance {
            Some(covariance) => {
                let covariance = covariance.into_inner().expect("no thread panics while it adds");
                let tokens = covariance.count();
                work_trace::step("blend a covariance");
                let mut estimate = self.estimate(&tensors, slice, covariance)?;
                if let Some(others) = self.mean_squares(&tensors, slice)? {
                    estimate = estimate.with_mean_squares(&others, tokens);
                }
                work_trace::step("factor");
                (tokens, Arc::new(metrics(estimate, damping(self.bits(&tensors)))?))
            }
            None => {
                let common = self.common();
                let metrics = common.metrics.as_ref().expect("made for experts that have few tokens");
                (common.tokens[slice], Arc::clone(metrics))
            }
        };
        let metrics = &metrics[..];
        let couplings: Vec<Option<Arc<Coupling>>> =
            threads::try_map("couplings", &tensors, |&tensor| self.coupling(tensor, slice))?;
        work_trace::step("take");
        let known = tensors.iter().zip(&couplings).map(|(&tensor, coupling)| Known {
            tensor,
            slice,
            tokens,
            metrics,
            coupling: coupling.as_deref(),
        });
        let known: Vec<Known> = known.collect();
        self.taker.take(&known)
    }

    /// What the covariance of the inputs of some tensors is estimated to be.
    fn estimate(&self, tensors: &[usize], slice: usize, covariance: Covariance) -> Result<Estimate> {
        let Part { slices, input, .. } = self.model[tensors[0]].part;
        if input != Input::Stream {
            let readers: Vec<_> = tensors.iter().map(|&tensor| (&self.model[tensor], slice)).collect();
            return Ok(covariance.estimate(Some(&Prior::read(self.weights, &readers)?)));
        }
        // Each expert has a part of the layer's inputs, which say something of those that it has not had.
        Ok(match &*self.layer.read().expect("no thread panics while it adds") {
            Some(layer) if slices == Slices::Experts => covariance.estimate_in(layer, self.stream.as_ref()),
            _ => covariance.estimate(self.stream.as_ref()),
        })
    }

    /// Bits of a weight where errors cost most: tensors that share their inputs share the factor, and the coarsest decides.
    fn bits(&self, tensors: &[usize]) -> Option<f64> {
        tensors.iter().filter_map(|&tensor| self.taker.bits(tensor)).min_by(f64::total_cmp)
    }

    /// Those of inputs that some tensors share.
    fn mean_squares(&self, tensors: &[usize], slice: usize) -> Result<Option<MeanSquares>> {
        let mut of = tensors.iter().map(|&tensor| self.taker.mean_squares(tensor, slice));
        of.find_map(Result::transpose).transpose()
    }

    fn common(&self) -> RwLockReadGuard<'_, Common> {
        self.common.read().expect("no thread panics while it has them")
    }

    /// How the errors of a slice's rows are weighed against one another, if gradients were shown.
    fn coupling(&self, tensor: usize, slice: usize) -> Result<Option<Arc<Coupling>>> {
        if !self.taker.wants(tensor, slice) {
            return Ok(None);
        }
        let bits = self.taker.bits(tensor);
        if !self.model[tensor].part.writes_stream {
            let gradients =
                self.gradients.lock().expect("no thread panics while it adds").remove(&(tensor, slice));
            return match gradients {
                Some(gradients) => Coupling::new(gradients, damping_of_outputs(bits)).map(Arc::new).map(Some),
                None => Ok(None),
            };
        }
        // Whoever adds to the states has the same gradients, but for the experts' weights. The lock is not held while
        // threads of the pool work: they may take up others that wait for it.
        let couplings = || self.couplings.lock().expect("no thread panics while it has the list");
        let key = bits.map_or(0, f64::to_bits);
        if let Some(known) = couplings().get(&key) {
            return Ok(Some(Arc::clone(known)));
        }
        let written = self.written.read().expect("no thread panics while it adds").clone();
        let Some(written) = written else { return Ok(None) };
        let coupling = Arc::new(Coupling::new(written, damping_of_outputs(bits))?);
        Ok(Some(Arc::clone(couplings().entry(key).or_insert(coupling))))
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
        let columns = input.inputs.columns();
        let own = self.common().of(input.tensors, columns, input.slice).is_none();
        let covariance = own.then(|| Mutex::new(Covariance::new(columns)));
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
            if let Some(covariance) = &seen.covariance {
                covariance.lock().expect("no thread panics while it adds").add(input.inputs);
            }
        }
        Ok(())
    }

    fn see_gradients(&self, gradients: Gradients<'_>) -> Result<()> {
        self.taker.go_on()?;
        let Gradients { tensors, slice, rows } = gradients;
        let new = || outputs::moments(rows.columns());
        if tensors.iter().any(|&tensor| self.model[tensor].part.writes_stream) {
            let mut written = self.written.write().expect("no thread panics while it adds");
            written.get_or_insert_with(new).add(rows);
            return Ok(());
        }
        for &tensor in tensors.iter().filter(|&&tensor| self.taker.wants(tensor, slice)) {
            let mut list = self.gradients.lock().expect("no thread panics while it adds");
            let mut moments = list.remove(&(tensor, slice)).unwrap_or_else(new);
            drop(list);
            // One thread shows all rows of a slice.
            moments.add(rows);
            list = self.gradients.lock().expect("no thread panics while it adds");
            list.insert((tensor, slice), moments);
        }
        Ok(())
    }

    fn chosen(&self, tensors: &[usize], tokens: &[usize]) -> Result<()> {
        let few = |(expert, &tokens): (usize, &usize)| {
            let wanted = tensors.iter().any(|&tensor| self.taker.wants(tensor, expert));
            wanted && tokens > 0 && is_few(tokens, self.model[tensors[0]].columns() as usize)
        };
        let layer = self.layer.read().expect("no thread panics while it adds").clone();
        let metrics = match layer {
            Some(layer) if tokens.iter().enumerate().any(few) => {
                work_trace::step("factor of a layer");
                // None of the tokens is known to be the expert's: to follow them closely, code by code, costs more than it brings.
                let estimate = Estimate { tokens: Some(0.0), ..layer.estimate(self.stream.as_ref()) };
                Some(Arc::new(metrics(estimate, damping(self.bits(tensors)))?))
            }
            _ => None,
        };
        let (tensors, tokens) = (tensors.to_vec(), tokens.to_vec());
        *self.common.write().expect("no thread panics while it has them") =
            Common { tensors, tokens, metrics };
        Ok(())
    }

    fn bytes_of_expert(&self, expert: usize, columns: [usize; 2]) -> u64 {
        let [hidden, width] = columns;
        let common = self.common();
        let own = common.of(&common.tensors, hidden, expert).is_none();
        let of_outputs = match *self.written.read().expect("no thread panics while it adds") {
            Some(_) => 2 * outputs::working_bytes(width),
            None => 0,
        };
        let of_inputs = if own { working_bytes(hidden) } else { 0 };
        of_inputs + working_bytes(width) + of_outputs
    }

    fn seen(&self, tensors: &[usize], slice: usize) -> Result<()> {
        let is_of = |seen: &mut Arc<Seen>| seen.slice == slice && tensors.contains(&seen.tensors[0]);
        let seen = self.list().extract_if(.., is_of).collect();
        self.hand_all(seen)
    }
}
