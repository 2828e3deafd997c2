//! Units, the pieces of work: some rows of one slice of an output tensor, small enough that memory does not grow with
//! the model, and numbered so that a number means the same unit in every run.

use std::ops::Range;

use crate::error::Result;
use crate::model::TensorPlan;
use crate::recipe::Plan;
use crate::store::{Slice, Store};

/// Weights in a piece, unless a single row (or a transposed slice, which needs all of its window) has more.
const WEIGHTS: u64 = 1 << 20;

/// Stored and encoded bytes of a piece together, with the same exceptions.
const BYTES: u64 = 3 << 20;

/// Weights of the matrices whose block scales are read together, before the weights themselves.
const BATCH: u64 = 64 << 20;

/// Rows of one slice of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its number in the order of tensors, slices and rows, which no sharding changes.
    pub number: u32,
    /// Place of the tensor in the model.
    pub tensor: usize,
    /// Expert or head.
    pub slice: usize,
    /// Rows of the output's slice.
    pub rows: Range<u64>,
}

/// All the units of a slice.
#[derive(Clone, Debug)]
pub struct Window {
    tensor: u32,
    slice: u32,
    /// Number of the first unit.
    first: u32,
    /// Rows in a unit, but the last.
    step: u32,
}

/// All that is to be done, in the order in which the shards hold it.
#[derive(Clone, Debug)]
pub struct Work {
    /// The slices in that order.
    pub windows: Vec<Window>,
    /// Number of units.
    pub units: u32,
    /// Number of the first unit of each tensor, from that of the first tensor on.
    firsts: Vec<u32>,
    /// Places in `windows` of the slices in the model's order, and of the first of them for each tensor.
    places: Vec<u32>,
    slices: Vec<u32>,
    tensors: Range<usize>,
    /// What the largest units need.
    pub needs: Needs,
}

/// Bytes that the largest pieces take in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Stored bytes and encoded blocks, which wait in queues.
    pub piece: u64,
    /// The weights as f32, which a thread has while it works.
    pub scratch: u64,
}

impl Work {
    /// The work for these tensors of the plan.
    ///
    /// # Errors
    /// If one of their sources is not in the store.
    pub fn new(store: &dyn Store, plan: &Plan, tensors: Range<usize>) -> Result<Self> {
        let (mut placed, mut firsts, mut units, mut needs) = (Vec::new(), Vec::new(), 0, Needs::default());
        let mut slices = Vec::new();
        for tensor in tensors.clone() {
            firsts.push(units);
            slices.push(placed.len() as u32);
            let planned = &plan.model.tensors[tensor];
            let (rows, columns) = (planned.rows(), planned.columns());
            let encoded = plan.format(tensor).row_bytes(columns);
            for (slice, of) in planned.slices.iter().enumerate() {
                let (source, window) = (store.stored(&of.tensor)?, &of.rows);
                let stored = source.row_bytes;
                let step = of.step((WEIGHTS / columns).min(BYTES / (stored + encoded)).clamp(1, rows), rows);
                let read = of.stored_rows(&(0..step));
                let raw = (read.end - read.start) * stored;
                let in_between = if of.is_plain() { 0 } else { (read.end - read.start) * source.columns };
                let weights = (step * columns + in_between) * 4 + columns * 4;
                needs.piece = needs.piece.max(raw + step * encoded);
                needs.scratch = needs.scratch.max(weights);
                let place = (source.file, source.offset + window.start * stored);
                let window =
                    Window { tensor: tensor as u32, slice: slice as u32, first: units, step: step as u32 };
                placed.push((place, window));
                units += rows.div_ceil(step) as u32;
            }
        }
        placed.sort_by(|(a, first): &(_, Window), (b, second)| (a, first.first).cmp(&(b, second.first)));
        let windows: Vec<Window> = placed.into_iter().map(|(_, window)| window).collect();
        let mut places: Vec<u32> = (0..windows.len() as u32).collect();
        places.sort_by_key(|&place| windows[place as usize].first);
        Ok(Self { windows, units, firsts, places, slices, tensors, needs })
    }

    /// The units of a slice of a tensor, by the tensor's place in the model, in the order of their rows.
    pub fn of_slice(&self, plan: &Plan, tensor: usize, slice: usize) -> impl Iterator<Item = Unit> {
        let place = self.slices[tensor - self.tensors.start] as usize + slice;
        self.windows[self.places[place] as usize].units(plan)
    }

    /// The units of a tensor, by its place in the model, in the order in which the file has them.
    pub fn of_tensor<'a>(&'a self, plan: &'a Plan, tensor: usize) -> impl Iterator<Item = Unit> + 'a {
        let slices = 0..plan.model.tensors[tensor].slices.len();
        slices.flat_map(move |slice| self.of_slice(plan, tensor, slice))
    }

    /// Numbers of the units of a tensor, by its place in the model.
    pub fn numbers(&self, tensor: usize) -> Range<u32> {
        let index = tensor - self.tensors.start;
        self.firsts[index]..self.firsts.get(index + 1).copied().unwrap_or(self.units)
    }

    /// Every unit, in the order of the shards.
    pub fn all<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = Unit> + 'a {
        self.windows.iter().flat_map(|window| window.units(plan))
    }

    /// Runs of windows whose matrices are small enough together for all their block scales to be in memory.
    pub fn batches<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a [Window]> {
        let mut rest = &self.windows[..];
        std::iter::from_fn(move || {
            let mut weights = 0;
            let mut end = 0;
            while end < rest.len() {
                let source = |index: usize| &rest[index].source(plan).tensor;
                if weights > BATCH && source(end) != source(end - 1) {
                    break;
                }
                weights += rest[end].weights(plan);
                end += 1;
            }
            let batch;
            (batch, rest) = rest.split_at(end);
            (!batch.is_empty()).then_some(batch)
        })
    }
}

impl Unit {
    /// Number of its weights.
    pub fn weights(&self, plan: &Plan) -> u64 {
        (self.rows.end - self.rows.start) * plan.model.tensors[self.tensor].columns()
    }

    /// The file of the plan that its blocks are in, and their bytes there.
    pub fn place(&self, plan: &Plan) -> (usize, Range<u64>) {
        let tensor = &plan.model.tensors[self.tensor];
        let (file, first) = plan.place(self.tensor);
        let row_bytes = plan.format(self.tensor).row_bytes(tensor.columns());
        let byte = |row: u64| first + (self.slice as u64 * tensor.rows() + row) * row_bytes;
        (file, byte(self.rows.start)..byte(self.rows.end))
    }
}

impl Window {
    /// Where it comes from.
    pub fn source<'a>(&self, plan: &'a Plan) -> &'a Slice {
        &self.planned(plan).slices[self.slice as usize]
    }

    fn planned<'a>(&self, plan: &'a Plan) -> &'a TensorPlan {
        &plan.model.tensors[self.tensor as usize]
    }

    fn weights(&self, plan: &Plan) -> u64 {
        self.planned(plan).rows() * self.planned(plan).columns()
    }

    /// Its units in order.
    pub fn units(&self, plan: &Plan) -> impl Iterator<Item = Unit> {
        let Self { tensor, slice, first, step } = *self;
        let (rows, step) = (self.planned(plan).rows(), u64::from(step));
        (0..rows.div_ceil(step)).map(move |nth| Unit {
            number: first + nth as u32,
            tensor: tensor as usize,
            slice: slice as usize,
            rows: nth * step..rows.min((nth + 1) * step),
        })
    }
}
