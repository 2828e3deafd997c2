//! `model.safetensors.index.json`: which shard holds which tensor. Pure: bytes in, map out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Component, Path};
use std::sync::Arc;

use serde::Deserialize;

use super::pairs::Pairs;
use crate::error::{Error, Result};

/// The index file's name.
pub const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Index<'a> {
    #[serde(borrow)]
    weight_map: Pairs<Text<'a>>,
}

/// A text that lies in the file, unless it has escapes there.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// What an index says. The largest have hundreds of thousands of names, in a hundred shards.
#[derive(Debug)]
pub struct Listed {
    /// Tensor name to shard file.
    pub tensors: HashMap<String, Arc<str>>,
    /// The shards by name.
    pub shards: Vec<String>,
}

/// Reads it.
///
/// # Errors
/// For JSON that is no index, a tensor listed twice, and a shard outside of the checkpoint's folder.
pub fn parse(json: &[u8]) -> Result<Listed> {
    let index: Index = serde_json::from_slice(json)
        .map_err(|e| Error::file(INDEX, format!("expected an object with \"weight_map\": {e}")))?;
    let mut tensors = HashMap::with_capacity(index.weight_map.0.len());
    let mut files: HashMap<Cow<str>, Arc<str>> = HashMap::new();
    for (tensor, Text(shard)) in index.weight_map.0 {
        let file = match files.get(&shard) {
            Some(file) => Arc::clone(file),
            None if is_plain_name(&shard) => {
                let file: Arc<str> = (&*shard).into();
                files.insert(shard, Arc::clone(&file));
                file
            }
            None => {
                return Err(Error::tensor(
                    INDEX,
                    &tensor,
                    format!(
                        "is said to be in \"{shard}\", which is not a file name in the checkpoint's folder"
                    ),
                ));
            }
        };
        match tensors.entry(tensor) {
            Entry::Vacant(place) => {
                place.insert(file);
            }
            Entry::Occupied(first) => {
                let problem = format!("is listed twice, first in {}", first.get());
                return Err(Error::tensor(INDEX, first.key(), problem));
            }
        }
    }
    let mut shards: Vec<String> = files.into_keys().map(Cow::into_owned).collect();
    shards.sort_unstable();
    Ok(Listed { tensors, shards })
}

/// Longer names are refused by file systems.
const MAX_NAME: usize = 255;

fn is_plain_name(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    file.len() <= MAX_NAME
        && matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == file)
        && !file.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_outside_of_the_folder_are_refused() {
        for shard in ["../a.safetensors", "/etc/passwd", "a/b.safetensors", "a\\\\b", "", ".", ".."] {
            let json = format!("{{\"weight_map\": {{\"w\": \"{shard}\"}}}}");
            let error = parse(json.as_bytes()).expect_err(shard).to_string();
            assert!(error.contains("tensor \"w\"") && error.contains("not a file name"), "{error}");
        }
    }

    #[test]
    fn a_tensor_listed_twice_is_refused() {
        let error = parse(br#"{"weight_map": {"w": "a", "w": "b"}}"#).expect_err("twice").to_string();
        assert!(error.contains("listed twice, first in a"), "{error}");
    }
}
