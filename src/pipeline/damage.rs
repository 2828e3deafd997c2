//! Finds matrices of the checkpoint that look damaged (zeros), from the records of the units that are done.

use std::ops::Range;

use super::{Done, Job, Work};
use crate::error::Warning;
use crate::zeros::Zeros;

/// Slices that are named of a tensor.
const NAMED: usize = 8;

/// The units with rows of zeros of all slices that look damaged, as far as they are done.
pub fn units(job: &Job, work: &Work, done: &[Option<Done>]) -> Vec<u32> {
    let plan = job.plan;
    let mut found = Vec::new();
    for tensor in job.tensors() {
        for slice in 0..plan.model.tensors[tensor].slices.len() {
            let known = |number: u32| done[number as usize].map_or_else(Zeros::default, |done| done.zeros);
            let numbers: Vec<u32> = work.of_slice(plan, tensor, slice).map(|unit| unit.number).collect();
            let seen = numbers.iter().fold(Zeros::default(), |seen, &number| seen.then(known(number)));
            if seen.is_suspicious() {
                found.extend(numbers.into_iter().filter(|&number| known(number).longest > 0));
            }
        }
    }
    found
}

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
            let problem =
                format!("{problem}, as after an unfinished download; it becomes \"{}\"", planned.name);
            Some(Warning::new(job.store.fault(source, problem)))
        })
        .collect()
}
