//! config.json by field, with errors that name the field.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// An object of config.json (or of a file like it).
#[derive(Clone, Debug)]
pub struct Config {
    /// File and path inside it, as messages name it: `config.json: rope_scaling.`
    place: String,
    fields: Map<String, Value>,
    /// Those of the fields that are in [`TEXT`].
    of_text: HashSet<String>,
}

/// Where a model that also sees images has what its text model is.
pub const TEXT: &str = "text_config";

impl Config {
    /// The configuration of a checkpoint that has no config.json.
    pub(super) fn empty() -> Self {
        Self::at("config.json: ".into(), Map::new())
    }

    fn at(place: String, fields: Map<String, Value>) -> Self {
        Self { place, fields, of_text: HashSet::new() }
    }

    /// The configuration of the text model, if it is a part of a larger one: its fields, and the whole's where it has
    /// none. The whole's name of its class and token ids count.
    pub(super) fn of_text(mut self) -> Self {
        let Some(Value::Object(inner)) = self.fields.get(TEXT).cloned() else { return self };
        for (field, value) in inner {
            let of_whole = field == "architectures" || (field.ends_with("_token_id") && self.has(&field));
            if !of_whole && !value.is_null() {
                self.of_text.insert(field.clone());
                self.fields.insert(field, value);
            }
        }
        self
    }

    /// Reads config.json.
    ///
    /// # Errors
    /// If it is not a JSON object.
    pub fn parse(json: &[u8]) -> Result<Self> {
        Self::parse_as("config.json", json)
    }

    /// Reads another file of the same kind: generation_config.json, tokenizer_config.json.
    ///
    /// # Errors
    /// If it is not a JSON object.
    pub fn parse_as(file: &str, json: &[u8]) -> Result<Self> {
        match serde_json::from_slice(json) {
            Ok(Value::Object(fields)) => Ok(Self::at(format!("{file}: "), fields)),
            Ok(_) => Err(Error::file(file, "expected a JSON object")),
            Err(e) => Err(Error::file(file, format!("is not valid JSON: {e}"))),
        }
    }

    /// The field; null counts as absent.
    ///
    /// # Errors
    /// If it is there, but of another type.
    pub fn find<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|e| {
                let problem = match expected(std::any::type_name::<T>()) {
                    Some(expected) => format!("is {value}; expected {expected}"),
                    None => format!("is {value}: {e}"),
                };
                self.fault(field, problem)
            }),
        }
    }

    /// The field's value as this type.
    ///
    /// # Errors
    /// If it is not there, or of another type.
    pub fn get<T: DeserializeOwned>(&self, field: &str) -> Result<T> {
        self.find(field)?.ok_or_else(|| self.fault(field, "is missing".into()))
    }

    /// A whole number from 1 to `most`.
    ///
    /// # Errors
    /// If it is missing or outside of that range.
    pub fn count(&self, field: &str, most: u32) -> Result<u32> {
        let value: Value = self.get(field)?;
        match value.as_u64() {
            Some(n) if (1..=u64::from(most)).contains(&n) => Ok(n as u32),
            _ => Err(self.fault(field, format!("is {value}; expected a whole number from 1 to {most}"))),
        }
    }

    /// [`count`](Self::count), or None where the field is absent.
    ///
    /// # Errors
    /// If it is there and outside of the range.
    pub fn find_count(&self, field: &str, most: u32) -> Result<Option<u32>> {
        if self.has(field) { self.count(field, most).map(Some) } else { Ok(None) }
    }

    /// A finite number above zero.
    ///
    /// # Errors
    /// If it is missing or not one.
    pub fn positive(&self, field: &str) -> Result<f32> {
        let value: Value = self.get(field)?;
        match value.as_f64().map(|x| x as f32) {
            Some(x) if x.is_finite() && x > 0.0 => Ok(x),
            _ => Err(self.fault(field, format!("is {value}; expected a positive number"))),
        }
    }

    /// The field as it is; null counts as absent.
    pub fn value(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Names of all fields that are not null.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    /// Whether the field is there, be it null.
    pub fn mentions(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// Whether the field is there and not null.
    pub fn has(&self, field: &str) -> bool {
        self.value(field).is_some()
    }

    /// An object inside this one.
    ///
    /// # Errors
    /// If it is missing or no object.
    pub fn object(&self, field: &str) -> Result<Self> {
        let fields = self.get(field)?;
        Ok(Self::at(format!("{}{field}.", self.place_of(field)), fields))
    }

    /// A sentence about a field: `config.json: rope_scaling.type is "llama3"`.
    pub fn says(&self, field: &str, text: &str) -> String {
        format!("{}{field} {text}", self.place_of(field))
    }

    /// File and path of the object that has the field.
    fn place_of(&self, field: &str) -> String {
        let inner = if self.of_text.contains(field) { format!("{TEXT}.") } else { String::new() };
        format!("{}{inner}", self.place)
    }

    /// An error about a field.
    pub fn fault(&self, field: &str, problem: String) -> Error {
        let place = self.place_of(field);
        let (file, path) = place.split_once(": ").unwrap_or((&place, ""));
        Error::file(file, format!("{path}{field} {problem}"))
    }
}

/// What a field of a type of Rust's is, in words.
fn expected(name: &str) -> Option<&'static str> {
    Some(match name.rsplit("::").next()? {
        "u16" | "u32" | "u64" | "usize" => "a whole number, not negative and not absurdly large",
        "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "bool" => "true or false",
        "String" => "a text",
        "String>" if name.contains("Vec<") => "a list of texts",
        _ if name.contains("Map<") => "an object",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_in_words_and_not_in_rusts() {
        let config = Config::parse(br#"{"list": [0, 1], "text": "x", "number": -1}"#).expect("an object");
        let said = |error: Error| error.to_string();
        for (found, words) in [
            (
                said(config.get::<u32>("list").expect_err("a list")),
                "config.json: list is [0,1]; expected a whole number",
            ),
            (said(config.get::<bool>("text").expect_err("a text")), "text is \"x\"; expected true or false"),
            (
                said(config.get::<u32>("number").expect_err("negative")),
                "number is -1; expected a whole number",
            ),
            (said(config.get::<String>("list").expect_err("a list")), "list is [0,1]; expected a text"),
            (said(config.get::<Vec<String>>("text").expect_err("a text")), "expected a list of texts"),
            (said(config.object("list").expect_err("a list")), "list is [0,1]; expected an object"),
        ] {
            assert!(found.contains(words), "{found}");
        }
    }

    #[test]
    fn a_text_models_fields_go_before_the_wholes() {
        let json = br#"{"architectures": ["A"], "tie": true, "eps": 1, "eos_token_id": 5, "text_config": {
            "architectures": ["B"], "tie": false, "eps": null, "eos_token_id": 6, "bos_token_id": 7, "rope": {"x": 1}}}"#;
        let config = Config::parse(json).expect("an object").of_text();
        assert_eq!(config.get::<Vec<String>>("architectures").expect("a list"), ["A"]);
        assert!(!config.get::<bool>("tie").expect("a flag"));
        let number = |field: &str| config.get::<u32>(field).expect("a number");
        assert_eq!([number("eps"), number("eos_token_id"), number("bos_token_id")], [1, 5, 7]);
        assert_eq!(config.says("tie", "is"), "config.json: text_config.tie is");
        assert_eq!(config.says("eps", "is"), "config.json: eps is");
        let rope = config.object("rope").expect("an object");
        assert_eq!(rope.says("x", "is"), "config.json: text_config.rope.x is");
        assert!(config.fault("tie", "is".into()).to_string().contains("config.json: text_config.tie is"));
    }
}
