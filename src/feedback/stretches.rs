//! Which layers a job goes through. A whole job goes through all, each on what was made of those before. A part of a
//! split has the tensors of some layers, perhaps of the head besides: it comes to the first of them through the
//! original model's layers, and goes on with what it makes itself. Pure.

use std::ops::Range;

use crate::model::TensorPlan;
use crate::pipeline::Job;
use crate::recipe::Plan;

/// Layers that follow one another, of which the job makes tensors, and perhaps the head behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The layers; none, if there is only the head.
    pub layers: Range<usize>,
    /// Whether the head's tensors are made too.
    pub head: bool,
    /// Layers that the job goes through in earlier stretches, original ones before them included.
    pub earlier: usize,
}

impl Stretch {
    /// The layers that the job goes through up to its end.
    pub fn all(&self) -> usize {
        self.earlier + self.layers.end
    }
}

/// The stretches of a job, in order.
pub fn stretches(job: &Job) -> Vec<Stretch> {
    match job.part {
        Some(_) => of_tensors(job.plan, job.tensors()),
        None => {
            let layers = 0..layers(job.plan);
            vec![Stretch { layers, head: true, earlier: 0 }]
        }
    }
}

/// The layers before which the parts of a plan begin, and which are not the first, if each file is made by itself; the
/// number of layers stands for the head. In ascending order.
pub fn starts(plan: &Plan) -> Vec<usize> {
    let of_files = plan.files.iter().flat_map(|file| of_tensors(plan, file.tensors.clone()));
    let mut starts: Vec<usize> =
        of_files.map(|stretch| stretch.layers.start).filter(|&layer| layer > 0).collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}

fn layers(plan: &Plan) -> usize {
    plan.model.description.as_ref().map_or(0, |description| description.layers.len())
}

/// The layers of these tensors of a plan, without those that are kept in floating point: they need no inputs.
fn of_tensors(plan: &Plan, tensors: Range<usize>) -> Vec<Stretch> {
    let fed = tensors.filter(|&tensor| !plan.format(tensor).is_float());
    let of = fed.filter_map(|tensor| place(&plan.model.tensors[tensor], layers(plan)));
    joined(of, layers(plan))
}

/// The layer that a tensor's inputs are computed in; the number of layers stands for the head. None for the embedding,
/// which has no inputs.
fn place(tensor: &TensorPlan, layers: usize) -> Option<usize> {
    match tensor.layer {
        Some(layer) => Some(layer as usize).filter(|&layer| layer < layers),
        None => tensor.is_head().then_some(layers),
    }
}

/// The places as stretches.
fn joined(places: impl Iterator<Item = usize>, layers: usize) -> Vec<Stretch> {
    let mut places: Vec<usize> = places.collect();
    places.sort_unstable();
    places.dedup();
    let mut all: Vec<Stretch> = Vec::new();
    for place in places {
        let head = place == layers;
        let end = if head { place } else { place + 1 };
        match all.last_mut() {
            Some(last) if last.layers.end == place => {
                last.layers.end = end;
                last.head = head;
            }
            last => {
                let earlier = last.map_or(0, |last| last.all());
                all.push(Stretch { layers: place..end, head, earlier });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_follow_one_another_are_one_stretch() {
        let stretch = |layers, head, earlier| Stretch { layers, head, earlier };
        assert_eq!(joined([2, 1, 2].into_iter(), 6), [stretch(1..3, false, 0)]);
        assert_eq!(joined([4, 5, 6].into_iter(), 6), [stretch(4..6, true, 0)]);
        // The first file of a split often has the head, far behind its layers.
        assert_eq!(joined([6, 0, 1].into_iter(), 6), [stretch(0..2, false, 0), stretch(6..6, true, 2)]);
        assert_eq!(joined([].into_iter(), 6), []);
    }
}
