//! The fingerprint of a checkpoint's content: digests that are equal for equal content, wherever it lies and however
//! it is divided into shards. Quick, since only a sample of the weights is read.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{
    CHAT_TEMPLATE, CHAT_TEMPLATES, Checkpoint, GENERATION_CONFIG, HF_QUANT_CONFIG, MAX_JSON, by_name, exists,
    read_file,
};
use crate::chance::number;
use crate::error::{Error, Result};

/// Samples of the weights, spread over all of them.
const SAMPLES: u64 = 1024;

/// Bytes of a sample, less where its tensor ends before.
const SAMPLE: u64 = 4096;

/// Files whose content goes into the GGUF file's metadata.
const SETTINGS: [&str; 11] = [
    "config.json",
    GENERATION_CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "tiktoken.model",
    CHAT_TEMPLATE,
    // Those that came later stand behind, so that the digest of a checkpoint without them stays what it was.
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    HF_QUANT_CONFIG,
    "tokenizer.model",
];

/// SHA-256 digests in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// config.json, the tokenizer and whatever else is carried over.
    pub settings: String,
    /// Names, dtypes and shapes of all tensors.
    pub tensors: String,
    /// 1024 samples of 4 KiB of the weights; empty without a look at them.
    pub sample: String,
}

impl Fingerprint {
    /// Reads what the digests need.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let mut found = Self::unsampled(checkpoint)?;
        let mut list: Vec<_> = checkpoint.tensors().collect();
        by_name(&mut list);
        let mut sampled = Vec::new();
        let total = list.iter().map(|tensor| tensor.bytes).sum();
        let (mut next, mut first) = (0, 0);
        for place in places(total) {
            // The tensor in which the place lies: places ascend, so the search goes on where it stopped.
            while place >= first + list[next].bytes {
                first += list[next].bytes;
                next += 1;
            }
            let offset = place - first;
            sampled.push((list[next], offset, SAMPLE.min(list[next].bytes - offset)));
        }
        let mut sample = Sha256::new();
        for bytes in checkpoint.read_all(&sampled)? {
            sample.update(bytes);
        }
        found.sample = text(sample);
        Ok(found)
    }

    /// The same without a look at the weights, for a plan of what is far away: the sample is empty, and so the fingerprint is that of
    /// no file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn unsampled(checkpoint: &Checkpoint) -> Result<Self> {
        let mut settings = Sha256::new();
        if let Some(metadata) = checkpoint.metadata() {
            // However it is split.
            for (key, value) in metadata.iter().filter(|(key, _)| !key.starts_with("split.")) {
                let mut bytes = Vec::new();
                value.write(&mut bytes);
                settings.update(format!("{key:?} {}\n", bytes.len()));
                settings.update(bytes);
            }
            return Ok(Self::with_settings(checkpoint, settings));
        }
        let source = checkpoint.source();
        let more =
            source.files(CHAT_TEMPLATES).map_err(|e| Error::io("list", source.path(CHAT_TEMPLATES), e))?;
        let more = more.into_iter().map(|file| format!("{CHAT_TEMPLATES}/{file}"));
        for file in SETTINGS.map(str::to_owned).into_iter().chain(more) {
            if exists(source, &file)? {
                let bytes = read_file(source, &file, MAX_JSON)?;
                // Lengths keep one file's end apart from the next one's beginning.
                settings.update(format!("{file} {}\n", bytes.len()));
                settings.update(bytes);
            }
        }

        Ok(Self::with_settings(checkpoint, settings))
    }

    /// The digest of the tensors beside that of the settings.
    fn with_settings(checkpoint: &Checkpoint, settings: Sha256) -> Self {
        let mut list: Vec<_> = checkpoint.tensors().collect();
        by_name(&mut list);
        let mut tensors = Sha256::new();
        let mut line = String::new();
        for tensor in &list {
            line.clear();
            let _ = writeln!(line, "{:?} {:?} {:?}", tensor.name, tensor.dtype, tensor.shape);
            tensors.update(&line);
        }
        Self { settings: text(settings), tensors: text(tensors), sample: String::new() }
    }

    /// The parts of a work's identity that come from the checkpoint.
    pub fn parts(&self) -> [(&'static str, String); 3] {
        [
            ("the checkpoint's configuration and tokenizer", self.settings.clone()),
            ("the checkpoint's list of tensors", self.tensors.clone()),
            ("the checkpoint's weights, as sampled", self.sample.clone()),
        ]
    }

    /// All of it as one digest.
    pub fn sha256(&self) -> String {
        hex(format!("{}\n{}\n{}\n", self.settings, self.tensors, self.sample).as_bytes())
    }
}

/// SHA-256 of bytes, in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    text(Sha256::new_with_prefix(bytes))
}

fn text(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Ascending places in `total` bytes: one in each of 1024 equal parts, anywhere in it, always the same.
fn places(total: u64) -> impl Iterator<Item = u64> {
    let part = move |index: u64| (u128::from(total) * u128::from(index) / u128::from(SAMPLES)) as u64;
    (0..SAMPLES).filter_map(move |index| {
        let (start, end) = (part(index), part(index + 1));
        (end > start).then(|| start + number(index) % (end - start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_ascend_and_spread_over_all_bytes() {
        for total in [1, 1000, 36_000_000, 688_574_839_360] {
            let found: Vec<u64> = places(total).collect();
            assert!(found.is_sorted_by(|a, b| a < b) && found.iter().all(|&place| place < total), "{total}");
            assert_eq!(found.len() as u64, total.min(SAMPLES), "{total}");
        }
        assert_eq!(places(0).count(), 0);
        // SplitMix64 from seed 0.
        assert_eq!(number(0), 0xe220_a839_7b1d_cdaf);
    }
}
