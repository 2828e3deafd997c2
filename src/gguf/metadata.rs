//! GGUF metadata as data: keys in order, each with a value of an exact type.

use std::ops::Index;

use serde::Serialize;
use serde::ser::Serializer;

use super::Value;

/// Keys and values in the order in which they are written.
#[derive(Clone, Debug, Default)]
pub struct Metadata(Vec<(String, Value)>);

impl Metadata {
    /// Adds a key, or replaces its value in place.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = value,
            None => self.0.push((key, value)),
        }
    }

    /// Adds a key that is not there yet.
    pub(super) fn push(&mut self, key: String, value: Value) {
        self.0.push((key, value));
    }

    /// Takes out the keys that this holds of.
    pub fn remove(&mut self, of: impl Fn(&str) -> bool) {
        self.0.retain(|(key, _)| !of(key));
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }
}

impl Serialize for Metadata {
    /// As an object, its keys in order.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Index<&str> for Metadata {
    type Output = Value;

    /// # Panics
    /// If there is no such key.
    fn index(&self, key: &str) -> &Value {
        self.get(key).unwrap_or_else(|| panic!("there is no key {key}"))
    }
}
