//! Feedback without a text, by what the weights say of their inputs. No layer is computed.

use super::ledger::Ledger;
use super::press::Press;
use super::run::embedding;
use super::written::Written;
use crate::covariance::{Known, Metric, Prior, damping, metrics};
use crate::error::Result;
use crate::model::{Half, Input, Slices, TensorPlan};
use crate::pipeline::{Budget, Job, Made, Method, Session, Stages, Work, run_by};
use crate::threads;

/// The share of the correlations of weights that inputs are taken to have. Of what reads the residual stream 0.2 to 0.3 were
/// measured in a model trained on much text, and 0.3 to 1.2 in one trained on little, and half is better than none in both; of other
/// inputs from none to 1.2, so that without a text nothing is believed of them (docs/records/2026-11-weights.md).
const SHARE: f32 = 0.5;

/// The method: all matrices that read the residual stream in one half of a layer have one covariance, of the mean squares that the
/// importances have, and a share of the correlations of these matrices' columns. All others are quantized as without feedback.
#[derive(Clone, Copy, Debug)]
pub struct Textless {
    /// Bytes of weights that are worked on at the same time.
    pub memory: u64,
}

impl Textless {
    /// Does the job, on its threads; see [`run_by`].
    ///
    /// # Errors
    /// As [`run_by`], and if there is no forward pass for the architecture.
    pub fn run(&self, job: &Job) -> Result<Made> {
        // Files of other architectures may have tensors that only the ordinary way can copy.
        job.plan.model.describe()?;
        threads::on(job.threads, || run_by(job, self))?
    }
}

impl Method for Textless {
    fn work(&self, job: &Job, work: &Work, session: &mut Session, _: Budget) -> Result<Option<Stages>> {
        let (outputs, keeper) = session.parts(job, work);
        let written = Written::new(work, &keeper);
        let ledger = Ledger::new(job, work, outputs, keeper, &written);
        let done = all(&Press::new(job, self.memory), &ledger);
        // An error of the work goes before one of recording what it did.
        let recorded = ledger.record();
        done.and(recorded)?;
        Ok(None)
    }

    fn reads_back(&self) -> bool {
        true
    }
}

/// All tensors of the job.
fn all(press: &Press, ledger: &Ledger) -> Result<()> {
    press.plainly(ledger, |_, format| format.is_float())?;
    embedding(press, press.plan.model.describe()?, ledger)?;
    let mut places: Vec<_> =
        ledger.tensors().filter(|(_, tensor)| is_reader(tensor)).map(|(_, tensor)| place(tensor)).collect();
    places.sort_unstable();
    places.dedup();
    for of in places {
        if ledger.any_open(|tensor| is_reader(tensor) && place(tensor) == of) {
            readers(press, ledger, of)?;
        }
    }
    press.plainly(ledger, |_, _| true)
}

/// A half of a layer, or what is outside of all.
type Place = (Option<u32>, Option<Half>);

fn place(tensor: &TensorPlan) -> Place {
    (tensor.layer, tensor.part.half)
}

/// Whether a tensor reads the residual stream.
fn is_reader(tensor: &TensorPlan) -> bool {
    tensor.part.input == Input::Stream
}

/// Quantizes what is open of the tensors that read the stream at a place.
fn readers(press: &Press, ledger: &Ledger, of: Place) -> Result<()> {
    let all = press.plan.model.tensors.iter().enumerate();
    let readers: Vec<(usize, &TensorPlan)> =
        all.filter(|(_, tensor)| is_reader(tensor) && place(tensor) == of).collect();
    let metrics = metrics_of(press, &readers)?;
    let slices =
        readers.iter().flat_map(|&(place, tensor)| tensor.slice_numbers().map(move |slice| (place, slice)));
    let open = slices.filter(|&(tensor, slice)| ledger.is_open(tensor, slice));
    let known =
        open.map(|(tensor, slice)| Known { tensor, slice, tokens: 0, metrics: &metrics, coupling: None });
    press.with_feedback(ledger, &known.collect::<Vec<_>>())
}

/// What the inputs of these tensors are taken for.
fn metrics_of(press: &Press, readers: &[(usize, &TensorPlan)]) -> Result<Vec<Metric>> {
    let slices =
        readers.iter().flat_map(|(_, tensor)| tensor.slice_numbers().map(move |slice| (*tensor, slice)));
    let prior = Prior::read(&press.original, &slices.collect::<Vec<_>>())?;
    // All tokens are in the importances of what is no expert.
    let whole = readers.iter().filter(|(_, tensor)| tensor.part.slices != Slices::Experts);
    let (place, tensor) = whole.chain(readers).next().expect("a half with readers");
    let mut sums = vec![0.0; tensor.columns() as usize];
    for slice in tensor.slice_numbers() {
        match press.importances.slice(&press.plan.model, *place, slice)? {
            Some(values) => sums.iter_mut().zip(&*values).for_each(|(sum, x)| *sum += x),
            None => sums.iter_mut().for_each(|sum| *sum += 1.0),
        }
    }
    let bits = readers.iter().map(|(place, _)| press.plan.format(*place).bits_per_weight());
    metrics(prior.estimate(&sums, SHARE), damping(bits.min_by(f64::total_cmp)))
}
