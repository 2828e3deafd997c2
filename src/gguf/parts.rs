//! A model in one file, or in llama.cpp's numbered split files, which must all be there and agree.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::{Contents, Entry, Value};
use crate::error::{Error, Result};

/// The files of one model, in order.
#[derive(Debug)]
pub struct Parts {
    /// At least one.
    pub files: Vec<Part>,
}

/// One file.
#[derive(Debug)]
pub struct Part {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub contents: Contents,
}

impl Parts {
    /// Reads the headers of a model, whole or split, by the path of any of its files.
    ///
    /// # Errors
    /// If one is damaged or holds more than its tensors, or a part is missing or belongs to another model.
    pub fn read(path: &Path) -> Result<Self> {
        let given = Part::read(path)?;
        let count = given.key("split.count")?.unwrap_or(1);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let numbered = numbered(&name);
        let files = match numbered {
            Some(numbered) if count > 1 || numbered.count > 1 => {
                if count != numbered.count {
                    let problem = format!("split.count is {count}, but the name says {}", numbered.count);
                    return Err(given.fault(problem));
                }
                let file = |number: u64| Part::read(&path.with_file_name(numbered.name(number)));
                (1..=count).map(file).collect::<Result<Vec<_>>>()?
            }
            None if count > 1 => {
                let problem =
                    format!("split.count is {count}, but the name is not NAME-00001-of-{count:05}.gguf");
                return Err(given.fault(problem));
            }
            _ => vec![given],
        };
        let parts = Self { files };
        if count > 1 {
            parts.agree(count)?;
        }
        Ok(parts)
    }

    /// The metadata of the model, which the first file holds.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.files[0].contents.metadata
    }

    /// Every tensor, with the place of its file.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.files
            .iter()
            .enumerate()
            .flat_map(|(number, part)| part.contents.tensors.iter().map(move |t| (number, t)))
    }

    fn agree(&self, count: u64) -> Result<()> {
        let expect = |part: &Part, key: &str, expected: u64| match part.key(key)? {
            Some(found) if found == expected => Ok(()),
            found => {
                let found = found.map_or("missing".to_owned(), |n| n.to_string());
                Err(part.fault(format!("{key} is {found}; expected {expected}")))
            }
        };
        for (number, part) in self.files.iter().enumerate() {
            expect(part, "split.no", number as u64)?;
            expect(part, "split.count", count)?;
        }
        let all = self.tensors().count() as u64;
        let mut seen = HashSet::new();
        for part in &self.files {
            expect(part, "split.tensors.count", all)?;
            if let Some(twice) =
                part.contents.tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str()))
            {
                return Err(part.fault(format!("tensor \"{}\" is also in a part before", twice.name)));
            }
        }
        Ok(())
    }
}

impl Part {
    /// Reads the header of one file, whatever its name.
    ///
    /// # Errors
    /// If it is damaged or the file holds more than its tensors.
    pub fn read(path: &Path) -> Result<Self> {
        let part = Self { path: path.to_owned(), contents: Contents::read(path)? };
        let Contents { end, file_size, .. } = part.contents;
        if file_size > end {
            return Err(part.fault(format!("has {file_size} bytes, but its tensors end at {end}")));
        }
        Ok(part)
    }

    /// A whole number of the metadata.
    fn key(&self, key: &str) -> Result<Option<u64>> {
        match self.contents.metadata.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.fault(format!("{key} is {value:?}; expected a number"))),
            },
        }
    }

    fn fault(&self, problem: String) -> Error {
        Error::Gguf { file: self.path.display().to_string(), problem }
    }
}

/// A name like `R1-00002-of-00004.gguf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbered<'a> {
    stem: &'a str,
    count: u64,
}

impl Numbered<'_> {
    fn name(self, number: u64) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

fn numbered(name: &str) -> Option<Numbered<'_>> {
    let five = |digits: &str| -> Option<u64> {
        (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let (count, number) = (five(count)?, five(number)?);
    (1..=count).contains(&number).then_some(Numbered { stem, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_split_files_are_taken_apart() {
        let found = numbered("DeepSeek-R1-UD-IQ1_S-00002-of-00004.gguf").expect("a name with numbers");
        assert_eq!(found, Numbered { stem: "DeepSeek-R1-UD-IQ1_S", count: 4 });
        assert_eq!(found.name(3), "DeepSeek-R1-UD-IQ1_S-00003-of-00004.gguf");
        for name in [
            "R1.gguf",
            "R1-1-of-4.gguf",
            "R1-00005-of-00004.gguf",
            "R1-00000-of-00004.gguf",
            "a-00001-of-00004",
        ] {
            assert_eq!(numbered(name), None, "{name}");
        }
    }
}
