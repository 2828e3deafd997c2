//! Size and version of each shard (its time of change, or what a hub says), as they were at some moment. A fingerprint
//! reads few of the weights; comparing these shows whether any of the others may have been written since, and costs
//! nothing. It proves nothing: a copied shard has another time as well.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::Checkpoint;
use crate::error::{Error, Result, Warning};

/// A digest of size and version for each shard, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen(BTreeMap<String, String>);

impl Seen {
    /// The shards of a checkpoint as they are now.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let source = checkpoint.source();
        let one = |file: &str| {
            let io = |e| Error::io("read", source.path(file), e);
            let bytes = source.size(file).map_err(io)?;
            let version = source.version(file).map_err(io)?.unwrap_or_else(|| "0".to_owned());
            let seen = XxHash3_64::oneshot(format!("{bytes} {version}").as_bytes());
            Ok((file.to_owned(), format!("{seen:016x}")))
        };
        checkpoint.shards().iter().map(|shard| one(&shard.file)).collect::<Result<_>>().map(Self)
    }

    /// The shards that are not those that they were, or were not there.
    pub fn others<'a>(&self, now: &'a Self) -> BTreeSet<&'a str> {
        let other = |(file, seen): &(&String, &String)| self.0.get(*file) != Some(*seen);
        now.0.iter().filter(other).map(|(file, _)| file.as_str()).collect()
    }

    /// Whether these are all shards, as in a copy of the checkpoint.
    pub fn are_all(&self, others: &BTreeSet<&str>) -> bool {
        others.len() == self.0.len()
    }

    /// A warning, if some have changed: `since` says since when, `advice` what to do.
    pub fn changed(&self, now: &Self, since: &str, advice: &str) -> Option<Warning> {
        let others = self.others(now);
        let first = others.first()?;
        let more = match others.len() {
            1 => String::new(),
            others => format!(" (and {} more of {} shards)", others - 1, now.0.len()),
        };
        let problem = format!(
            "was written, copied or replaced since {since}{more}; the configuration and a sample of the weights are as they \
             were, but others may differ: {advice}"
        );
        Some(Warning::new(Error::file(first, problem)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(shards: &[(&str, &str)]) -> Seen {
        Seen(shards.iter().map(|(file, seen)| ((*file).to_owned(), (*seen).to_owned())).collect())
    }

    #[test]
    fn the_first_changed_shard_is_named_and_the_others_counted() {
        let before = seen(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert!(before.changed(&before.clone(), "then", "").is_none());
        let one =
            before.changed(&seen(&[("a", "1"), ("b", "9"), ("c", "3")]), "then", "look").expect("changed");
        let said = one.to_string();
        assert!(
            said.starts_with("b: was written") && said.contains("since then;") && said.ends_with("look"),
            "{said}"
        );
        let all = before.changed(&seen(&[("d", "1"), ("b", "9"), ("c", "3")]), "then", "").expect("changed");
        assert!(
            all.to_string()
                .contains("b: was written, copied or replaced since then (and 1 more of 3 shards)")
        );
    }
}
