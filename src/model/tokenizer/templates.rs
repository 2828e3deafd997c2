//! Chat templates: from files of their own, else from tokenizer_config.json, else from chat_template.json.

use serde_json::Value;

use crate::checkpoint::{CHAT_TEMPLATE, CHAT_TEMPLATES, Checkpoint, Config, MAX_JSON, exists, read_file};
use crate::error::{Error, Result};

/// A processor's file, of old.
const JSON: &str = "chat_template.json";

const FIELD: &str = "chat_template";

/// The name of the usual one.
pub const DEFAULT: &str = "default";

/// More chat templates are refused; models have up to three.
const MAX_TEMPLATES: usize = 100;

/// Templates by name. A file goes before a field of the same name.
///
/// # Errors
/// If one is no text, or there are absurdly many.
pub fn read(checkpoint: &Checkpoint, config: &Config) -> Result<Vec<(String, String)>> {
    let source = checkpoint.source();
    let mut templates = Vec::new();
    if exists(source, CHAT_TEMPLATE)? {
        templates.push((DEFAULT.to_owned(), text(checkpoint, CHAT_TEMPLATE)?));
    }
    let more = source.files(CHAT_TEMPLATES).map_err(|e| Error::io("list", source.path(CHAT_TEMPLATES), e))?;
    let more: Vec<&str> = more.iter().filter_map(|file| file.strip_suffix(".jinja")).collect();
    if more.len() > MAX_TEMPLATES {
        return Err(Error::file(CHAT_TEMPLATES, many(more.len())));
    }
    for name in more {
        templates.push((name.to_owned(), text(checkpoint, &format!("{CHAT_TEMPLATES}/{name}.jinja"))?));
    }
    let mut fields = in_config(config)?;
    if fields.is_empty()
        && let Some(json) = checkpoint.optional_config(JSON)?
    {
        fields = in_config(&json)?;
    }
    for (name, template) in fields {
        if !templates.iter().any(|(other, _)| *other == name) {
            templates.push((name, template));
        }
    }
    Ok(templates)
}

/// The other files that may have one, for messages.
pub fn files() -> String {
    format!("{CHAT_TEMPLATE}, {CHAT_TEMPLATES} and {JSON}")
}

fn many(count: usize) -> String {
    format!("lists {count} templates; at most {MAX_TEMPLATES} are expected")
}

fn text(checkpoint: &Checkpoint, file: &str) -> Result<String> {
    String::from_utf8(read_file(checkpoint.source(), file, MAX_JSON)?)
        .map_err(|e| Error::file(file, format!("is not UTF-8: {e}")))
}

/// The templates of `chat_template`: a text, or a list of names and texts.
fn in_config(config: &Config) -> Result<Vec<(String, String)>> {
    let wrong = |what: &str| {
        let problem =
            format!("{what}; expected a template's text, or a list of objects with name and template");
        Err(config.fault(FIELD, problem))
    };
    match config.value(FIELD) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![(DEFAULT.to_owned(), text.clone())]),
        Some(Value::Array(list)) if list.len() > MAX_TEMPLATES => Err(config.fault(FIELD, many(list.len()))),
        Some(Value::Array(list)) => {
            let mut templates: Vec<(String, String)> = Vec::new();
            for (index, entry) in list.iter().enumerate() {
                let part = |field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
                let (Some(name), Some(template)) = (part("name"), part("template")) else {
                    return wrong(&format!("has an entry {index} without a name or a template"));
                };
                if templates.iter().any(|(other, _)| *other == name) {
                    return Err(config.fault(FIELD, format!("has two templates with the name {name:?}")));
                }
                templates.push((name, template));
            }
            Ok(templates)
        }
        Some(Value::Object(_)) => wrong("is an object"),
        Some(other) => wrong(&format!("is {other}")),
    }
}
