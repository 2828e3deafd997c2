//! A file of the layers for multi-token prediction alone, beside that of the model: llama.cpp drafts with it. It has the
//! model's metadata, embedding, final norm and head, and no other layers; llama.cpp knows it by their absence.

use super::TensorPlan;
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};

/// The key of such a file of ours, so that a part of a split says it too.
pub const KEY: &str = "quantpress.mtp_only";

/// Leaves the tensors that are in it, of a model whose first `layers` are its own.
pub fn keep(tensors: &mut Vec<TensorPlan>, layers: u32) {
    tensors.retain(|tensor| tensor.layer.is_none_or(|layer| layer >= layers));
}

/// Says that a file is one.
pub fn mark(metadata: &mut Metadata) {
    metadata.set(KEY, Value::Bool(true));
}

/// The number of layers that are the model's own, of a GGUF file with `blocks` of both kinds.
///
/// # Errors
/// If there are none for multi-token prediction.
pub fn own_layers(metadata: &Metadata, blocks: u32, tensors: &[TensorPlan]) -> Result<u32> {
    let more = metadata.iter().find(|(key, _)| key.ends_with(".nextn_predict_layers"));
    let more = more.and_then(|(_, value)| value.first_integer()).unwrap_or(0);
    let own = u32::try_from(more).ok().and_then(|more| blocks.checked_sub(more));
    let is_there = |own: &u32| tensors.iter().any(|tensor| tensor.layer.is_some_and(|layer| layer >= *own));
    own.filter(|own| *own < blocks).filter(is_there).ok_or_else(|| {
        Error::Argument("--mtp-only: the file has no layers for multi-token prediction".to_owned())
    })
}

/// Whether tensors are those of such a file: llama.cpp asks for the first layer's.
pub fn is_one<'a>(metadata: &Metadata, mut tensors: impl Iterator<Item = &'a str>) -> bool {
    let predicts = metadata.iter().any(|(key, value)| {
        key.ends_with(".nextn_predict_layers") && value.first_integer().is_some_and(|layers| layers > 0)
    });
    predicts && !tensors.any(|name| name.starts_with("blk.0."))
}
