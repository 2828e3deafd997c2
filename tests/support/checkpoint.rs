//! Copies of the fixture with something changed, and shards taken apart.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tempfile::TempDir;

use super::fixture;

/// A copy of tiny-r1 that may be changed; unchanged files are links to the fixture's.
pub struct Copy {
    folder: TempDir,
}

impl Copy {
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        for file in fs::read_dir(fixture("tiny-r1")).expect("the fixture is there") {
            let file = file.expect("a file of the fixture");
            let copy = folder.path().join(file.file_name());
            #[cfg(unix)]
            std::os::unix::fs::symlink(file.path(), copy).expect("a link");
            #[cfg(not(unix))]
            fs::copy(file.path(), copy).map(drop).expect("a copy");
        }
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        self.remove(name);
        fs::write(self.file(name), bytes).expect("written");
    }

    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.file(name));
    }

    /// Changes a JSON file.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.file(name)).expect("read")).expect("JSON");
        change(&mut value);
        self.write(name, value.to_string().as_bytes());
    }

    /// The shard that the index says holds the tensor.
    pub fn shard_of(&self, tensor: &str) -> String {
        let index = fs::read(self.file("model.safetensors.index.json")).expect("read");
        let index: Value = serde_json::from_slice(&index).expect("JSON");
        index["weight_map"][tensor].as_str().unwrap_or_else(|| panic!("{tensor} is in the index")).to_owned()
    }

    /// Changes the shard that holds the tensor.
    pub fn edit_shard(&self, tensor: &str, change: impl FnOnce(&mut Shard)) {
        let name = self.shard_of(tensor);
        let mut shard = Shard::parse(&fs::read(self.file(&name)).expect("read"));
        change(&mut shard);
        self.write(&name, &shard.bytes());
    }
}

/// A safetensors file in its two parts.
pub struct Shard {
    pub header: Map<String, Value>,
    pub data: Vec<u8>,
}

impl Shard {
    pub fn parse(bytes: &[u8]) -> Self {
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
        Self { header, data: bytes[8 + length..].to_vec() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        with_header(Value::Object(self.header.clone()).to_string().as_bytes(), &self.data)
    }

    /// The tensor's bytes.
    pub fn tensor(&mut self, name: &str) -> &mut [u8] {
        let offset = |i: usize| self.header[name]["data_offsets"][i].as_u64().expect("an offset") as usize;
        let range = offset(0)..offset(1);
        &mut self.data[range]
    }

    /// Takes the tensor out, data and all, so that what remains is a sound shard.
    pub fn take(&mut self, name: &str) {
        let entry = self.header.remove(name).unwrap_or_else(|| panic!("{name} is in the shard"));
        let offset = |entry: &Value, i: usize| entry["data_offsets"][i].as_u64().expect("an offset");
        let (begin, end) = (offset(&entry, 0), offset(&entry, 1));
        self.data.drain(begin as usize..end as usize);
        for other in self.header.values_mut().filter(|v| v.get("data_offsets").is_some()) {
            if offset(other, 0) >= end {
                let moved = [offset(other, 0) - (end - begin), offset(other, 1) - (end - begin)];
                other["data_offsets"] = moved.to_vec().into();
            }
        }
    }
}

/// The bytes of a safetensors file.
pub fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}
