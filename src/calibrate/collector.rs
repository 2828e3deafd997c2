//! An observer that sums squared inputs by column, for each matrix of a layer: the importances.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rayon::iter::IndexedParallelIterator;
use rayon::slice::ParallelSliceMut;

use crate::error::{Error, Result};
use crate::forward::{Inputs, Observer};
use crate::model::{Slices, TensorPlan};
use crate::threads;

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
    sums: Mutex<BTreeMap<usize, Arc<Shared>>>,
    least_tokens: usize,
    stop: &'a AtomicBool,
}

/// The sums of tensors that share inputs, those of each slice by themselves, since experts add theirs at the same time.
#[derive(Debug)]
struct Shared {
    tensors: Vec<usize>,
    slices: Vec<Mutex<OfSlice>>,
}

#[derive(Clone, Debug)]
struct OfSlice {
    sums: Vec<f64>,
    count: f64,
}

impl<'a> Collector<'a> {
    /// For these tensors; `cover` shows extra tokens to experts with few. Ends the pass when `stop`
    /// becomes true.
    pub fn new(model: &'a [TensorPlan], cover: bool, stop: &'a AtomicBool) -> Self {
        let least_tokens = if cover { LEAST_TOKENS } else { 0 };
        Self { model, sums: Mutex::default(), least_tokens, stop }
    }

    /// What was collected, by the tensors' full names in order; the collector is empty again.
    pub fn take(&mut self) -> BTreeMap<String, Sums> {
        let mut all = BTreeMap::new();
        let shared = std::mem::take(&mut *self.sums.lock().expect("no thread panics while it has the sums"));
        for shared in shared.into_values() {
            let columns = self.model[shared.tensors[0]].columns() as usize;
            let slices = shared.slices.iter();
            let slices: Vec<OfSlice> =
                slices.map(|slice| slice.lock().expect("no thread panics while it adds").clone()).collect();
            // Every token goes through all heads: the first one's are counted.
            let of_experts = self.model[shared.tensors[0]].part.slices == Slices::Experts;
            let counted = if of_experts { &slices[..] } else { &slices[..1] };
            let sums = Sums {
                columns,
                sums: slices.iter().flat_map(|slice| &slice.sums).copied().collect(),
                counts: counted.iter().map(|slice| slice.count).collect(),
            };
            for &tensor in &shared.tensors {
                all.insert(self.model[tensor].name.clone(), sums.clone());
            }
        }
        all
    }

    /// The sums of the tensors that these are the inputs of.
    fn shared(&self, input: &Inputs<'_>) -> Arc<Shared> {
        let mut all = self.sums.lock().expect("no thread panics while it has the sums");
        let shared = all.entry(input.tensors[0]).or_insert_with(|| {
            let zeros = OfSlice { sums: vec![0.0; input.inputs.columns()], count: 0.0 };
            let slices = self.model[input.tensors[0]].slices.iter().map(|_| Mutex::new(zeros.clone()));
            Arc::new(Shared { tensors: input.tensors.to_vec(), slices: slices.collect() })
        });
        Arc::clone(shared)
    }

    /// Adds rows that count `weight` each.
    fn add(&self, input: &Inputs<'_>, weight: f32) {
        let shared = self.shared(input);
        let mut slice = shared.slices[input.slice].lock().expect("no thread panics while it adds");
        slice.count += input.inputs.rows() as f64 * f64::from(weight);
        let bands = slice.sums.par_chunks_mut(BAND).enumerate();
        threads::each("sum of squares", bands, |(band, sums)| {
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
    fn see(&self, input: Inputs<'_>) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        self.add(&input, 1.0);
        Ok(())
    }

    fn least_tokens(&self) -> usize {
        self.least_tokens
    }

    fn see_extra(&self, input: Inputs<'_>) -> Result<()> {
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
