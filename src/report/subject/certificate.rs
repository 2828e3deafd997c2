//! The certificate of a file: the output of `evaluate --json`, which names its file by SHA-256.

use std::path::Path;

use serde::Deserialize;

use super::Subject;
use super::bound::bound;
use crate::error::{Error, Result};
use crate::evaluate::{Certificate, Statistics};
use crate::whole;

/// Larger files are no certificates.
const MAX_FILE: u64 = 16 << 20;

/// More texts than a reader looks at.
const MAX_TEXTS: usize = 1024;

/// More layers than a chart can show.
const MAX_LAYERS: usize = 4096;

/// The fields of the output that are shown.
#[derive(Deserialize)]
struct Output {
    #[serde(flatten)]
    certificate: Certificate,
    files_sha256: Option<Vec<String>>,
}

/// The certificate in this file, which must be of what the subject shows.
///
/// # Errors
/// If the file cannot be read, holds something else or impossible figures, or is of another file.
pub fn read_certificate(path: &Path, subject: &Subject) -> Result<Certificate> {
    let fault = |problem: String| Error::Argument(format!("{}: {problem}", path.display()));
    let text = whole::read(path, MAX_FILE, fault)?;
    let Output { certificate, files_sha256 } =
        serde_json::from_slice(&text).map_err(|e| fault(format!("is no output of evaluate --json: {e}")))?;
    if !is_possible(&certificate) {
        return Err(fault("has impossible figures".into()));
    }
    let unbound = "does not say of which file it is (it has no files_sha256): evaluate the file again";
    let digests = files_sha256.ok_or_else(|| fault(unbound.into()))?;
    bound(subject, &digests).map_err(fault)?;
    Ok(certificate)
}

fn is_possible(certificate: &Certificate) -> bool {
    let are_possible = |s: &Statistics| {
        let figures = [s.perplexity_reference, s.perplexity, s.kl_median, s.kl_p99];
        figures.iter().all(|&figure| figure >= -1e-3 && figure.is_finite())
            && s.kl_mean.is_finite()
            && s.kl_mean_error.is_none_or(|error| (0.0..1e30).contains(&error))
            && (0.0..=1.0).contains(&s.same_top)
    };
    let layers = &certificate.layers;
    are_possible(&certificate.statistics)
        && certificate.by_text.len() <= MAX_TEXTS
        && certificate.by_text.iter().all(|of_text| are_possible(&of_text.statistics))
        && certificate.answers.is_none_or(|answers| answers.is_possible())
        && layers.len() <= MAX_LAYERS
        && layers.iter().zip(0..).all(|(l, place)| l.layer == place && (0.0..1e30).contains(&l.error))
}
