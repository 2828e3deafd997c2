//! What is kept between layers, so that interrupted work goes on: a folder beside the output, with the hidden states
//! after the last finished layer, and whatever else the work wants to find there.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::states::States;
use crate::disk;
use crate::error::{Error, Result};

/// Tokens whose states are copied at a time.
const BATCH: usize = 256;

/// The folder; it is made when something is kept.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    fingerprint: String,
}

/// What is done: renamed into place last, so that it never promises more than there is.
#[derive(Serialize, Deserialize)]
struct Done {
    fingerprint: String,
    layers: usize,
}

const DONE: &str = "done.json";

impl Saved {
    /// The folder at `path`; `fingerprint` stands for everything that the result depends on.
    pub fn new(path: PathBuf, fingerprint: String) -> Self {
        Self { path, fingerprint }
    }

    /// Makes the folder, if it is not there.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.path).map_err(|e| Error::io("create", &self.path, e))
    }

    /// Layers that are finished, of the same work; anything else that lies there does not count.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn layers(&self) -> Result<usize> {
        let path = self.path.join(DONE);
        let done = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Done>(&bytes).ok(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("read", path, e)),
        };
        Ok(done.filter(|done| done.fingerprint == self.fingerprint).map_or(0, |done| done.layers))
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn hidden(&self, layers: usize) -> PathBuf {
        self.path.join(format!("hidden-{layers}.f32"))
    }

    /// Keeps the states after so many layers, whose other results are already durable.
    ///
    /// # Errors
    /// If the disk is full, say.
    pub fn keep(&self, layers: usize, states: &mut States) -> Result<()> {
        self.create()?;
        let path = self.hidden(layers);
        let io = |e| Error::io("write", &path, e);
        let mut file = BufWriter::new(File::create(&path).map_err(io)?);
        for start in (0..states.rows()).step_by(BATCH) {
            let rows = states.read(start..states.rows().min(start + BATCH))?;
            file.write_all(bytemuck::cast_slice(rows.values())).map_err(io)?;
        }
        file.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)?;
        let done = Done { fingerprint: self.fingerprint.clone(), layers };
        let path = self.path.join(DONE);
        let json = serde_json::to_vec(&done).expect("a name and a number are JSON");
        disk::write_whole(&path, &json).map_err(|e| Error::io("write", &path, e))?;
        if layers > 0 {
            let _ = fs::remove_file(self.hidden(layers - 1));
        }
        Ok(())
    }

    /// Reads the states after so many layers.
    ///
    /// # Errors
    /// If the file is not whole.
    pub fn restore(&self, layers: usize, states: &mut States) -> Result<()> {
        let path = self.hidden(layers);
        let io = |e| Error::io("read", &path, e);
        let mut file = BufReader::new(File::open(&path).map_err(io)?);
        let columns = states.columns();
        for start in (0..states.rows()).step_by(BATCH) {
            let rows = BATCH.min(states.rows() - start);
            let mut values = vec![0f32; rows * columns];
            file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(io)?;
            states.write(start, &values)?;
        }
        Ok(())
    }

    /// Removes the folder, if it is there: the work is done.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &self.path, e)),
            _ => Ok(()),
        }
    }
}
