//! A model in a GGUF file: the description that its metadata give, and its tensors with their parts.

use std::collections::HashMap;
use std::path::Path;

use super::arch::FAMILIES;
use super::keys::Reader;
use super::{Description, Model, Options, TensorPlan, Weights, side};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};

/// A GGUF file, whole or split, of an architecture that has a description.
#[derive(Debug)]
pub struct ModelFile {
    /// The model that the metadata describe.
    pub description: Description,
    model: Model,
    store: Checkpoint,
}

impl ModelFile {
    /// Reads the headers of the file, or of all files of its split.
    ///
    /// # Errors
    /// If they cannot be read, the architecture has no description, or metadata lack a key.
    pub fn open(path: &Path) -> Result<Self> {
        let store = Checkpoint::open_gguf(path)?;
        let model = Model::plan(&store, &Options::default())?;
        let name = path.display().to_string();
        let fault = |problem| Error::Gguf { file: name.clone(), problem };
        let description = read_plan(&model.metadata, &model.tensors, &fault)?;
        if side::is_one(&model.metadata, model.tensors.iter().map(|tensor| tensor.name.as_str())) {
            let problem =
                "has only layers for multi-token prediction; the forward pass computes the model's own";
            return Err(Error::Unsupported(format!("{name}: {problem}")));
        }
        Ok(Self { description, model, store })
    }

    /// The weights, by tensor name.
    pub fn weights(&self) -> Weights<'_> {
        Weights::new(&self.store, &self.model.tensors[..])
    }
}

impl Description {
    /// Reads a description back from the metadata and the tensors of a plan.
    ///
    /// # Errors
    /// If the architecture has no description, or a key is missing.
    pub fn of_plan(metadata: &Metadata, tensors: &[TensorPlan]) -> Result<Self> {
        read_plan(metadata, tensors, &|problem| Error::Unsupported(format!("the plan: {problem}")))
    }
}

fn read_plan(
    metadata: &Metadata,
    tensors: &[TensorPlan],
    fault: &dyn Fn(String) -> Error,
) -> Result<Description> {
    let shapes: HashMap<&str, &[u64]> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape[..])).collect();
    read(&|key| metadata.get(key).cloned(), &|tensor| shapes.get(tensor).map(|shape| shape.to_vec()), fault)
}

fn read(
    value: &dyn Fn(&str) -> Option<Value>,
    shape: &dyn Fn(&str) -> Option<Vec<u64>>,
    fault: &dyn Fn(String) -> Error,
) -> Result<Description> {
    let arch = value("general.architecture");
    let arch = arch.as_ref().and_then(Value::as_str).unwrap_or_default();
    let Some(family) = FAMILIES.iter().find(|family| family.arch == arch) else {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.arch).collect();
        return Err(Error::Unsupported(format!(
            "the forward pass computes {} and not architecture \"{arch}\"",
            names.join(", ")
        )));
    };
    (family.read)(&Reader { arch: family.arch, value, shape, fault })
}
