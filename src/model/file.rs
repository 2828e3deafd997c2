//! A model in a GGUF file: what its metadata describe, and its tensors with the parts that they play.

use std::collections::HashMap;
use std::path::Path;

use super::arch::FAMILIES;
use super::keys::Reader;
use super::{Description, TensorPlan, Weights};
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};
use crate::store::GgufStore;

/// A GGUF file, whole or split, of an architecture that has a description.
#[derive(Debug)]
pub struct ModelFile {
    /// What it is.
    pub description: Description,
    /// Its tensors, as far as the description has them.
    pub tensors: Vec<TensorPlan>,
    store: GgufStore,
}

impl ModelFile {
    /// Reads the headers of the file, or of all files of its split.
    ///
    /// # Errors
    /// If they cannot be read, the architecture has no description, or metadata lack a key.
    pub fn open(path: &Path) -> Result<Self> {
        let store = GgufStore::open(path)?;
        let parts = store.parts();
        let shapes: HashMap<&str, &[u64]> =
            parts.tensors().map(|(_, entry)| (entry.name.as_str(), &entry.shape[..])).collect();
        let name = parts.files[0].path.display().to_string();
        let description = read(
            &|key| parts.metadata().get(key).cloned(),
            &|tensor| shapes.get(tensor).map(|shape| shape.to_vec()),
            &|problem| Error::Gguf { file: name.clone(), problem },
        )?;
        let tensor = |(order, (layer, spec)): (usize, (Option<u32>, super::Spec))| {
            let name = spec.full_name(layer);
            let shape = shapes.get(name.as_str())?.to_vec();
            Some(TensorPlan::stored(name, layer, spec.role, super::Part { order, ..spec.part }, shape))
        };
        let tensors = description.specs().enumerate().filter_map(tensor).collect();
        Ok(Self { description, tensors, store })
    }

    /// Its weights.
    pub fn weights(&self) -> Weights<'_> {
        Weights::new(&self.store, &self.tensors[..])
    }

    /// Its files.
    pub fn store(&self) -> &GgufStore {
        &self.store
    }
}

impl Description {
    /// Reads a description back from the metadata and the tensors of a plan.
    ///
    /// # Errors
    /// If the architecture has no description, or a key is missing.
    pub fn of_plan(metadata: &Metadata, tensors: &[TensorPlan]) -> Result<Self> {
        let shapes: HashMap<&str, &[u64]> =
            tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape[..])).collect();
        read(
            &|key| metadata.get(key).cloned(),
            &|tensor| shapes.get(tensor).map(|shape| shape.to_vec()),
            &|problem| Error::Unsupported(format!("the plan: {problem}")),
        )
    }
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
