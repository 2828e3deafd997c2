//! Checks by SHA-256 that figures belong to the files that a report shows.

use super::Subject;

/// Holds the digests that a certificate or a run has against those of the manifests.
///
/// # Errors
/// What differs.
pub fn bound(subject: &Subject, digests: &[String]) -> Result<(), String> {
    if !subject.made {
        return Err("is of a finished file, and a plan is none; show its manifest".to_owned());
    }
    let shown = || subject.digests.iter().filter(|(of, _)| *of == "file").map(|(_, digest)| digest);
    if let Some(foreign) = digests.iter().find(|&digest| shown().all(|shown| shown != digest)) {
        let shown: Vec<&str> = shown().map(String::as_str).collect();
        return Err(format!(
            "is of another file: its SHA-256 is {foreign}; the manifest has {}",
            shown.join(", ")
        ));
    }
    match shown().find(|&shown| !digests.contains(shown)) {
        None => Ok(()),
        Some(missing) => {
            Err(format!("is of other files: the one with the SHA-256 {missing} is not among them"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_in_any_order_and_no_others() {
        let text = |digests: &[&str]| digests.iter().map(|&digest| digest.to_owned()).collect::<Vec<_>>();
        let mut subject = Subject {
            digests: vec![("file", "a".into()), ("file", "b".into()), ("source", "c".into())],
            ..Subject::default()
        };
        assert!(bound(&subject, &text(&["a", "b"])).unwrap_err().contains("a plan is none"));
        subject.made = true;
        assert_eq!(bound(&subject, &text(&["b", "a"])), Ok(()));
        assert!(bound(&subject, &text(&["a", "b", "c"])).unwrap_err().contains("SHA-256 is c"));
        assert!(bound(&subject, &text(&["a"])).unwrap_err().contains("SHA-256 b is not among them"));
        assert!(bound(&subject, &[]).is_err());
    }
}
