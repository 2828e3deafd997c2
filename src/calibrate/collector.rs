//! An observer that sums squared inputs by column, for each matrix of a layer: the importances.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::error::{Error, Result};
use crate::forward::{Inputs, Observer};
use crate::model::{Slices, TensorPlan};

/// With `--cover` every expert is shown at least so many tokens.
pub const LEAST_TOKENS: usize = 32;

/// The weight of a token that did not choose the expert it is shown to. Such inputs are of the same layer, so they
/// are far better than none, but not those that the expert will get: as soon as it has tokens of its own, those
/// decide.
pub const EXTRA_WEIGHT: f32 = 1.0 / 16.0;

/// Columns that a thread sums.
const BAND: usize = 512;

/// The sums of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Columns of a slice.
    pub columns: usize,
    /// Sums of squares, slice after slice.
    pub sums: Vec<f64>,
    /// Tokens: of each expert; one number where all slices have the same ones.
    pub counts: Vec<f64>,
}

/// Collects the sums of the layer that is computed.
#[derive(Debug)]
pub struct Collector<'a> {
    model: &'a [TensorPlan],
    /// By place; tensors that share inputs are there once, under the first one's.
    sums: BTreeMap<usize, (Vec<usize>, Sums)>,
    least_tokens: usize,
    stop: &'a AtomicBool,
}

impl<'a> Collector<'a> {
    /// For these tensors; `cover` shows extra tokens to experts with few. Ends the pass when `stop`
    /// becomes true.
    pub fn new(model: &'a [TensorPlan], cover: bool, stop: &'a AtomicBool) -> Self {
        let least_tokens = if cover { LEAST_TOKENS } else { 0 };
        Self { model, sums: BTreeMap::new(), least_tokens, stop }
    }

    /// What was collected, by the tensors' full names in order; the collector is empty again.
    pub fn take(&mut self) -> BTreeMap<String, Sums> {
        let mut all = BTreeMap::new();
        for (tensors, sums) in std::mem::take(&mut self.sums).into_values() {
            for tensor in tensors {
                all.insert(self.model[tensor].name.clone(), sums.clone());
            }
        }
        all
    }

    /// Adds rows that count `weight` each.
    fn add(&mut self, input: &Inputs<'_>, weight: f32) {
        let columns = input.inputs.columns();
        let tensor = &self.model[input.tensors[0]];
        let slices = tensor.slices.len();
        let counts = if tensor.part.slices == Slices::Experts { slices } else { 1 };
        let (_, sums) = self.sums.entry(input.tensors[0]).or_insert_with(|| {
            let sums = Sums { columns, sums: vec![0.0; slices * columns], counts: vec![0.0; counts] };
            (input.tensors.to_vec(), sums)
        });
        // Every token goes through all heads: the first one's are counted.
        if let Some(count) = sums.counts.get_mut(input.slice) {
            *count += input.inputs.rows() as f64 * f64::from(weight);
        }
        let of_slice = &mut sums.sums[input.slice * columns..(input.slice + 1) * columns];
        of_slice.par_chunks_mut(BAND).enumerate().for_each(|(band, sums)| {
            let first = band * BAND;
            for row in 0..input.inputs.rows() {
                let row = &input.inputs.row(row)[first..first + sums.len()];
                for (sum, &x) in sums.iter_mut().zip(row) {
                    *sum += f64::from(x * x * weight);
                }
            }
        });
    }
}

impl Observer for Collector<'_> {
    fn see(&mut self, input: Inputs<'_>) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        self.add(&input, 1.0);
        Ok(())
    }

    fn least_tokens(&self) -> usize {
        self.least_tokens
    }

    fn see_extra(&mut self, input: Inputs<'_>) -> Result<()> {
        self.add(&input, EXTRA_WEIGHT);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dense_kernels::View;

    use super::*;
    use crate::model::{Part, Role};

    #[test]
    fn columns_are_summed_by_slice_and_extra_tokens_count_less() {
        let stop = AtomicBool::new(false);
        let part = Part { slices: Slices::Experts, ..Part::default() };
        let tensor = |name: &str| {
            let name = format!("blk.3.{name}.weight");
            TensorPlan::of_file(name, Some(3), Role::Experts, part, vec![2, 4, 2])
        };
        let model = [tensor("ffn_up_exps"), tensor("ffn_gate_exps")];
        let mut collector = Collector::new(&model, true, &stop);
        let rows = [1.0, 2.0, 3.0, 4.0];
        let input = |slice, inputs| Inputs { tensors: &[1, 0], slice, inputs };
        collector.see(input(1, View::new(2, &rows))).expect("seen");
        collector.see_extra(input(1, View::new(2, &rows[2..]))).expect("seen");
        let sums = collector.take();
        assert_eq!(
            sums.keys().collect::<Vec<_>>(),
            ["blk.3.ffn_gate_exps.weight", "blk.3.ffn_up_exps.weight"]
        );
        let sums = &sums["blk.3.ffn_up_exps.weight"];
        assert_eq!(sums.sums, [0.0, 0.0, 10.0 + 9.0 / 16.0, 20.0 + 1.0]);
        assert_eq!(sums.counts, [0.0, 2.0625]);
        assert!(collector.take().is_empty());
        stop.store(true, Ordering::Relaxed);
        let stopped = collector.see(input(1, View::new(2, &rows))).expect_err("stopped");
        assert!(matches!(stopped, Error::Interrupted), "{stopped}");
    }
}
