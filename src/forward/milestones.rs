//! A folder of the user's with the hidden states of a text before chosen layers of the original model. Work on some of
//! the layers begins from the nearest, and does not go through all the layers before.
//!
//! For each layer there are two files: `hidden-16.f32`, the states, and `hidden-16.f32.json`, which says what they are
//! of and has their checksum. It is written last. The folder is not locked: whoever makes the same states writes the same
//! bytes, and each file has its name when it is whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::states::States;
use super::states_file::{self, Sum};
use crate::checkpoint::Fingerprint;
use crate::disk;
use crate::error::{Error, Result};
use crate::gguf::beside;
use crate::identity::{Identity, TOOL, hex, of_tokens};
use crate::model::Description;
use crate::whole;

/// What is appended to the name of states for the name of their note.
pub const NOTE: &str = ".json";

/// The most bytes that a note has.
const MAX_NOTE: u64 = 1 << 20;

/// The folder, and what its states must be of.
#[derive(Clone, Debug)]
pub struct Milestones {
    folder: PathBuf,
    identity: Identity,
    /// The option that names the folder.
    option: &'static str,
}

#[derive(Serialize, Deserialize)]
struct Note {
    identity: Identity,
    file: Sum,
}

impl Milestones {
    /// The states of these tokens, chunks of `context` after one another, in the folder, which need not be there yet.
    pub fn new(
        folder: &Path,
        source: &Fingerprint,
        model: &Description,
        tokens: &[u32],
        context: usize,
    ) -> Self {
        let computed: [u8; 32] = Sha256::digest(format!("{:?}", model.computed())).into();
        let parts = [
            ("the tool", TOOL.to_owned()),
            ("the model", hex(&computed)),
            ("--context", context.to_string()),
            ("the text's tokens", of_tokens(tokens)),
        ];
        let identity = Identity::new(source.parts().into_iter().chain(parts));
        Self { folder: folder.to_owned(), identity, option: "--states" }
    }

    /// The same, of a folder that another option names.
    #[must_use]
    pub fn of_option(self, option: &'static str) -> Self {
        Self { option, ..self }
    }

    /// Whether the states before a layer are there.
    ///
    /// # Errors
    /// If there are states of something else, or the folder cannot be read.
    pub fn has(&self, layer: usize) -> Result<bool> {
        self.has_file(&file_name(layer))
    }

    /// Whether a file is there, of states or of gradients at them.
    ///
    /// # Errors
    /// As [`has`](Self::has).
    pub fn has_file(&self, name: &str) -> Result<bool> {
        self.note(name).map(|note| note.is_some())
    }

    /// The last layer up to this one before which the states are there.
    ///
    /// # Errors
    /// As [`has`](Self::has).
    pub fn last(&self, layer: usize) -> Result<Option<usize>> {
        for layer in (1..=layer).rev() {
            if self.has(layer)? {
                return Ok(Some(layer));
            }
        }
        Ok(None)
    }

    /// Keeps the states before a layer.
    ///
    /// # Errors
    /// If there are states of something else, or the system cannot.
    pub fn keep(&self, layer: usize, states: &mut States) -> Result<()> {
        self.keep_file(&file_name(layer), states)
    }

    /// Keeps states, or gradients at them, in a file of this name.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub fn keep_file(&self, name: &str, states: &States) -> Result<()> {
        if self.has_file(name)? {
            return Ok(());
        }
        fs::create_dir_all(&self.folder).map_err(|e| Error::io("create", &self.folder, e))?;
        let path = self.folder.join(name);
        let file = states_file::write(&path, states)?;
        let note = Note { identity: self.identity.clone(), file };
        let json = serde_json::to_vec(&note).expect("names and numbers are JSON");
        let path = beside(&path, NOTE);
        disk::write_whole(&path, &json).map_err(|e| Error::io("write", &path, e))
    }

    /// Removes a file that is not needed any more, its note first.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn remove_file(&self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        for path in [beside(&path, NOTE), path] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &path, e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the states before a layer.
    ///
    /// # Errors
    /// If they are not there as they were written.
    pub fn restore(&self, layer: usize, states: &mut States) -> Result<()> {
        self.restore_file(&file_name(layer), states)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn restore_file(&self, name: &str, states: &mut States) -> Result<()> {
        let path = self.folder.join(name);
        let found = Sum::of(&path).map_err(|e| Error::io("read", &path, e))?;
        if self.note(name)?.is_none_or(|note| note.file != found) {
            return Err(
                self.fault(&path, "is not as it was written; remove it, and calibrate makes it again")
            );
        }
        states_file::read(&path, states)
    }

    fn note(&self, name: &str) -> Result<Option<Note>> {
        let path = beside(&self.folder.join(name), NOTE);
        let fault = |problem: String| Error::io("read", &path, std::io::Error::other(problem));
        let bytes = match whole::read(&path, MAX_NOTE, fault) {
            Ok(bytes) => bytes,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(note) = serde_json::from_slice::<Note>(&bytes) else {
            return Err(self.fault(&path, "is no note of quantpress's about hidden states"));
        };
        match note.identity.differing(&self.identity) {
            None => Ok(Some(note)),
            Some(differing) => Err(self.fault(&path, &format!("is of other states: {differing}"))),
        }
    }

    fn fault(&self, path: &Path, problem: &str) -> Error {
        Error::Argument(format!("{}: {} {problem}", self.option, path.display()))
    }
}

/// The name of the states before a layer, in such a folder.
pub fn file_name(layer: usize) -> String {
    format!("hidden-{layer}.f32")
}
