//! What chooses the tokens that are attended to, by config.json (DeepSeek V3.2, GLM-5).

use super::fields::IndexerOf;
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::model::keys::{MAX_HEAD, MAX_HEADS, Reader, Writer};
use crate::model::layer::{Attention, Indexer};
use crate::model::{Description, Layer};

/// The parts of the names of its tensors.
pub const PART: &str = "self_attn.indexer.";

/// The first half of the names of its keys.
const KEYS: [&str; 3] =
    ["attention.indexer.head_count", "attention.indexer.key_length", "attention.indexer.top_k"];
const TYPES: &str = "attention.indexer.types";

/// GGUF's architecture whose layers may share a choice.
const SHARED: &str = "glm-dsa";

/// The indexer of each of `layers`, and then of those of `mtp` for multi-token prediction.
///
/// # Errors
/// If a field is absurd, or a layer is to take a choice that none before it has made.
pub fn read(config: &Config, of: &IndexerOf, [layers, mtp]: [u32; 2], rotated: u32) -> Result<Vec<Indexer>> {
    let count = |field: &str, most, usual| Ok::<_, Error>(config.find_count(field, most)?.unwrap_or(usual));
    let width = count("index_head_dim", MAX_HEAD, of.width)?;
    if width < rotated || !width.is_power_of_two() {
        let problem = format!("is {width}; expected a power of two from {rotated}, qk_rope_head_dim, on");
        return Err(config.fault("index_head_dim", problem));
    }
    let one = Indexer {
        heads: count("index_n_heads", MAX_HEADS, of.heads)?,
        width,
        chosen: count("index_topk", u32::MAX, of.chosen)?,
        own: true,
    };
    let kinds: Vec<String> = config.find("layer_types")?.unwrap_or_default();
    if let Some(kind) = kinds.iter().find(|kind| *kind != "indexed_attention") {
        let problem = format!("has \"{kind}\"; only \"indexed_attention\" has a GGUF form");
        return Err(Error::Unsupported(config.says("layer_types", &problem)));
    }
    let own = if of.shared { own(config, [layers, mtp])? } else { Vec::new() };
    // Layers of which nothing is said choose for themselves.
    let own = own.into_iter().chain(std::iter::repeat(true)).take((layers + mtp) as usize);
    Ok(own.map(|own| Indexer { own, ..one.clone() }).collect())
}

/// Which layers choose for themselves: by a list, by a pattern of letters, or every so many from one on. The first two may
/// have an entry for each layer for multi-token prediction, too.
fn own(config: &Config, [layers, mtp]: [u32; 2]) -> Result<Vec<bool>> {
    const LIST: &str = "indexer_types";
    const PATTERN: &str = "index_topk_pattern";
    let pattern = config.value(PATTERN).and_then(|value| value.as_str());
    let letters = |letters: &str| letters.chars().map(String::from).collect();
    let (field, names): (&str, Vec<String>) = match (config.find(LIST)?, pattern) {
        (Some(list), _) => (LIST, list),
        (None, Some(pattern)) => (PATTERN, letters(pattern)),
        (None, None) if config.has(PATTERN) => (PATTERN, config.get(PATTERN)?),
        (None, None) => {
            let every = config.find_count("index_topk_freq", u32::MAX)?.unwrap_or(1).max(1);
            let from: u32 = config.find("index_skip_topk_offset")?.unwrap_or(2);
            let chooses = |layer: u32| (layer + 1).saturating_sub(from).is_multiple_of(every);
            return Ok((0..layers).map(chooses).collect());
        }
    };
    let unknown = |name: &str| {
        let problem = format!("has \"{name}\"; known are \"full\" (F) and \"shared\" (S)");
        Error::Unsupported(config.says(field, &problem))
    };
    let chooses = |name: &String| match name.as_str() {
        "full" | "F" => Ok(true),
        "shared" | "S" => Ok(false),
        other => Err(unknown(other)),
    };
    let own: Vec<bool> = names.iter().map(chooses).collect::<Result<_>>()?;
    if ![layers, layers + mtp].contains(&(own.len() as u32)) {
        return Err(config.fault(field, format!("names {} layers, but there are {layers}", own.len())));
    }
    if own.first() == Some(&false) {
        let problem = "lets the first layer take the choice of one before it".to_owned();
        return Err(config.fault(field, problem));
    }
    Ok(own)
}

fn of(layer: &Layer) -> Option<&Indexer> {
    match &layer.attention {
        Attention::Latent(latent) => latent.indexer.as_ref(),
        _ => None,
    }
}

/// Writes its keys, if the model has one.
pub fn write(model: &Description, keys: &mut Writer) {
    let Some(indexer) = model.layers.first().and_then(of) else { return };
    for (key, number) in KEYS.into_iter().zip([indexer.heads, indexer.width, indexer.chosen]) {
        keys.count(key, number);
    }
    if model.arch == SHARED {
        // Of the layers alone: llama.cpp does not ask it of those for multi-token prediction.
        let own = model.layers.iter().filter_map(of).map(|indexer| indexer.own).collect();
        keys.set(TYPES, Value::Bools(own));
    }
}

/// The indexer of any layer, of an architecture that has one.
///
/// # Errors
/// If a key is missing.
pub fn read_back(keys: &Reader) -> Result<Indexer> {
    let [heads, width, chosen] = KEYS;
    Ok(Indexer {
        heads: keys.count(heads, MAX_HEADS)?,
        width: keys.count(width, MAX_HEAD)?,
        chosen: keys.count(chosen, u32::MAX)?,
        own: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> Result<String> {
        let config = Config::parse(json.as_bytes()).expect("an object");
        own(&config, [8, 1]).map(|own| own.into_iter().map(|own| if own { 'F' } else { 'S' }).collect())
    }

    #[test]
    fn layers_that_choose_are_named_in_three_ways() {
        for (json, expected) in [
            ("{}", "FFFFFFFF"),
            // GLM-5.2's: 0, 1, 2, 6, 10, ...
            (r#"{"index_topk_freq": 4, "index_skip_topk_offset": 3}"#, "FFFSSSFS"),
            (r#"{"index_topk_pattern": "FSFSSSSS", "index_topk_freq": 4}"#, "FSFSSSSS"),
            (r#"{"index_topk_pattern": "FSFSSSSSF"}"#, "FSFSSSSSF"),
            (
                r#"{"indexer_types": ["full", "full", "shared", "shared", "full", "full", "full", "full"]}"#,
                "FFSSFFFF",
            ),
        ] {
            assert_eq!(found(json).expect(json), expected, "{json}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (json, words) in [
            (r#"{"index_topk_pattern": "FFFF"}"#, "names 4 layers, but there are 8"),
            (r#"{"index_topk_pattern": "FFFFFFFFFF"}"#, "names 10 layers, but there are 8"),
            (r#"{"index_topk_pattern": "SFFFFFFF"}"#, "lets the first layer take"),
            (r#"{"index_topk_pattern": "FXFFFFFF"}"#, "has \"X\"; known are"),
        ] {
            let error = found(json).expect_err(json).to_string();
            assert!(error.contains("index_topk_pattern") && error.contains(words), "{error}");
        }
    }
}
