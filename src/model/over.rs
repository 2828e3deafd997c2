//! A model of which some tensors are made anew and the others are those of a file that is there.

use std::collections::{HashMap, HashSet};

use super::{Model, TensorPlan, scales};
use crate::checkpoint::{BASE, Checkpoint};
use crate::error::{Error, Result};
use crate::gguf::Metadata;

impl Model {
    /// The model of the file `base`, in which the tensors that are `wanted` by name come from this one. Their weights are
    /// in [`Checkpoint::over`].
    ///
    /// # Errors
    /// If none is wanted, or this model lacks one or has it in another shape.
    pub fn over(self, base: Self, wanted: &dyn Fn(&str) -> bool) -> Result<Self> {
        let mut ours: HashMap<String, TensorPlan> =
            self.tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let mut found = 0;
        let is_anew = |tensor: &TensorPlan| tensor.kept.is_none() && wanted(&tensor.name);
        // Factors belong to the blocks that they are beside.
        let beside = |tensor: &TensorPlan| scales::name(&tensor.name).filter(|_| is_anew(tensor));
        let stale: HashSet<String> = base.tensors.iter().filter_map(beside).collect();
        let one = |mut tensor: TensorPlan| {
            if !is_anew(&tensor) {
                tensor.kept = Some("as the file under it has it");
                for slice in &mut tensor.slices {
                    slice.tensor = format!("{BASE}{}", slice.tensor).into();
                }
                tensor.input_norm = tensor.input_norm.map(|norm| format!("{BASE}{norm}"));
                return Ok(vec![tensor]);
            }
            found += 1;
            let factors = beside(&tensor).and_then(|name| ours.remove(&name));
            let place = || format!("--only: {}", tensor.name);
            match ours.remove(&tensor.name) {
                Some(own) if own.shape == tensor.shape => Ok(factors.into_iter().chain([own]).collect()),
                Some(own) => Err(Error::Argument(format!(
                    "{} has the shape {:?}, in the file under it {:?}",
                    place(),
                    own.shape,
                    tensor.shape
                ))),
                None => Err(Error::Argument(format!("{} is not in the source", place()))),
            }
        };
        let fresh = base.tensors.into_iter().filter(|tensor| !stale.contains(&tensor.name));
        let tensors = fresh.map(one).collect::<Result<Vec<_>>>()?.concat();
        if found == 0 {
            return Err(Error::Argument("--only: matches no tensor whose type can be chosen".into()));
        }
        let warnings = [self.warnings, base.warnings].concat();
        Ok(Self { tensors, warnings, description: None, left_out: self.left_out, ..base })
    }

    /// The plan of a file whose importances and feedback stay said, since most of its tensors do: `verify` asks for
    /// them.
    #[must_use]
    pub fn made_as(mut self, file: &Checkpoint) -> Self {
        const ORIGIN: [&str; 3] = ["quantize.imatrix.", "quantpress.imatrix.", "quantpress.feedback."];
        let keys = file.metadata().into_iter().flat_map(Metadata::iter);
        for (key, value) in keys.filter(|(key, _)| ORIGIN.iter().any(|origin| key.starts_with(origin))) {
            self.metadata.set(key, value.clone());
        }
        self
    }
}
