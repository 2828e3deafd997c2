//! Which files hold the weights, and which tensor is in which: by the index, or by the names of the files.

use std::collections::{BTreeMap, HashMap};

use super::index::Listed;
use super::{MAX_JSON, SINGLE, Source, Tensor, Wanted, exists, header, index, read_file, refuse_stand_in};
use super::{Shard, hex};
use crate::error::{Error, Result};

/// All tensors, the files that they are in, and what names the tensors, for messages.
pub struct Found {
    /// The tensors by name.
    pub tensors: HashMap<String, Tensor>,
    /// The shards, in order.
    pub shards: Vec<Shard>,
    /// The index, or the first file of weights.
    pub listing: String,
}

/// Finds the weights: in the shards of the index, else in model.safetensors, else in a whole set of numbered shards,
/// else in the only safetensors file that there is.
///
/// # Errors
/// If there are none, some are missing or damaged, or two claim a tensor without an index that decides.
pub fn find(source: &dyn Source) -> Result<Found> {
    if exists(source, index::INDEX)? {
        return indexed(source);
    }
    if exists(source, SINGLE)? {
        return together(source, &[SINGLE.to_owned()]);
    }
    let files = source.files("").map_err(|e| Error::io("list", source.path(""), e))?;
    let files: Vec<String> =
        files.into_iter().filter(|file| file.ends_with(".safetensors") && !file.starts_with('.')).collect();
    match numbered(source, &files)? {
        Some(shards) => together(source, &shards),
        None if files.len() == 1 => together(source, &files),
        None if files.is_empty() => {
            let problem =
                format!("is not there, nor is {SINGLE}: the folder holds no safetensors checkpoint");
            Err(Error::file(index::INDEX, problem))
        }
        None => {
            let problem = format!(
                "is not there, and the names of {} do not say which of them are the checkpoint",
                shown(&files)
            );
            Err(Error::file(index::INDEX, problem))
        }
    }
}

/// The whole set of `NAME-00001-of-00004.safetensors` among the files, if there is one.
///
/// # Errors
/// If one of the set is missing.
fn numbered(source: &dyn Source, files: &[String]) -> Result<Option<Vec<String>>> {
    let mut sets: BTreeMap<(&str, &str), BTreeMap<u32, &String>> = BTreeMap::new();
    for file in files {
        if let Some((name, number, of)) = parts(file) {
            sets.entry((name, of)).or_default().insert(number, file);
        }
    }
    // The usual name goes before others; among those no choice is made.
    let of_model: Vec<_> = sets.keys().filter(|(name, _)| *name == "model").copied().collect();
    let key = match (&of_model[..], sets.len()) {
        ([key], _) => *key,
        ([], 1) => *sets.keys().next().expect("one"),
        _ => return Ok(None),
    };
    let (set, count) = (&sets[&key], key.1.parse().unwrap_or(0));
    if let Some(first) = (1..=count).find(|number| !set.contains_key(number)) {
        let width = digits_of(set.values().next().expect("a set has files"));
        let name = format!("{}-{first:0width$}-of-{}.safetensors", key.0, key.1);
        let missing = count as usize - set.len();
        return Err(Error::file(&name, gone(source, &name, missing, count as usize, "is one of a set")));
    }
    Ok(Some(set.values().map(|file| (*file).clone()).collect()))
}

/// `model-00001-of-00004.safetensors` as name, number and count.
fn parts(file: &str) -> Option<(&str, u32, &str)> {
    let (rest, of) = file.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    (digits(number) && digits(of)).then_some(())?;
    let (number, count): (u32, u32) = (number.parse().ok()?, of.parse().ok()?);
    (1..=count).contains(&number).then_some((name, number, of))
}

/// Digits of a shard's number.
fn digits_of(file: &str) -> usize {
    file.rsplit_once("-of-").and_then(|(rest, _)| rest.rsplit_once('-')).map_or(5, |(_, number)| number.len())
}

/// The error about a shard that is not there.
fn gone(source: &dyn Source, shard: &str, missing: usize, of: usize, listed: &str) -> String {
    let verb = if missing == 1 { "is" } else { "are" };
    format!(
        "{listed}, but is not there: {}; {missing} of {of} shards {verb} missing",
        source.path(shard).display()
    )
}

fn shown(files: &[String]) -> String {
    let first: Vec<&str> = files.iter().take(4).map(String::as_str).collect();
    let more = if files.len() > 4 { format!(" and {} more", files.len() - 4) } else { String::new() };
    format!("{}{more}", first.join(", "))
}

/// All tensors of these files, each of which may be in one of them only.
fn together(source: &dyn Source, files: &[String]) -> Result<Found> {
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut shards = Vec::with_capacity(files.len());
    for (file, (shard, found)) in files.iter().zip(read_shards(source, files)?) {
        shards.push(shard);
        for tensor in found {
            if let Some(other) = tensors.get(&tensor.name) {
                let problem = format!(
                    "is also in {}, and there is no {} to say which one counts",
                    other.shard,
                    index::INDEX
                );
                return Err(Error::tensor(file, &tensor.name, problem));
            }
            tensors.insert(tensor.name.clone(), tensor);
        }
    }
    let more = if files.len() > 1 { format!(" and {} more", files.len() - 1) } else { String::new() };
    Ok(Found { tensors, shards, listing: format!("{}{more}", files[0]) })
}

/// The tensors that the index lists, each found in the shard it names.
fn indexed(source: &dyn Source) -> Result<Found> {
    let index = read_file(source, index::INDEX, MAX_JSON)?;
    let Listed { tensors: mut listed, shards: files } = index::parse(&index)?;
    drop(index);
    let mut missing = Vec::new();
    for file in &files {
        if !exists(source, file)? {
            missing.push(file);
        }
    }
    if let Some(first) = missing.first() {
        let problem = gone(source, first, missing.len(), files.len(), "is listed in the index");
        return Err(Error::file(first, problem));
    }
    let mut tensors = HashMap::with_capacity(listed.len());
    let mut shards = Vec::with_capacity(files.len());
    for (file, (shard, found)) in files.iter().zip(read_shards(source, &files)?) {
        shards.push(shard);
        for tensor in found {
            // What another shard also holds, or no index lists, is not part of the model.
            if listed.get(&tensor.name).is_some_and(|listed| **listed == **file)
                && let Some((name, _)) = listed.remove_entry(&tensor.name)
            {
                tensors.insert(name, tensor);
            }
        }
    }
    // What is left was not found.
    let absent: BTreeMap<_, _> = listed.iter().collect();
    match absent.first_key_value() {
        None => Ok(Found { tensors, shards, listing: index::INDEX.to_owned() }),
        Some((name, shard)) => {
            let more = if absent.len() > 1 {
                format!(" ({} more like it)", absent.len() - 1)
            } else {
                String::new()
            };
            Err(Error::tensor(
                index::INDEX,
                name,
                format!("is said to be in {shard}, which does not have it{more}"),
            ))
        }
    }
}

/// Reads and checks the headers of all shards, in their order: at once where they are far away.
fn read_shards(source: &dyn Source, files: &[String]) -> Result<Vec<(Shard, Vec<Tensor>)>> {
    let io = |file: &str, e| Error::io("read", source.path(file), e);
    let sizes = files.iter().map(|file| source.size(file).map_err(|e| io(file, e)));
    let sizes = sizes.collect::<Result<Vec<u64>>>()?;
    let read = |places: &mut dyn Iterator<Item = (u64, u64)>| -> Result<Vec<Vec<u8>>> {
        let piece = |(file, (offset, length)): (&String, (u64, u64))| Wanted {
            file: file.clone(),
            offset,
            bytes: vec![0; length as usize],
        };
        let mut wanted: Vec<Wanted> = files.iter().zip(places).map(piece).collect();
        source.read_all(&mut wanted).map_err(|(index, e)| io(&files[index], e))?;
        Ok(wanted.into_iter().map(|piece| piece.bytes).collect())
    };
    let mut lengths = Vec::with_capacity(files.len());
    let starts = read(&mut sizes.iter().map(|&size| (0, size.min(64))))?;
    for ((file, start), &size) in files.iter().zip(starts).zip(&sizes) {
        refuse_stand_in(file, &start)?;
        let Some(length) = start.first_chunk().copied().map(u64::from_le_bytes) else {
            return Err(Error::file(file, format!("has {size} bytes; a safetensors header alone takes 8")));
        };
        if length > header::MAX_HEADER || length > size - 8 {
            let problem = format!("says its header has {length} bytes, but {} follow", size - 8);
            return Err(Error::file(file, problem));
        }
        lengths.push(length);
    }
    let headers = read(&mut lengths.iter().map(|&length| (8, length)))?;
    let shard = |((file, json), &bytes): ((&String, Vec<u8>), &u64)| {
        let tensors = header::parse(file, &json, bytes)?;
        Ok((Shard { file: file.clone(), bytes, header_sha256: hex(&json) }, tensors))
    };
    files.iter().zip(headers).zip(&sizes).map(shard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards_have_numbers() {
        assert_eq!(parts("model-00002-of-000163.safetensors"), Some(("model", 2, "000163")));
        assert_eq!(parts("a-b-1-of-1.safetensors"), Some(("a-b", 1, "1")));
        for other in [
            "model.safetensors",
            "model-00000-of-00002.safetensors",
            "model-3-of-2.safetensors",
            "model-x-of-2.safetensors",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
