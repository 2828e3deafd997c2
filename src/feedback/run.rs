//! The order of the work: a block of a layer is watched with its original weights, quantized, and computed again with
//! what it became.

use std::collections::HashMap;
use std::path::Path;

use quant_kernels::Format;

use super::covariance::{Covariance, upper_factor};
use super::encode::encode;
use super::quantized::Quantized;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::forward::{Dense, FromCheckpoint, Head, Ignore, Input, Observer, Pass, Shape, Weights};
use crate::gguf::{File, Output, beside};
use crate::recipe::{Importances, Plan};

/// An expert's own inputs count as much as the layer's when it has seen so many.
const STRENGTH: f32 = 128.0;

/// Tokens whose final states are looked at together.
const BATCH: usize = 2048;

/// The text whose inputs the covariances are of.
#[derive(Clone, Copy, Debug)]
pub struct Feedback<'a> {
    /// Chunks of `context` tokens.
    pub tokens: &'a [u32],
    /// Tokens in a chunk.
    pub context: usize,
    /// Bytes for hidden states.
    pub memory: u64,
}

/// Quantizes the checkpoint as planned into `path`, with feedback; `told` hears of finished layers.
///
/// # Errors
/// If something cannot be read or written, or holds weights that no format can; then `path` is as it was.
pub fn run(
    checkpoint: &Checkpoint,
    plan: &Plan,
    importances: &Importances,
    feedback: Feedback,
    path: &Path,
    told: &dyn Fn(usize),
) -> Result<()> {
    let [File { layout, .. }] = &plan.files[..] else {
        return Err(Error::Argument("--feedback writes one file; leave out --split and --part".into()));
    };
    if beside(path, ".journal").exists() {
        let problem =
            format!("{} has unfinished work without --feedback; finish or delete it", path.display());
        return Err(Error::Argument(problem));
    }
    let mut output = Output::in_one_go(path, layout.file_size)?;
    output.write_at(0, &layout.header)?;
    tensors(checkpoint, plan, importances, feedback, &output, told)?;
    output.finish()
}

/// All tensors, layer after layer.
fn tensors(
    checkpoint: &Checkpoint,
    plan: &Plan,
    importances: &Importances,
    feedback: Feedback,
    output: &Output,
    told: &dyn Fn(usize),
) -> Result<()> {
    let places: HashMap<&str, usize> =
        plan.model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect();
    let press = Press {
        plan,
        importances,
        output,
        places: &places,
        original: FromCheckpoint::new(checkpoint, &plan.model),
    };
    let quantized = Quantized::new(plan, output, &places);
    let shape = Shape::of_model(&plan.model)?;

    let mut todo: Vec<Vec<bool>> =
        plan.model.tensors.iter().map(|tensor| vec![true; tensor.slices.len()]).collect();
    press.plainly(&mut todo, |_, format| format.is_float())?;
    embedding(&press, &shape, &mut todo)?;
    let mut pass = Pass::new(&quantized, shape.clone(), feedback.tokens, feedback.context, feedback.memory)?;
    for layer in 0..shape.layers {
        let mut watcher = Watcher::new(&press, &mut todo);
        pass.attention(&press.original, layer, &mut watcher, false)?;
        watcher.finish()?;
        pass.attention(&quantized, layer, &mut Ignore, true)?;

        let mut watcher = Watcher::new(&press, &mut todo);
        pass.ffn(&press.original, layer, &mut watcher, false)?;
        watcher.finish()?;
        press.plainly(&mut todo, |name, _| name.starts_with(&format!("blk.{layer}.")))?;
        pass.ffn(&quantized, layer, &mut Ignore, true)?;
        told(layer + 1);
    }
    head(&press, &mut pass, &mut todo)?;
    press.plainly(&mut todo, |_, _| true)
}

/// The embedding. It has no inputs, but readers: an error in a row costs what the first layer's matrices make of it. The
/// metric is the sum of W^T W over them, columns times the gains of the norm between; routed experts, which read what
/// the shared ones read, are left out. Later layers and the head read what the first ones have made of it: with them in
/// the sum the divergence was higher (docs/measurements.md).
fn embedding(press: &Press, shape: &Shape, todo: &mut [Vec<bool>]) -> Result<()> {
    let tensor = press.places["token_embd.weight"];
    if !todo[tensor][0] {
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
    let metric = readers.mean();
    press.with_feedback(tensor, 0, [&metric, &upper_factor(&metric)?])?;
    todo[tensor][0] = false;
    Ok(())
}

/// The head, on the final states.
fn head(press: &Press, pass: &mut Pass, todo: &mut [Vec<bool>]) -> Result<()> {
    if !press.places.contains_key("output.weight") {
        return Ok(());
    }
    let head = Head::read(&press.original, pass.shape())?;
    let layer = pass.shape().layers;
    let mut watcher = Watcher::new(press, todo);
    let states = pass.states();
    for start in (0..states.rows()).step_by(BATCH) {
        let mut inputs = states.read(start..states.rows().min(start + BATCH))?;
        head.normalise(&mut inputs);
        watcher.see(Input { layer, tensors: &["output"], slice: 0, inputs: inputs.view() })?;
    }
    watcher.finish()
}

/// Reads, quantizes, writes.
struct Press<'a> {
    plan: &'a Plan,
    importances: &'a Importances<'a>,
    output: &'a Output,
    places: &'a HashMap<&'a str, usize>,
    original: FromCheckpoint<'a>,
}

impl Press<'_> {
    /// One slice on inputs of this covariance.
    fn with_feedback(&self, tensor: usize, slice: usize, [covariance, upper]: [&Dense; 2]) -> Result<()> {
        let mut weights = self.slice(tensor, slice)?;
        let blocks = encode(self.plan.format(tensor), &mut weights, covariance, upper);
        self.write(tensor, slice, &blocks)
    }

    /// What is left of the tensors that `which` picks, as without feedback.
    fn plainly(&self, todo: &mut [Vec<bool>], which: impl Fn(&str, Format) -> bool) -> Result<()> {
        for (tensor, todo) in todo.iter_mut().enumerate() {
            let (plan, format) = (&self.plan.model.tensors[tensor], self.plan.format(tensor));
            if !which(&plan.name, format) {
                continue;
            }
            for (slice, todo) in todo.iter_mut().enumerate().filter(|(_, todo)| **todo) {
                let weights = self.slice(tensor, slice)?;
                let importance = self.importances.slice(&self.plan.model, tensor, slice)?;
                let columns = plan.columns() as usize;
                let mut blocks = vec![0; (plan.rows() * format.row_bytes(plan.columns())) as usize];
                quant_kernels::quantize(
                    format,
                    weights.values(),
                    columns,
                    importance.as_deref(),
                    &mut blocks,
                );
                self.write(tensor, slice, &blocks)?;
                *todo = false;
            }
        }
        Ok(())
    }

    fn slice(&self, tensor: usize, slice: usize) -> Result<Dense> {
        let plan = &self.plan.model.tensors[tensor];
        self.original.matrix(&plan.name, slice, [plan.rows() as usize, plan.columns() as usize])
    }

    fn write(&self, tensor: usize, slice: usize, blocks: &[u8]) -> Result<()> {
        let offset = self.plan.place(tensor).1 + (slice * blocks.len()) as u64;
        self.output.write_at(offset, blocks)
    }
}

/// Collects covariances; an expert's matrices are quantized as soon as the next expert's inputs come, so that one
/// expert's covariances are in memory at a time.
struct Watcher<'a> {
    press: &'a Press<'a>,
    todo: &'a mut [Vec<bool>],
    /// Tensors that share inputs, the slice, and the inputs' covariance, as they came.
    seen: Vec<(Vec<usize>, usize, Covariance)>,
    /// Of all inputs of the layer's experts.
    layer: Option<Covariance>,
    expert: Option<usize>,
}

impl<'a> Watcher<'a> {
    fn new(press: &'a Press<'a>, todo: &'a mut [Vec<bool>]) -> Self {
        Self { press, todo, seen: Vec::new(), layer: None, expert: None }
    }

    /// Quantizes what was seen.
    fn flush(&mut self) -> Result<()> {
        for (tensors, slice, covariance) in std::mem::take(&mut self.seen) {
            let name = &self.press.plan.model.tensors[tensors[0]].name;
            let mean = match (name.ends_with("_exps.weight"), name.contains("ffn_down")) {
                (false, _) => covariance.mean(),
                (true, true) => covariance.shrunk(None, STRENGTH),
                (true, false) => covariance.shrunk(self.layer.as_ref(), STRENGTH),
            };
            let upper = upper_factor(&mean)?;
            for tensor in tensors {
                if self.todo[tensor][slice] {
                    self.press.with_feedback(tensor, slice, [&mean, &upper])?;
                    self.todo[tensor][slice] = false;
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

impl Observer for Watcher<'_> {
    fn see(&mut self, input: Input<'_>) -> Result<()> {
        let columns = input.inputs.ncols();
        if input.tensors[0] == "ffn_gate_inp" {
            self.layer.get_or_insert_with(|| Covariance::new(columns)).add(input.inputs);
            return Ok(());
        }
        if input.tensors[0].ends_with("_exps") && self.expert != Some(input.slice) {
            self.flush()?;
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
        let known = self.seen.iter_mut().find(|(t, slice, _)| *t == tensors && *slice == input.slice);
        match known {
            Some((_, _, covariance)) => covariance.add(input.inputs),
            None => {
                let mut covariance = Covariance::new(columns);
                covariance.add(input.inputs);
                self.seen.push((tensors, input.slice, covariance));
            }
        }
        Ok(())
    }
}
