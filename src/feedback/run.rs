//! The order of the work: a block of a layer is watched with its original weights, quantized, and computed again with
//! what it became.

use std::collections::HashMap;

use quant_kernels::Format;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::covariance::Covariance;
use super::encode::{Metric, encode};
use super::ledger::Ledger;
use super::quantized::Quantized;
use crate::error::{Error, Result};
use crate::forward::{Dense, FromCheckpoint, Head, Input, Observer, Pass, Saved, Shape, Weights};
use crate::gguf::beside;
use crate::pipeline::{Budget, Job, Method, Session, Stages, Work};
use crate::recipe::{Importances, Plan};

/// An expert's own inputs count as much as the layer's when it has seen so many.
const STRENGTH: f32 = 128.0;

/// Tokens whose final states are looked at together.
const BATCH: usize = 2048;

/// The method, with the text whose inputs the covariances are of.
#[derive(Clone, Copy)]
pub struct Feedback<'a> {
    /// Chunks of `context` tokens.
    pub tokens: &'a [u32],
    /// Tokens in a chunk.
    pub context: usize,
    /// Bytes for hidden states, and for the covariances of experts that are worked on together.
    pub memory: u64,
    /// Hears of finished layers, and of how many were when the run began.
    pub told: &'a (dyn Fn(usize, usize) + Sync),
}

impl Method for Feedback<'_> {
    fn work(&self, job: &Job, work: &Work, session: &mut Session, _: Budget) -> Result<Option<Stages>> {
        if job.part.is_some() {
            let problem = "--feedback needs what it made of the layers before; make all parts with --split";
            return Err(Error::Argument(problem.into()));
        }
        let saved = Saved::new(beside(&session.name, ".feedback"), session.fingerprint());
        let (outputs, keeper) = session.parts();
        let mut ledger = Ledger::new(job, work, outputs, keeper);
        if ledger.any_open(|_| true) {
            let places: HashMap<&str, usize> = job
                .plan
                .model
                .tensors
                .iter()
                .enumerate()
                .map(|(i, tensor)| (tensor.name.as_str(), i))
                .collect();
            let press = Press {
                plan: job.plan,
                importances: job.importances,
                places: &places,
                original: FromCheckpoint::new(job.checkpoint, &job.plan.model),
            };
            let quantized = Quantized::new(job.plan, outputs, &places);
            let done = self.layers(&press, &quantized, &mut ledger, &saved);
            // An error of the work goes before one of recording what it did.
            let recorded = ledger.record();
            done.and(recorded)?;
        }
        saved.remove()?;
        Ok(None)
    }
}

impl Feedback<'_> {
    /// All tensors, layer after layer.
    fn layers(&self, press: &Press, quantized: &Quantized, ledger: &mut Ledger, saved: &Saved) -> Result<()> {
        let shape = Shape::of_model(&press.plan.model)?;
        press.plainly(ledger, |_, format| format.is_float())?;
        embedding(press, &shape, ledger)?;

        let of_layer = |name: &str, layer: usize| name.starts_with(&format!("blk.{layer}."));
        let first_open = (0..shape.layers).find(|&layer| ledger.any_open(|name| of_layer(name, layer)));
        // States that were kept are of use if all layers before them are done.
        let kept = saved.layers()?;
        let earlier = if kept <= first_open.unwrap_or(shape.layers) { kept } else { 0 };
        let mut pass = if earlier > 0 {
            let mut pass = Pass::resume(shape.clone(), self.tokens.len(), self.context, self.memory)?;
            saved.restore(earlier, pass.states())?;
            pass
        } else {
            Pass::new(quantized, shape.clone(), self.tokens, self.context, self.memory)?
        };
        for layer in earlier..shape.layers {
            let is_ffn = |name: &str| of_layer(name, layer) && name.contains("ffn");
            let is_attention = |name: &str| of_layer(name, layer) && !name.contains("ffn");
            if ledger.any_open(is_attention) {
                let mut watcher = Watcher::new(press, ledger, self.memory);
                pass.attention(&press.original, layer, &mut watcher, false)?;
                watcher.finish()?;
                press.plainly(ledger, |name, _| is_attention(name))?;
            }
            pass.attention(quantized, layer, &mut Passer(ledger), true)?;
            if ledger.any_open(is_ffn) {
                let mut watcher = Watcher::new(press, ledger, self.memory);
                pass.ffn(&press.original, layer, &mut watcher, false)?;
                watcher.finish()?;
                press.plainly(ledger, |name, _| is_ffn(name))?;
            }
            pass.ffn(quantized, layer, &mut Passer(ledger), true)?;
            ledger.record()?;
            saved.keep(layer + 1, pass.states())?;
            (self.told)(layer + 1, earlier);
        }
        head(press, &mut pass, ledger, self.memory)?;
        press.plainly(ledger, |_, _| true)
    }
}

/// Looks at nothing, but stops when the user wants to.
struct Passer<'a, 'b>(&'a Ledger<'b>);

impl Observer for Passer<'_, '_> {
    fn see(&mut self, _input: Input<'_>) -> Result<()> {
        self.0.go_on()
    }

    fn wants_mixed(&self) -> bool {
        false
    }
}

/// The embedding. It has no inputs, but readers: an error in a row costs what the first layer's matrices make of it. The
/// metric is the sum of W^T W over them, columns times the gains of the norm between; routed experts, which read what
/// the shared ones read, are left out. Later layers and the head read what the first ones have made of it: with them in
/// the sum the divergence was higher (docs/measurements.md).
fn embedding(press: &Press, shape: &Shape, ledger: &mut Ledger) -> Result<()> {
    let tensor = press.places["token_embd.weight"];
    if !ledger.is_open(tensor, 0) {
        return Ok(());
    }
    let mut readers = Covariance::new(shape.hidden);
    let mut add = |name: &str, norm: &str| -> Result<()> {
        let Some([_, rows, _]) = press.original.extent(name) else { return Ok(()) };
        let mut matrix = press.original.matrix(name, 0, [rows, shape.hidden])?;
        let gains = press.original.vector(norm, shape.hidden)?;
        for row in matrix.values_mut().chunks_exact_mut(shape.hidden) {
            row.iter_mut().zip(gains.values()).for_each(|(weight, gain)| *weight *= gain);
        }
        readers.add(matrix.view());
        Ok(())
    };
    for (name, norm) in [
        ("attn_q_a", "attn_norm"),
        ("attn_q", "attn_norm"),
        ("attn_kv_a_mqa", "attn_norm"),
        ("ffn_gate", "ffn_norm"),
        ("ffn_up", "ffn_norm"),
        ("ffn_gate_inp", "ffn_norm"),
        ("ffn_gate_shexp", "ffn_norm"),
        ("ffn_up_shexp", "ffn_norm"),
    ] {
        add(&format!("blk.0.{name}.weight"), &format!("blk.0.{norm}.weight"))?;
    }
    press.with_feedback(ledger, tensor, 0, &metrics(readers.mean())?)
}

/// The head, on the final states.
fn head(press: &Press, pass: &mut Pass, ledger: &mut Ledger, memory: u64) -> Result<()> {
    if !ledger.any_open(|name| name == "output.weight") {
        return Ok(());
    }
    let head = Head::read(&press.original, pass.shape())?;
    let layer = pass.shape().layers;
    let mut watcher = Watcher::new(press, ledger, memory);
    let states = pass.states();
    for start in (0..states.rows()).step_by(BATCH) {
        let mut inputs = states.read(start..states.rows().min(start + BATCH))?;
        head.normalise(&mut inputs);
        watcher.see(Input { layer, tensors: &["output"], slice: 0, inputs: inputs.view() })?;
    }
    watcher.finish()
}

/// The segments of a covariance, factored.
fn metrics(covariance: Vec<Dense>) -> Result<Vec<Metric>> {
    covariance.into_iter().map(Metric::new).collect()
}

/// Reads and quantizes.
struct Press<'a> {
    plan: &'a Plan,
    importances: &'a Importances<'a>,
    places: &'a HashMap<&'a str, usize>,
    original: FromCheckpoint<'a>,
}

impl Press<'_> {
    /// One slice on inputs of these covariances.
    fn with_feedback(
        &self,
        ledger: &mut Ledger,
        tensor: usize,
        slice: usize,
        metrics: &[Metric],
    ) -> Result<()> {
        let weights = self.slice(tensor, slice)?;
        let blocks = encode(self.plan.format(tensor), &weights, metrics);
        ledger.put(tensor, slice, &weights, &blocks)
    }

    /// What is open of the tensors that `which` picks, as without feedback.
    fn plainly(&self, ledger: &mut Ledger, which: impl Fn(&str, Format) -> bool) -> Result<()> {
        for (tensor, plan) in self.plan.model.tensors.iter().enumerate() {
            let format = self.plan.format(tensor);
            if !which(&plan.name, format) {
                continue;
            }
            for slice in ledger.open_slices(tensor) {
                let weights = self.slice(tensor, slice)?;
                let importance = self.importances.slice(&self.plan.model, tensor, slice)?;
                let columns = weights.columns();
                let mut blocks = vec![0; (plan.rows() * format.row_bytes(plan.columns())) as usize];
                quant_kernels::quantize(
                    format,
                    weights.values(),
                    columns,
                    importance.as_deref(),
                    &mut blocks,
                );
                ledger.put(tensor, slice, &weights, &blocks)?;
            }
        }
        Ok(())
    }

    fn slice(&self, tensor: usize, slice: usize) -> Result<Dense> {
        let plan = &self.plan.model.tensors[tensor];
        self.original.matrix(&plan.name, slice, [plan.rows() as usize, plan.columns() as usize])
    }
}

/// Inputs that some tensors share: their places, the slice, and the covariance.
struct Seen {
    tensors: Vec<usize>,
    slice: usize,
    covariance: Covariance,
}

impl Seen {
    /// Memory to factor it in: the sums, their mean, the factor, its inverse, and what the library keeps beside them.
    fn working_bytes(&self) -> u64 {
        6 * self.covariance.bytes()
    }
}

/// Collects covariances; the matrices of experts are quantized when those of as many experts are known as memory has
/// room for, so that one thread can factor one expert's while others do others'.
struct Watcher<'a, 'b> {
    press: &'a Press<'a>,
    ledger: &'a mut Ledger<'b>,
    memory: u64,
    seen: Vec<Seen>,
    /// Of all inputs of the layer's experts.
    layer: Option<Covariance>,
    expert: Option<usize>,
}

impl<'a, 'b> Watcher<'a, 'b> {
    fn new(press: &'a Press<'a>, ledger: &'a mut Ledger<'b>, memory: u64) -> Self {
        Self { press, ledger, memory, seen: Vec::new(), layer: None, expert: None }
    }

    /// Quantizes what was seen, as many covariances being factored at once as memory has room for.
    fn flush(&mut self) -> Result<()> {
        let (plan, layer) = (self.press.plan, self.layer.as_ref());
        let factor = |Seen { tensors, slice, covariance }: Seen| {
            let name = &plan.model.tensors[tensors[0]].name;
            let mean = match (name.ends_with("_exps.weight"), name.contains("ffn_down")) {
                (false, _) => covariance.mean(),
                (true, true) => covariance.shrunk(None, STRENGTH),
                (true, false) => covariance.shrunk(layer, STRENGTH),
            };
            Ok((tensors, slice, metrics(mean)?))
        };
        let mut seen = std::mem::take(&mut self.seen).into_iter().peekable();
        while seen.peek().is_some() {
            let mut bytes = 0;
            let fits = |seen: &Seen| {
                let first = bytes == 0;
                bytes += seen.working_bytes();
                first || bytes <= self.memory
            };
            let group: Vec<Seen> = std::iter::from_fn({
                let (seen, mut fits) = (&mut seen, fits);
                move || seen.next_if(&mut fits)
            })
            .collect();
            let factored: Vec<_> = group.into_par_iter().map(factor).collect::<Result<_>>()?;
            for (tensors, slice, metrics) in factored {
                for tensor in tensors
                    .into_iter()
                    .filter(|&tensor| self.ledger.is_open(tensor, slice))
                    .collect::<Vec<_>>()
                {
                    self.press.with_feedback(self.ledger, tensor, slice, &metrics)?;
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

impl Observer for Watcher<'_, '_> {
    fn see(&mut self, input: Input<'_>) -> Result<()> {
        self.ledger.go_on()?;
        let columns = input.inputs.ncols();
        if input.tensors[0] == "ffn_gate_inp" {
            self.layer.get_or_insert_with(|| Covariance::new(columns)).add(input.inputs);
            return Ok(());
        }
        if input.tensors[0].ends_with("_exps") && self.expert != Some(input.slice) {
            if self.seen.iter().map(Seen::working_bytes).sum::<u64>() > self.memory {
                self.flush()?;
            }
            self.expert = Some(input.slice);
        }
        let name = |tensor: &&str| match *tensor {
            "output" => "output.weight".to_owned(),
            tensor => format!("blk.{}.{tensor}.weight", input.layer),
        };
        let tensors: Vec<usize> = input
            .tensors
            .iter()
            .filter_map(|tensor| self.press.places.get(name(tensor).as_str()).copied())
            .collect();
        if tensors.iter().all(|&tensor| !self.ledger.is_open(tensor, input.slice)) {
            return Ok(());
        }
        let known = self.seen.iter_mut().find(|seen| seen.tensors == tensors && seen.slice == input.slice);
        match known {
            Some(seen) => seen.covariance.add(input.inputs),
            None => {
                let mut covariance = Covariance::new(columns);
                covariance.add(input.inputs);
                self.seen.push(Seen { tensors, slice: input.slice, covariance });
            }
        }
        Ok(())
    }
}
