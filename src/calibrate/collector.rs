//! Sums of squared inputs by column, for each matrix of a layer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::error::{Error, Result};
use crate::forward::{Input, Observer};

/// With `--cover` every expert is shown at least so many tokens.
pub const LEAST_TOKENS: usize = 32;

/// What a token counts that did not choose the expert it is shown to. Their inputs are of the same layer, so they are
/// far better than nothing, but not what the expert will see: as soon as it has tokens of its own, those decide.
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
    /// Tokens, for each slice.
    pub counts: Vec<f64>,
}

/// Collects the sums of the layer that is computed.
#[derive(Debug)]
pub struct Collector<'a> {
    /// By name; tensors that share inputs are there once, under the first one's name.
    sums: BTreeMap<String, (Vec<String>, Sums)>,
    experts: usize,
    heads: usize,
    least_tokens: usize,
    stop: &'a AtomicBool,
}

impl<'a> Collector<'a> {
    /// For layers of so many experts and heads; `cover` shows extra tokens to experts with few. Ends the pass when `stop`
    /// becomes true.
    pub fn new(experts: usize, heads: usize, cover: bool, stop: &'a AtomicBool) -> Self {
        let least_tokens = if cover { LEAST_TOKENS } else { 0 };
        Self { sums: BTreeMap::new(), experts, heads, least_tokens, stop }
    }

    /// What was collected, by the tensors' full names in order; the collector is empty again.
    pub fn take(&mut self) -> BTreeMap<String, Sums> {
        let mut all = BTreeMap::new();
        for (names, sums) in std::mem::take(&mut self.sums).into_values() {
            for name in names {
                all.insert(name, sums.clone());
            }
        }
        all
    }

    /// Adds rows that count `weight` each.
    fn add(&mut self, input: &Input<'_>, weight: f32) {
        let columns = input.inputs.columns();
        let name = |tensor: &&str| input.full_name(tensor);
        let slices = match input.tensors[0] {
            tensor if tensor.ends_with("_exps") => self.experts,
            "attn_k_b" | "attn_v_b" => self.heads,
            _ => 1,
        };
        let (_, sums) = self.sums.entry(name(&input.tensors[0])).or_insert_with(|| {
            let sums = Sums { columns, sums: vec![0.0; slices * columns], counts: vec![0.0; slices] };
            (input.tensors.iter().map(name).collect(), sums)
        });
        sums.counts[input.slice] += input.inputs.rows() as f64 * f64::from(weight);
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
    fn see(&mut self, input: Input<'_>) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        self.add(&input, 1.0);
        Ok(())
    }

    fn least_tokens(&self) -> usize {
        self.least_tokens
    }

    fn see_extra(&mut self, input: Input<'_>) -> Result<()> {
        self.add(&input, EXTRA_WEIGHT);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dense_kernels::View;

    use super::*;

    #[test]
    fn columns_are_summed_by_slice_and_extra_tokens_count_less() {
        let stop = AtomicBool::new(false);
        let mut collector = Collector::new(2, 1, true, &stop);
        let rows = [1.0, 2.0, 3.0, 4.0];
        let input =
            |slice, inputs| Input { layer: 3, tensors: &["ffn_gate_exps", "ffn_up_exps"], slice, inputs };
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
