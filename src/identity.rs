//! The identity of a work: named parts (version, recipe, options, source ...); equal identities give equal bytes. It
//! is kept with unfinished and finished files, so that neither is taken for another work's, and differences can be
//! named.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The parts by their names, which are those of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity(pub Vec<(String, String)>);

/// The name of the only file of a split that is made, among the parts of an identity.
pub const PART: &str = "--part";

impl Identity {
    /// An identity of these parts.
    pub fn new(parts: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        Self(parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// A digest of the work, whoever does it and whatever part of it: equal digests mean equal bytes of each file.
    pub fn work(&self) -> [u8; 32] {
        let parts: Vec<_> = self.0.iter().filter(|(name, _)| name != PART).collect();
        Sha256::digest(serde_json::to_vec(&parts).expect("pairs of strings are JSON")).into()
    }

    /// The differences between the unfinished work of this identity and the work that is wanted, as a message; None
    /// if there are none.
    pub fn differences(&self, wanted: &Self) -> Option<String> {
        self.differing(wanted).map(|differing| format!("the unfinished file is of other work: {differing}"))
    }

    /// The parts that differ, each with what it was and what is wanted now.
    pub fn differing(&self, wanted: &Self) -> Option<String> {
        let differ = wanted.0.iter().filter_map(|(name, now)| {
            let before = self.0.iter().find(|(other, _)| other == name).map_or("none", |(_, before)| before);
            (before != now).then(|| format!("{name} was {before}, now {now}"))
        });
        let differ: Vec<String> = differ.collect();
        (!differ.is_empty()).then(|| differ.join("; "))
    }
}

/// This program, as identities and manifests name it.
pub const TOOL: &str = concat!("quantpress ", env!("CARGO_PKG_VERSION"));

/// The ids of a text, as an identity has them.
pub fn of_tokens(tokens: &[u32]) -> String {
    let mut digest = Sha256::new();
    tokens.iter().for_each(|token| digest.update(token.to_le_bytes()));
    format!("{} of digest {}", tokens.len(), hex(&digest.finalize().into()))
}

/// A digest in hexadecimal.
pub fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(recipe: &str) -> Identity {
        Identity::new([("tool", "quantpress 1".to_owned()), ("recipe", recipe.to_owned())])
    }

    #[test]
    fn differences_are_named() {
        assert_eq!(identity("a").differences(&identity("a")), None);
        let problem = identity("a").differences(&identity("b")).expect("they differ");
        assert!(problem.ends_with(": recipe was a, now b"), "{problem}");
    }

    #[test]
    fn parts_are_of_the_same_work() {
        let part = |part: &str| {
            let mut identity = identity("a");
            identity.0.push((PART.into(), part.into()));
            identity.work()
        };
        assert_eq!(part("1/2"), part("all"));
        assert_ne!(part("all"), identity("b").work());
    }
}
