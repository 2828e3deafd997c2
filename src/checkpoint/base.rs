//! A checkpoint with a second one under it: what it does not give comes from there, by names of its own.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Checkpoint, Source, Tensor};

/// What names of tensors and files of the second one begin with, so that they are not those of the first.
pub const BASE: &str = "base:";

impl Checkpoint {
    /// This checkpoint with all tensors and files of `base` besides, their names behind [`BASE`].
    #[must_use]
    pub fn over(mut self, base: Self) -> Self {
        self.tensors.extend(base.tensors.into_values().map(|tensor| {
            let name = format!("{BASE}{}", tensor.name);
            let shard: Arc<str> = format!("{BASE}{}", tensor.shard).into();
            (name.clone(), Tensor { name, shard, ..tensor })
        }));
        let shards = base.shards.into_iter().map(|mut shard| {
            shard.file.insert_str(0, BASE);
            shard
        });
        self.shards.extend(shards);
        self.source = Box::new(Both { first: self.source, base: base.source });
        self
    }
}

/// Two places of files.
#[derive(Debug)]
struct Both {
    first: Box<dyn Source>,
    base: Box<dyn Source>,
}

impl Both {
    /// Where a file is, and its name there.
    fn of<'a>(&self, file: &'a str) -> (&dyn Source, &'a str) {
        match file.strip_prefix(BASE) {
            Some(file) => (&*self.base, file),
            None => (&*self.first, file),
        }
    }
}

impl Source for Both {
    fn size(&self, file: &str) -> io::Result<u64> {
        let (source, file) = self.of(file);
        source.size(file)
    }

    fn version(&self, file: &str) -> io::Result<Option<String>> {
        let (source, file) = self.of(file);
        source.version(file)
    }

    fn buffers(&self) -> u64 {
        self.first.buffers() + self.base.buffers()
    }

    fn read_at(&self, file: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (source, file) = self.of(file);
        source.read_at(file, offset, buffer)
    }

    fn files(&self, folder: &str) -> io::Result<Vec<String>> {
        self.first.files(folder)
    }

    fn forget(&self, file: &str, range: Range<u64>) {
        let (source, file) = self.of(file);
        source.forget(file, range);
    }

    fn path(&self, file: &str) -> PathBuf {
        let (source, file) = self.of(file);
        source.path(file)
    }
}
