//! What the model card of a checkpoint says of the model, as metadata: licence, authors, tags, languages, the models and
//! datasets behind it. The card is README.md; the facts stand at its beginning, as YAML between two lines of hyphens.

use serde_json::{Map, Value as Yaml};

use crate::checkpoint::{Checkpoint, MAX_JSON, exists, read_file};
use crate::error::{Error, Result, Warning};
use crate::gguf::{Metadata, Value};

const FILE: &str = "README.md";

const HUB: &str = "https://huggingface.co/";

/// GGUF's keys of a text, and the card's keys for it, of which the first that is there counts: the hub's, and those that
/// llama.cpp's converter knows besides. A list becomes one text with commas.
const TEXTS: [(&str, &[&str]); 14] = [
    ("general.name", &["name", "model_name"]),
    ("general.author", &["author", "model_author", "model_creator"]),
    ("general.version", &["version", "model_version"]),
    ("general.organization", &["organization", "model_organization"]),
    ("general.finetune", &["finetune", "model_finetune"]),
    ("general.basename", &["basename", "model_basename", "model_type"]),
    ("general.description", &["description", "model_description"]),
    ("general.license", &["license"]),
    ("general.license.name", &["license_name"]),
    ("general.license.link", &["license_link"]),
    ("general.source.url", &["url", "model_url"]),
    ("general.source.doi", &["doi", "model_doi"]),
    ("general.source.uuid", &["uuid", "model_uuid"]),
    ("general.source.repo_url", &["repo_url", "model_repo_url"]),
];

/// Lists of names, and the card's keys for them, which are joined.
const LISTS: [(&str, &[&str]); 2] =
    [("general.tags", &["tags", "pipeline_tag"]), ("general.languages", &["languages", "language"])];

/// Other repositories, and the card's keys for them.
const REPOSITORIES: [(&str, &[&str]); 2] = [
    ("general.base_model", &["base_model", "base_models", "base_model_sources"]),
    ("general.dataset", &["datasets", "dataset", "dataset_sources"]),
];

/// Writes what the card says, if there is one. What cannot be read of it is no obstacle, and brings a warning.
///
/// # Errors
/// If the system cannot read it.
pub fn describe(checkpoint: &Checkpoint, metadata: &mut Metadata) -> Result<Option<Warning>> {
    let source = checkpoint.source();
    if !exists(source, FILE)? {
        return Ok(None);
    }
    let problem = match read_file(source, FILE, MAX_JSON) {
        Ok(bytes) => match facts(&bytes) {
            Ok(facts) => {
                write(&facts, metadata);
                return Ok(None);
            }
            Err(problem) => Error::file(FILE, problem),
        },
        Err(error @ Error::Io { .. }) => return Err(error),
        Err(error) => error,
    };
    Ok(Some(Warning::new(problem)))
}

/// The facts at the beginning of a card; none, if it begins otherwise.
fn facts(card: &[u8]) -> Result<Map<String, Yaml>, String> {
    let card = card.strip_prefix(b"\xef\xbb\xbf").unwrap_or(card);
    let text = std::str::from_utf8(card).map_err(|_| "is not UTF-8".to_owned())?;
    let mut lines = text.split_inclusive('\n');
    let is_border = |line: &str| line.trim_end() == "---";
    if !lines.next().is_some_and(is_border) {
        return Ok(Map::new());
    }
    let mut yaml = String::new();
    let mut ends = false;
    for line in lines {
        ends = is_border(line);
        if ends {
            break;
        }
        yaml.push_str(line);
    }
    if !ends {
        return Err("begins with a line of hyphens as facts do, and no other line ends them".to_owned());
    }
    match serde_saphyr::from_str::<Yaml>(&yaml) {
        Ok(Yaml::Object(facts)) => Ok(facts),
        Ok(Yaml::Null) => Ok(Map::new()),
        Ok(_) => Err("the facts at its beginning are no list of names and values".to_owned()),
        Err(e) => Err(format!("the facts at its beginning are no YAML: {}", first_line(&e.to_string()))),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn write(facts: &Map<String, Yaml>, metadata: &mut Metadata) {
    for (key, names) in TEXTS {
        if let Some(found) = names.iter().find_map(|name| facts.get(*name)) {
            let found = texts(found);
            if !found.is_empty() {
                metadata.set(key, Value::String(found.join(",")));
            }
        }
    }
    for (key, names) in REPOSITORIES {
        let Some(found) = names.iter().find_map(|name| facts.get(*name)) else { continue };
        let found = repositories(found);
        if found.is_empty() {
            continue;
        }
        metadata.set(format!("{key}.count"), Value::U32(found.len() as u32));
        for (number, repository) in found.iter().enumerate() {
            for (field, value) in repository {
                metadata.set(format!("{key}.{number}.{field}"), Value::String(value.clone()));
            }
        }
    }
    for (key, names) in LISTS {
        let found: Vec<String> = names.iter().filter_map(|name| facts.get(*name)).flat_map(texts).collect();
        if !found.is_empty() {
            metadata.set(key, Value::Strings(found));
        }
    }
}

/// One text, or those of a list.
fn texts(value: &Yaml) -> Vec<String> {
    match value {
        Yaml::String(text) => vec![text.clone()],
        Yaml::Number(number) => vec![number.to_string()],
        // Norwegian's code is a truth value to some readers of YAML.
        Yaml::Bool(false) => vec!["no".to_owned()],
        Yaml::Bool(true) => vec!["true".to_owned()],
        Yaml::Array(list) => list.iter().flat_map(texts).collect(),
        Yaml::Null | Yaml::Object(_) => Vec::new(),
    }
}

/// The fields of repositories: `org/name` on the hub, addresses, or fields as GGUF has them.
fn repositories(value: &Yaml) -> Vec<Vec<(&'static str, String)>> {
    const FIELDS: [&str; 9] =
        ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];
    match value {
        Yaml::Array(list) => list.iter().flat_map(repositories).collect(),
        Yaml::String(text) => vec![repository(text)],
        Yaml::Object(fields) => {
            let field = |name: &'static str| Some((name, fields.get(name)?.as_str()?.to_owned()));
            vec![FIELDS.into_iter().filter_map(field).collect()]
        }
        Yaml::Null | Yaml::Bool(_) | Yaml::Number(_) => Vec::new(),
    }
}

fn repository(text: &str) -> Vec<(&'static str, String)> {
    let is_address = ["http://", "https://", "ssh://"].iter().any(|scheme| text.starts_with(scheme));
    let id = if is_address { text.strip_prefix(HUB) } else { Some(text) };
    let mut parts = id.unwrap_or_default().split('/');
    let (first, second, more) = (parts.next().filter(|part| !part.is_empty()), parts.next(), parts.next());
    let mut fields = match (first, second, more) {
        (Some(organization), Some(name), None) => {
            vec![("name", title(name)), ("organization", title(organization))]
        }
        (Some(name), None, _) => vec![("name", title(name))],
        _ => Vec::new(),
    };
    if is_address {
        fields.push(("repo_url", text.to_owned()));
    } else if fields.len() == 2 {
        fields.push(("repo_url", format!("{HUB}{text}")));
    }
    fields
}

/// An id as a title: words for hyphens, with a capital where a word is in small letters and no version or number.
fn title(id: &str) -> String {
    let word = |word: &str| {
        let is_version =
            word.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        let is_lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if is_lower && !is_version && !is_number => {
                first.to_uppercase().chain(letters).collect()
            }
            _ => word.to_owned(),
        }
    };
    id.split('-').filter(|part| !part.is_empty()).map(word).collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(card: &str) -> Vec<(String, Value)> {
        let mut metadata = Metadata::default();
        write(&facts(card.as_bytes()).expect("facts"), &mut metadata);
        metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }

    #[test]
    fn facts_of_a_card_become_metadata() {
        let card = "---\nlicense: other\nlicense_name: deepseek\ntags: [moe, chat]\npipeline_tag: text-generation\n\
                    language:\n- en\n- \"no\"\nbase_model: deepseek-ai/DeepSeek-R1-zero\n\
                    datasets: https://example.org/text\n---\n# A model\n";
        let text = |text: &str| Value::String(text.to_owned());
        let list = |list: &[&str]| Value::Strings(list.iter().map(|&text| text.to_owned()).collect());
        let expected = [
            ("general.license", text("other")),
            ("general.license.name", text("deepseek")),
            ("general.base_model.count", Value::U32(1)),
            ("general.base_model.0.name", text("DeepSeek R1 Zero")),
            ("general.base_model.0.organization", text("Deepseek Ai")),
            ("general.base_model.0.repo_url", text("https://huggingface.co/deepseek-ai/DeepSeek-R1-zero")),
            ("general.dataset.count", Value::U32(1)),
            ("general.dataset.0.repo_url", text("https://example.org/text")),
            ("general.tags", list(&["moe", "chat", "text-generation"])),
            ("general.languages", list(&["en", "no"])),
        ];
        assert_eq!(written(card), expected.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn a_card_without_facts_has_none_and_one_that_breaks_off_is_a_fault() {
        assert_eq!(written("# A model\n---\nlicense: mit\n---\n"), []);
        assert_eq!(written(""), []);
        assert_eq!(written("---\n---\n"), []);
        for wrong in ["---\nlicense: mit\n", "---\n- a\n---\n", "---\na: [\n---\n"] {
            assert!(facts(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(facts(b"---\na: \xff\n---\n").is_err());
    }

    #[test]
    fn versions_and_numbers_stay_in_titles() {
        assert_eq!(title("Mistral-7b-instruct-v0.2"), "Mistral 7b Instruct v0.2");
        assert_eq!(title("smol--lm"), "Smol Lm");
    }
}
