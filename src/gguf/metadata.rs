//! GGUF metadata as data: keys in order, each with a value of an exact type.

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

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }
}
