//! Matrices of the checkpoint that look damaged, from what is known of the units that are done.

use std::ops::Range;

use super::{Done, Job, Work};
use crate::error::{Error, Warning};
use crate::zeros::Zeros;

/// Slices that are named of a tensor.
const NAMED: usize = 8;

/// A warning for each of these tensors, by their places in the model, with slices that are complete and look damaged.
pub fn found(job: &Job, work: &Work, done: &[Option<Done>], tensors: Range<usize>) -> Vec<Warning> {
    let plan = job.plan;
    tensors
        .filter_map(|tensor| {
            let planned = &plan.model.tensors[tensor];
            let problem = |slice: usize| {
                let zeros = |seen: Zeros, number: u32| Some(seen.then(done[number as usize]?.zeros));
                let numbers = work.of_slice(plan, tensor, slice).map(|unit| unit.number);
                numbers.into_iter().try_fold(Zeros::default(), zeros)?.problem()
            };
            let slices = 0..planned.slices.len();
            let found: Vec<(usize, String)> =
                slices.filter_map(|slice| Some((slice, problem(slice)?))).collect();
            let (first, problem) = found.first()?;
            let problem = match (&found[..], planned.slices.len()) {
                (_, 1) => problem.clone(),
                ([_], _) => format!("slice {first} {problem}"),
                (all, slices) => {
                    let named: Vec<String> =
                        all.iter().take(NAMED).map(|(slice, _)| slice.to_string()).collect();
                    let more = if all.len() > NAMED { ", ..." } else { "" };
                    let count = all.len();
                    format!("{count} of {slices} slices ({}{more}): the first {problem}", named.join(", "))
                }
            };
            let source = &planned.slices[*first].tensor;
            let shard = job.checkpoint.get(source).map_or("the checkpoint", |source| &source.shard);
            let problem =
                format!("{problem}, as after an unfinished download; it becomes \"{}\"", planned.name);
            Some(Warning::new(Error::tensor(shard, source, problem)))
        })
        .collect()
}
