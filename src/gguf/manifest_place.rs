//! `FILE.json`, the place of a file's manifest. Only an older manifest may be there when the work begins, and a file
//! that appears there during the work is not replaced.

use std::path::{Path, PathBuf};

use super::beside;
use crate::disk::{self, Create};
use crate::error::{Error, Result};

/// What every manifest begins with.
const MANIFEST: &[u8] = b"{\n  \"tool\": \"quantpress ";

/// The place, as it was when the work began.
#[derive(Clone, Debug)]
pub struct ManifestPlace {
    path: PathBuf,
    /// The manifest that is replaced.
    before: Option<disk::Id>,
    force: bool,
}

impl ManifestPlace {
    /// The place of the manifest of `file`; with `force` any file there is replaced.
    ///
    /// # Errors
    /// If something else is there.
    pub fn beside(file: &Path, force: bool) -> Result<Self> {
        let path = beside(file, ".json");
        let before = disk::id(&path);
        let found = path.symlink_metadata();
        if found.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
            return Err(Error::Argument(format!(
                "{} is a folder; the manifest is written there",
                path.display()
            )));
        }
        match found {
            Ok(_) if !force && !is_manifest(&path) => Err(Error::Exists(path)),
            _ => Ok(Self { path, before, force }),
        }
    }

    /// Writes the manifest, whole or not at all.
    ///
    /// # Errors
    /// If the system cannot, or another file has come there.
    pub fn write(&self, text: &[u8]) -> Result<()> {
        let is_same = self.before.is_some() && disk::id(&self.path) == self.before;
        let written = match self.force || is_same {
            true => disk::write_whole(&self.path, text),
            false => disk::write_new(&self.path, text),
        };
        written.map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists(self.path.clone()),
            _ => Error::io("write", &self.path, e),
        })
    }
}

fn is_manifest(path: &Path) -> bool {
    let mut found = [0; MANIFEST.len()];
    let file = disk::open_own(path, Create::Never);
    file.is_ok_and(|file| disk::read_exact_at(&file, 0, &mut found).is_ok()) && found == *MANIFEST
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_comes_there_meanwhile_is_not_replaced() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let file = folder.path().join("a.gguf");
        let path = beside(&file, ".json");
        let manifest = [MANIFEST, b"1\"}"].concat();
        // Nothing, then somebody's notes.
        let place = ManifestPlace::beside(&file, false).expect("free");
        fs::write(&path, "notes").expect("written");
        assert!(matches!(place.write(&manifest), Err(Error::Exists(_))));
        assert_eq!(fs::read(&path).expect("there"), b"notes");
        assert!(matches!(ManifestPlace::beside(&file, false), Err(Error::Exists(_))));
        // By force, and then in place of an older manifest, but not of one that another process has put there.
        ManifestPlace::beside(&file, true).expect("forced").write(&manifest).expect("written");
        let [place, second] = [(); 2].map(|()| ManifestPlace::beside(&file, false).expect("an older one"));
        place.write(&manifest).expect("replaced");
        assert!(matches!(second.write(b"other"), Err(Error::Exists(_))));
        assert_eq!(fs::read(&path).expect("there"), manifest);
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a folder");
        for force in [false, true] {
            let error = ManifestPlace::beside(&file, force).expect_err("a folder").to_string();
            assert!(error.contains("a.gguf.json is a folder"), "{error}");
        }
    }
}
