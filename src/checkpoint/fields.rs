//! How the fields of a JSON object of settings are treated: read, without effect, or allowed one value only, because
//! GGUF can express no other. A field on no list is a warning, since it may change what the model computes, and an error
//! where it may change what stored numbers mean. The lists are tables beside the code that reads the object.

use serde_json::{Value, json};

use super::Config;
use crate::error::{Error, Result, Warning};

/// A field's name and how it is treated.
pub type Field = (&'static str, Treatment);

/// How a field is treated.
#[derive(Clone, Copy, Debug)]
pub enum Treatment {
    /// Its value goes into the file or decides something there, and is checked where that happens.
    Read,
    /// It does not change what the model computes, for this reason, which is for readers of the tables.
    Ignored(#[allow(dead_code)] &'static str),
    /// Only this value, in JSON, has a GGUF form.
    Only(&'static str),
    /// It has no GGUF form at all.
    Refused,
}

/// Goes through the fields of an object: what is on no list is a warning.
///
/// # Errors
/// If a field has a value that no GGUF file can say.
pub fn check(config: &Config, lists: &[&[Field]]) -> Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    for name in config.names() {
        let value = config.value(name).unwrap_or(&Value::Null);
        // The library's own notes begin with an underscore.
        if name.starts_with('_') {
            continue;
        }
        let known = lists.iter().find_map(|list| list.iter().find(|(field, _)| *field == name));
        match known.map(|(_, treatment)| *treatment) {
            Some(Treatment::Read | Treatment::Ignored(_)) => {}
            Some(Treatment::Only(only)) if same(value, only) => {}
            Some(Treatment::Only(only)) => {
                let problem = format!("is {}; only {only} has a GGUF form", short(value));
                return Err(Error::Unsupported(config.says(name, &problem)));
            }
            Some(Treatment::Refused) => {
                let problem = format!("is {}, which has no GGUF form", short(value));
                return Err(Error::Unsupported(config.says(name, &problem)));
            }
            None => {
                let problem = format!(
                    "is {}, and the field is not known here: if it changes what the model computes, the file will be wrong",
                    short(value)
                );
                warnings.push(Warning::new(Error::Unsupported(config.says(name, &problem))));
            }
        }
    }
    Ok(warnings)
}

/// The same of an object that says how weights are stored, where what is not known would make wrong weights: a field on no
/// list is an error, unless its value says that there is nothing.
///
/// # Errors
/// As [`check`], and for such a field.
pub fn check_all(config: &Config, lists: &[&[Field]]) -> Result<()> {
    check(config, lists)?;
    let is_known = |name: &str| {
        name.starts_with('_') || lists.iter().any(|list| list.iter().any(|(field, _)| *field == name))
    };
    let idle = [json!(null), json!(false), json!(0), json!(""), json!([]), json!({})];
    for name in config.names().filter(|name| !is_known(name)) {
        let value = config.value(name).unwrap_or(&Value::Null);
        if !idle.contains(value) {
            let problem = format!(
                "is {}, and the field is not known here: it may change what the stored numbers mean. Without it in \
                 config.json the tensors are read as what the other fields say",
                short(value)
            );
            return Err(Error::Unsupported(config.says(name, &problem)));
        }
    }
    Ok(())
}

fn same(value: &Value, only: &str) -> bool {
    let only: Value = serde_json::from_str(only).expect("the tables hold JSON");
    match (value.as_f64(), only.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => *value == only,
    }
}

/// A value as a message has room for.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_warnings_and_wrong_ones_errors() {
        let list: &[Field] =
            &[("a", Treatment::Read), ("b", Treatment::Only("1")), ("c", Treatment::Refused)];
        let check = |json: &str| {
            let config = Config::parse(json.as_bytes()).expect("an object");
            check(&config, &[list])
                .map(|warnings| warnings.iter().map(Warning::to_string).collect::<Vec<_>>())
        };
        assert_eq!(check(r#"{"a": 5, "b": 1.0, "c": null, "d": null, "_e": 1}"#).expect("sound").len(), 0);
        let warnings = check(r#"{"d": [1]}"#).expect("a warning");
        assert!(warnings[0].contains("config.json: d is [1], and the field is not known"), "{warnings:?}");
        for (json, words) in
            [(r#"{"b": 2}"#, "config.json: b is 2; only 1"), (r#"{"c": 0}"#, "c is 0, which has no")]
        {
            let error = check(json).expect_err(json);
            assert!(error.to_string().contains(words) && error.exit_code() == 4, "{error}");
        }
    }
}
