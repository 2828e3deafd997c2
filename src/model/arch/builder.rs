//! Collects a family's output tensors and checks each source against the shape that config.json implies.

use std::collections::HashSet;

use quant_kernels::Format;

use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::error::{Error, Result};
use crate::model::{Role, Slice, TensorPlan};

/// The tensors planned so far, and the checkpoint tensors they use.
pub struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    tensors: Vec<TensorPlan>,
    used: HashSet<String>,
}

/// The place of an output tensor: name after `blk.N.`, layer, role.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub layer: Option<u32>,
    pub name: &'a str,
    pub role: Role,
}

impl<'a> Builder<'a> {
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, tensors: Vec::new(), used: HashSet::new() }
    }

    /// Takes over a vector of `length` numbers.
    pub fn vector(&mut self, target: Target, source: String, length: u32) -> Result<()> {
        self.source(&source, &[length])?;
        self.push(
            target,
            vec![length.into()],
            vec![Slice { tensor: source, rows: 0..1, transposed: false }],
            None,
        );
        Ok(())
    }

    /// Takes over an `[out, in]` matrix; `norm` is the one its input comes from.
    pub fn matrix(
        &mut self,
        target: Target,
        source: String,
        shape: [u32; 2],
        norm: Option<&str>,
    ) -> Result<()> {
        self.stack(target, vec![source], shape, norm)?;
        self.tensors.last_mut().expect("just pushed").shape.truncate(2);
        Ok(())
    }

    /// Stacks `[out, in]` matrices (experts, in order) into {in, out, experts}.
    pub fn stack(
        &mut self,
        target: Target,
        sources: Vec<String>,
        shape: [u32; 2],
        norm: Option<&str>,
    ) -> Result<()> {
        let [rows, columns] = shape;
        let mut slices = Vec::with_capacity(sources.len());
        for tensor in sources {
            self.source(&tensor, &shape)?;
            slices.push(Slice { tensor, rows: 0..rows.into(), transposed: false });
        }
        self.push(target, vec![columns.into(), rows.into(), slices.len() as u64], slices, norm);
        Ok(())
    }

    /// Takes `windows` of rows of one matrix as the slices of {ne0, ne1, windows}.
    pub fn windows(
        &mut self,
        target: Target,
        source: &str,
        shape: [u32; 2],
        windows: Vec<std::ops::Range<u64>>,
        transposed: bool,
        norm: Option<&str>,
    ) -> Result<()> {
        self.source(source, &shape)?;
        let (rows, columns) = (windows[0].end - windows[0].start, u64::from(shape[1]));
        let (ne0, ne1) = if transposed { (rows, columns) } else { (columns, rows) };
        let slice = |rows| Slice { tensor: source.to_owned(), rows, transposed };
        let slices: Vec<Slice> = windows.into_iter().map(slice).collect();
        self.push(target, vec![ne0, ne1, slices.len() as u64], slices, norm);
        Ok(())
    }

    /// Whether the checkpoint has a tensor of this name.
    pub fn has(&self, source: &str) -> bool {
        self.checkpoint.get(source).is_some()
    }

    /// The tensors, once every tensor of the checkpoint is used or left out on purpose.
    pub fn finish(self, left_out: impl Fn(&str) -> bool) -> Result<Vec<TensorPlan>> {
        let is_known = |name: &str| {
            self.used.contains(name)
                || self.checkpoint.is_left_out(name)
                || self.scaled(name).is_some_and(|weight| weight.dtype == Dtype::F8_E4M3)
                || left_out(name)
        };
        // The first by name, so that the message does not depend on the order of a hash map.
        match self.checkpoint.tensors().filter(|t| !is_known(&t.name)).min_by(|a, b| a.name.cmp(&b.name)) {
            Some(tensor) => {
                let consequence = match self.scaled(&tensor.name) {
                    Some(weight) => format!(
                        "\"{}\" is {:?}, which needs no scales, and whether it was multiplied by them nothing tells",
                        weight.name, weight.dtype
                    ),
                    None => "leaving it out would change the model, if it is a part of it".to_owned(),
                };
                Err(Error::Unsupported(format!(
                    "{}: tensor \"{}\" has no place in this architecture: {consequence}",
                    tensor.shard, tensor.name
                )))
            }
            None => Ok(self.tensors),
        }
    }

    /// The tensor that one of this name would be the scales of.
    fn scaled(&self, name: &str) -> Option<&Tensor> {
        self.checkpoint.weight_of_scale(name).and_then(|weight| self.checkpoint.get(weight))
    }

    /// Marks a checkpoint tensor as used, after checking whether it can be read at all, its shape, and its scales.
    fn source(&mut self, name: &str, shape: &[u32]) -> Result<()> {
        let tensor = self.checkpoint.tensor(name)?;
        let stored = match self.checkpoint.encoding(tensor) {
            Err(error @ Error::Unsupported(_)) => return Err(error),
            stored => stored,
        };
        let expected: Vec<u64> = shape.iter().map(|&n| n.into()).collect();
        if tensor.shape != expected {
            let problem = format!("has shape {:?}; config.json implies {expected:?}", tensor.shape);
            return Err(Error::tensor(&tensor.shard, name, problem));
        }
        stored?;
        self.used.insert(name.to_owned());
        Ok(())
    }

    /// The type of all the sources, if it is one and GGUF has it.
    fn stored(&self, slices: &[Slice]) -> Option<Format> {
        let of = |slice: &Slice| self.checkpoint.get(&slice.tensor).and_then(|tensor| tensor.dtype.in_gguf());
        let first = slices.first().and_then(of)?;
        slices.iter().all(|slice| of(slice) == Some(first)).then_some(first)
    }

    fn push(&mut self, target: Target, shape: Vec<u64>, slices: Vec<Slice>, norm: Option<&str>) {
        let name = match target.layer {
            Some(layer) => format!("blk.{layer}.{}", target.name),
            None => target.name.to_owned(),
        };
        let input_norm = norm.map(str::to_owned);
        let stored = self.stored(&slices);
        self.tensors.push(TensorPlan {
            name,
            role: target.role,
            layer: target.layer,
            shape,
            slices,
            input_norm,
            stored,
            kept: None,
        });
    }
}
